"""How to make a model see a given length: method, factor, base and price, and what that does to short prompts.

Pure: reads a header and the free memory it is given. The command line prints it, a slider may follow it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from localknobs.engine.cache_layout import cache_bytes
from localknobs.engine.rope import Rope, rope_of_file, rope_of_load
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, Unsupported
from localknobs.gguf_info import Header, read_header
from localknobs.knobs import KNOBS, Knob, Value, flag_words
from localknobs.knobs.rope import ROPE
from localknobs.units import size_text

FACTOR_STEP = 0.25
"""Factors are rounded up to this: the rest is room for the answer."""
UNTOUCHED = 0.01
"""A rotation whose speed changes by less than this share counts as left alone."""
BORNE_FACTOR = 4.0
"""What YaRN's paper and people's measurements find usable without training; beyond it a warning is given."""

BY_HAND = "by hand"

TARGET = replace(
    KNOBS["n_ctx"], name="target_ctx", label="target length", low=256, special=(), flags=("--target-ctx",),
    applies="next answer", help="How many tokens the model is to see; method, factor and base follow from it.",
)  # fmt: skip
"""The length as a slider of its own: it moves the other rows and is none of a load."""

WAY = Knob(
    name="way", lever="context", group="RoPE", kind="choice", choices=("model", "yarn", "ntk", "linear", BY_HAND),
    default="model", label="method", applies="next answer",
    help="How the length is reached: as the file says; YaRN; a larger base (NTK-aware); all rotations slowed alike.",
    cost="None in memory or time.",
    source="arXiv:2309.00071, arXiv:2306.15595",
)  # fmt: skip
"""The ways of reaching it, as a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One way of reaching a length.

    Args:
        name: `model`, `yarn`, `ntk` or `linear`.
        settings: Loading knobs that do it, `n_ctx` among them.
        rope: The rotary positions it makes.
        left_alone: Share of the rotations that stay as they were trained, 0 to 1.
        short_prompts: What it does to prompts within the trained length, one sentence.
    """

    name: str
    settings: Mapping[str, Value]
    rope: Rope
    left_alone: float
    short_prompts: str

    @property
    def values(self) -> dict[str, Value]:
        """The RoPE rows and the context: those that do it, the others at their defaults."""
        return {**{row.name: row.default for row in ROPE}, **self.settings}

    @property
    def flags(self) -> str:
        """The flags that do it."""
        return " ".join(flag_words(self.settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLength:
    """What reaching a length takes.

    Args:
        tokens: The length.
        trained: What the file reaches by itself.
        proposed: The way that is proposed.
        others: The other ways, the better first.
        cache_bytes: Memory of the cache at that length, with the cache types given.
        trained_cache_bytes: The same at the trained length.
        attention_work: How many times the work of reading a prompt that fills the trained length, in attention alone.
        notes: What speaks against it.
    """

    tokens: int
    trained: int
    proposed: Extension
    others: tuple[Extension, ...]
    cache_bytes: int
    trained_cache_bytes: int
    attention_work: float
    notes: tuple[str, ...]

    @property
    def ways(self) -> tuple[Extension, ...]:
        """The proposed way, then the others."""
        return (self.proposed, *self.others)

    def way_of(self, settings: LoadSettings) -> str:
        """Return the name of the way that loading settings go; `by hand` when none of these."""
        for way in self.ways:
            if all(getattr(settings, row.name) == way.values[row.name] for row in ROPE):
                return way.name
        return BY_HAND

    def price(self) -> Iterator[tuple[str, str]]:
        """Yield what the length costs, as (what, how much) pairs."""
        full, trained = size_text(self.cache_bytes), size_text(self.trained_cache_bytes)
        yield "cache", f"{full} when full; {trained} at {self.trained:,} tokens"
        yield "attention", f"{self.attention_work:.3g} times the work of a prompt of {self.trained:,} tokens"


def target_length(
    header: Header, tokens: int, settings: LoadSettings | None = None, free_bytes: int = 0
) -> TargetLength:
    """Say how this model is made to see so many tokens.

    Args:
        header: Of the model.
        tokens: How many, 1 to the row's bound.
        settings: The other loading knobs; their cache types are priced. RoPE knobs in it are ignored.
        free_bytes: Memory that may be used; 0 is not known.

    Raises:
        BadValue: no length.
        Unsupported: the model cannot be extended this way; the message says why.
    """
    if tokens < 1 or tokens > (KNOBS["n_ctx"].high or tokens):
        raise BadValue(f"{tokens} is no length of a context", f"It takes {KNOBS['n_ctx'].range_text()}.")
    settings = settings or LoadSettings(model=header.path)
    own = rope_of_file(header)
    ways = _ways(header, own, tokens)
    cache, before = (cache_bytes(header, replace(settings, n_ctx=size)) for size in (tokens, own.trained))
    return TargetLength(
        tokens=tokens,
        trained=own.trained,
        proposed=ways[0],
        others=tuple(ways[1:]),
        cache_bytes=cache,
        trained_cache_bytes=before,
        attention_work=(tokens / own.trained) ** 2,
        notes=tuple(_notes(own, ways[0], settings, cache, free_bytes)),
    )


def proposed_settings(settings: LoadSettings, tokens: int) -> LoadSettings:
    """Return loading settings with which the model sees so many tokens.

    Raises:
        BadValue: the settings scale RoPE or choose a context already, or the length is none.
        Unsupported, BadFile, NotFound: the model cannot be extended, or read.
    """
    named = [
        KNOBS[name].flags[0]
        for name in ("n_ctx", *(row.name for row in ROPE))
        if getattr(settings, name) != KNOBS[name].default
    ]
    if named:
        raise BadValue(f"--target-ctx chooses {', '.join(named)} itself", "Give either the length or those flags.")
    way = target_length(read_header(settings.model), tokens, settings).proposed
    return replace(settings, **way.settings)  # type: ignore[arg-type]


def _ways(header: Header, own: Rope, tokens: int) -> list[Extension]:
    if tokens <= own.trained:
        return [
            Extension(
                name="model", settings={"n_ctx": tokens}, rope=own, left_alone=1.0,
                short_prompts="Nothing changes: the model was trained for this length.",
            )
        ]  # fmt: skip
    if own.method == "longrope":
        raise Unsupported(
            f"This model scales by LongRoPE to {own.trained:,} tokens; a second scaling would compound with it",
            f"Use at most -c {own.trained}, or a model trained for more.",
        )
    if not own.size:
        raise Unsupported("This model has no rotary positions", "RoPE cannot extend it.")
    original = own.original if own.method in ("linear", "yarn") else own.trained
    factor = math.ceil(tokens / original / FACTOR_STEP) * FACTOR_STEP
    base = own.base * factor ** (
        own.size / max(1, own.size - 2)
    )  # bloc97's rule: the slowest turns factor times slower
    yarn: dict[str, Value] = {"rope_scaling": "yarn", "rope_scale": factor, "yarn_orig_ctx": original}
    linear: dict[str, Value] = {"rope_scaling": "linear", "rope_scale": factor}
    ntk: dict[str, Value] = {"rope_scaling": "none", "rope_freq_base": float(f"{base:.6g}")}
    unscaled = replace(own, method="none", factor=1.0, mix=0.0)
    return [_extension(header, unscaled, name, {"n_ctx": tokens, **knobs}) for name, knobs in
            (("yarn", yarn), ("ntk", ntk), ("linear", linear))]  # fmt: skip


def _extension(header: Header, trained: Rope, name: str, knobs: Mapping[str, Value]) -> Extension:
    rope = rope_of_load(header, LoadSettings(model=header.path, **knobs))  # type: ignore[arg-type]
    pairs = list(zip(trained.speeds(), rope.speeds(), strict=True))
    kept = sum(abs(after / before - 1) < UNTOUCHED for before, after in pairs) / len(pairs)
    short = {
        "yarn": f"Short prompts change a little: {kept:.0%} of the rotations stay as trained, "
        f"the slow ones turn {rope.factor:g} times slower, and attention is sharpened by {rope.attention**2:.2f}.",
        "ntk": f"Short prompts change little at first: the fastest rotations hardly move, the slowest turns "
        f"{pairs[-1][0] / pairs[-1][1]:.3g} times slower. The last part of the length is worse than with YaRN.",
        "linear": f"Short prompts change most: every rotation turns {rope.factor:g} times slower, "
        "so neighbours look closer than they were trained to be.",
    }
    return Extension(name=name, settings=knobs, rope=rope, left_alone=kept, short_prompts=short[name])


def _notes(own: Rope, way: Extension, settings: LoadSettings, needed: int, free: int) -> list[str]:
    notes = []
    if way.name != "model" and own.factors:
        notes.append("The file scales by factors of its own (rope_freqs.weight); this comes on top of them.")
    if way.name != "model" and own.method in ("linear", "yarn") and own.factor != 1:
        notes.append(f"The file's own {own.method} factor of {own.factor:g} is replaced, not multiplied.")
    if way.rope.factor > BORNE_FACTOR:
        notes.append(
            f"A factor of {way.rope.factor:g} is far without training: measure it, "
            "or fine-tune on long texts with the same values."
        )
    if free and needed > free:
        hint = "-ctk q8_0 -ctv q8_0 halve it" if settings.cache_type_k == "f16" else "a shorter length takes less"
        notes.append(f"The cache needs more than the free memory; {hint}.")
    return notes
