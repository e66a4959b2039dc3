"""Rotary positions in numbers: what a file says, what the settings make of it, how fast each pair of values turns.

Pure arithmetic, as llama.cpp computes it (ggml-cpu/ops.cpp rope_yarn, llama-context.cpp); nothing is loaded.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import Literal

from localknobs.engine.refusals import rotary_size
from localknobs.engine.settings import LoadSettings
from localknobs.gguf_info import Header

Method = Literal["none", "linear", "yarn", "longrope"]

BASE, BETA_FAST, BETA_SLOW = 10_000.0, 32.0, 1.0
"""What llama.cpp takes where a file says nothing."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions, of a file or as a load makes them.

    Args:
        method: How positions are scaled.
        factor: How many times the original length is meant to be seen; 1 scales nothing.
        base: Of the rotations: pair i turns by base ** (-2 i / size) a token.
        size: Values of a head that are rotated; pairs are half as many.
        original: Tokens that the rotations were trained for, before any scaling.
        trained: Tokens that the file says it can see: `context_length`.
        mix: YaRN's: 1 leaves fast rotations alone, 0 scales all alike.
        beta_fast, beta_slow: Turns within the original length above which YaRN scales nothing, below which all.
        factors: What the file divides each pair's speed by, besides (`rope_freqs.weight`); may be empty.
    """

    method: Method
    factor: float
    base: float
    size: int
    original: int
    trained: int
    mix: float = 0.0
    beta_fast: float = BETA_FAST
    beta_slow: float = BETA_SLOW
    factors: tuple[float, ...] = ()

    @property
    def scales(self) -> bool:
        """Whether any position is scaled at all."""
        return self.factor != 1 or bool(self.factors) or self.method == "longrope"

    @property
    def attention(self) -> float:
        """What queries and keys are multiplied by: YaRN's 0.1 ln(factor) + 1."""
        return 1 + 0.1 * math.log(self.factor) if self.method == "yarn" and self.mix and self.factor > 1 else 1.0

    @property
    def window(self) -> int:
        """Tokens that are within what is known: the trained length, or the original one times the factor."""
        return max(self.trained, round(self.original * self.factor)) if self.factor > 1 else self.trained

    @property
    def text(self) -> str:
        """What it is, in a line."""
        scaled = (
            f"{self.method}, factor {self.factor:g} of {self.original:,} tokens" if self.factor != 1 else "not scaled"
        )
        own = ", factors of its own" if self.factors else ""
        return f"{self.size // 2} pairs, base {self.base:g}, {scaled}{own}"

    def speeds(self) -> tuple[float, ...]:
        """Return how far each pair turns a token, in radians, the fastest first."""
        pairs = self.size // 2
        low, high = self._ramp()
        found = []
        for pair in range(pairs):
            speed = self.base ** (-2 * pair / self.size)
            if pair < len(self.factors):
                speed /= self.factors[pair]
            ramp = 1 - min(1.0, max(0.0, (pair - low) / max(0.001, high - low)))
            alone = ramp * self.mix  # the share that is not scaled
            found.append(speed / self.factor * (1 - alone) + speed * alone)
        return tuple(found)

    def _ramp(self) -> tuple[float, float]:
        """Return the pairs between which YaRN goes from no scaling to all of it (ggml_rope_yarn_corr_dims)."""
        if self.size < 2 or self.base <= 1:
            return 0.0, 0.0

        def pair_of(turns: float) -> float:
            return self.size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.base))

        return max(0.0, math.floor(pair_of(self.beta_fast))), min(self.size - 1, math.ceil(pair_of(self.beta_slow)))


def rope_of_file(header: Header) -> Rope:
    """Return the rotary positions that a file asks for."""
    prefix = f"{header.architecture}.rope."
    trained = header.context_trained or 4096
    kinds: dict[str, Method] = {"yarn": "yarn", "longrope": "longrope", "linear": "linear"}
    method = kinds.get(header.text(prefix + "scaling.type"), "none")
    factor = _number(header, prefix + "scaling.factor") or _number(header, prefix + "scale_linear") or 1.0
    if header.text(prefix + "scaling.type") == "none":
        factor = 1.0  # llama.cpp never scales then
    elif method == "none" and factor != 1:
        method = "linear"  # a file that names no method means this one
    return Rope(
        method=method,
        factor=factor,
        base=_number(header, prefix + "freq_base") or BASE,
        size=rotary_size(header) // 2 * 2,
        original=header.number("rope.scaling.original_context_length") or trained,
        trained=trained,
        mix=1.0 if method == "yarn" else 0.0,
        beta_fast=_number(header, prefix + "scaling.yarn_beta_fast") or BETA_FAST,
        beta_slow=_number(header, prefix + "scaling.yarn_beta_slow") or BETA_SLOW,
        factors=_file_factors(header),
    )


def rope_of_load(header: Header, settings: LoadSettings) -> Rope:
    """Return the rotary positions as llama.cpp will compute them with these settings."""
    rope = rope_of_file(header)
    named: Method = rope.method if settings.rope_scaling == "model" else settings.rope_scaling  # type: ignore[assignment]
    factor = settings.rope_scale or (1 / settings.rope_freq_scale if settings.rope_freq_scale else rope.factor)
    if settings.rope_scaling == "none":
        factor = 1.0
    elif named == "none" and factor != 1:
        named = "linear"
    mix = settings.yarn_ext_factor if settings.yarn_ext_factor >= 0 else float(named == "yarn")
    return replace(
        rope,
        method=named,
        factor=factor,
        base=settings.rope_freq_base or rope.base,
        original=settings.yarn_orig_ctx or rope.original,
        mix=mix,
        beta_fast=settings.yarn_beta_fast if settings.yarn_beta_fast >= 0 else rope.beta_fast,
        beta_slow=settings.yarn_beta_slow if settings.yarn_beta_slow >= 0 else rope.beta_slow,
    )


def rope_notes(header: Header, settings: LoadSettings) -> tuple[str, ...]:
    """Return what the user should know of RoPE settings that are allowed: what compounds, replaces or does nothing."""
    own, made = rope_of_file(header), rope_of_load(header, settings)
    chosen = settings.rope_scaling != "model" or bool(settings.rope_scale or settings.rope_freq_scale)
    notes = []
    if own.factors and (chosen and made.factor != 1 or settings.rope_freq_base):
        notes.append(
            "This file scales by factors of its own (rope_freqs.weight), which llama.cpp goes on applying: "
            "your scaling comes on top of them."
        )
    if chosen and own.method in ("linear", "yarn") and own.factor != 1 and made != own:
        notes.append(
            f"This file scales by {own.factor:g} already ({own.method}); yours, {made.factor:g} ({made.method}), "
            "takes its place and is not multiplied with it."
        )
    yarn_named = [
        name
        for name in ("yarn_orig_ctx", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
        if getattr(settings, name) not in (0, -1.0)
    ]
    if yarn_named and not (made.mix and made.factor != 1):
        notes.append(f"{', '.join(yarn_named)}: without effect, as YaRN scales nothing here.")
    elif "yarn_attn_factor" in yarn_named:
        notes.append(
            f"yarn_attn_factor: without effect; llama.cpp sets YaRN's own, {made.attention:.3f}, with the mix on."
        )
    elif settings.rope_scaling == "yarn" and made.factor == 1:
        notes.append("rope_scaling yarn without a factor (--rope-scale) scales nothing.")
    if header.number("attention.sliding_window") and made != own:
        notes.append("Layers with a sliding window keep the file's own rotations; the others take yours.")
    return tuple(notes)


def _number(header: Header, key: str) -> float:
    value = header.metadata.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return 0.0
    return max(0.0, float(value))


def _file_factors(header: Header) -> tuple[float, ...]:
    """Read `rope_freqs.weight`, one number a pair; a file that cannot be read has none."""
    for tensor in header.tensors:
        if tensor.name == "rope_freqs.weight" and tensor.type_name == "F32" and tensor.elements <= 4096:
            try:
                with header.path.open("rb") as file:
                    file.seek(header.data_start + tensor.offset)
                    values = struct.unpack(f"<{tensor.elements}f", file.read(4 * tensor.elements))
            except (OSError, struct.error):
                return ()
            return tuple(value if value > 0 and math.isfinite(value) else 1.0 for value in values)
    return ()
