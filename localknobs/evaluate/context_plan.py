"""What is measured of RoPE settings: which model against which, in which lengths, on which text."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from localknobs.convert.imatrix import text_bytes
from localknobs.engine.rope import rope_of_file, rope_of_load
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.evaluate.config import DEFAULT_CHUNK, EvalConfig, Variant
from localknobs.evaluate.run import BUILT_IN_NAME
from localknobs.evaluate.stages import DEFAULT_TEXT, shipped_text
from localknobs.gguf_info import Header
from localknobs.knobs import Value, flag_words
from localknobs.knobs.rope import ROPE

DEFAULT_MINUTES = 2.0
NEEDLES_A_CELL, NEEDLE_DEPTHS = 2, 5
LEAST_NEEDLE = 256
"""Tokens that a number, the question and some text around them take, whatever the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPlan:
    """A checked plan.

    Args:
        header: Of the model.
        name: What the model is called.
        scaled: The model with the settings that are measured.
        plain: The same model without them, or as its file says.
        turned: What was turned, knob name to the value as it is typed.
        trained: Tokens that `plain` reaches.
        length: Tokens that `scaled` is to reach; no more than `trained` where only short prompts are measured.
        text: What is read.
        minutes: Time that measuring may take; 0 for as long as it takes.
        seed: Of every choice.
        restart: Measure anew what was measured before.
        command: The command line, for whoever wants the numbers again.
    """

    header: Header
    name: str
    scaled: Variant
    plain: Variant
    turned: Mapping[str, str]
    trained: int
    length: int
    text: Path
    minutes: float
    seed: int
    restart: bool
    command: str

    @property
    def short_tokens(self) -> int:
        """Tokens of a short prompt: a chunk of `localknobs eval`, or what was trained where that is less."""
        return min(DEFAULT_CHUNK, self.trained)

    @property
    def reaches(self) -> tuple[int, ...]:
        """Lengths beyond the trained one that may be measured, the longest first: time or memory may not do for it."""
        beyond = self.length - self.trained
        found = [self.trained + beyond // part // 256 * 256 for part in (2, 4)]
        return tuple(reach for reach in (self.length, *found) if reach > self.trained)

    def short_config(self, minutes: float) -> EvalConfig:
        """Return what is measured on short prompts: KL divergence from `plain`."""
        return self._config(("kld",), minutes)

    def long_config(self, reach: int, minutes: float, *, read: bool) -> EvalConfig:
        """Return what is measured of a length beyond the trained one.

        Args:
            reach: The length.
            minutes: 0 for as long as it takes.
            read: Whether the text is long enough to be read in such chunks.
        """
        asked = (self.trained * 3 // 4, (self.trained + reach) // 2, reach - 16)
        lengths = tuple(length for length in asked if length >= LEAST_NEEDLE) or (reach,)
        return replace(
            self._config(("needle", "position") if read else ("needle",), minutes),
            needle_lengths=lengths, needle_depths=NEEDLE_DEPTHS, needles=NEEDLES_A_CELL, position_tokens=reach,
        )  # fmt: skip

    def _config(self, suites: tuple[str, ...], minutes: float) -> EvalConfig:
        return EvalConfig(
            models=(self.scaled,), base=self.plain, suites=suites, text=self.text, chunk_tokens=self.short_tokens,
            minutes=minutes, seed=self.seed, restart=self.restart, threads=self.scaled.settings.threads,
            plan_memory=False, command=self.command,
        )  # fmt: skip


def plan_effect(
    header: Header, settings: LoadSettings, name: str, *, text: Path | None = None,
    minutes: float = DEFAULT_MINUTES, seed: int = 1, restart: bool = False, command: str = "",
) -> EffectPlan:  # fmt: skip
    """Decide what RoPE settings are compared with, and how far.

    Args:
        header: Of the model.
        settings: How it is loaded; `n_ctx` says how far it is to see, 0 as far as the scaling reaches.
        name: What the model is called.
        text: A UTF-8 text to read; None for a shipped one.
        minutes: Time that measuring may take; 0 for as long as it takes.
        seed: Of every choice.
        restart: Measure anew what was measured before.
        command: The command line that asks for this.

    Raises:
        BadValue: nothing is scaled, or the text is none.
    """
    if minutes < 0:
        raise BadValue(f"--minutes cannot be {minutes:g}", "It takes 0, for as long as it takes, or more.")
    own = rope_of_file(header)
    unset = {row.name: row.default for row in ROPE}
    plain = replace(settings, **unset)  # type: ignore[arg-type]
    made, trained = rope_of_load(header, settings), own.window
    if made == own:
        if own.method not in ("linear", "yarn") or own.factor == 1:
            raise BadValue(
                "There is nothing to measure: with these settings nothing is scaled",
                "Say how, for example --rope-scaling yarn --factor 2, or how far: --target-ctx N.",
            )
        plain, trained = replace(plain, rope_scaling="none"), own.original  # the file's own scaling is measured
    length = settings.n_ctx or made.window
    file = text or (own_text() if header.name == BUILT_IN_NAME else shipped_text())
    text_bytes(file)
    return EffectPlan(
        header=header, name=name, scaled=_variant(name, settings), plain=_variant(name, plain),
        turned=_turned(settings, plain), trained=trained, length=length, text=file, minutes=minutes, seed=seed,
        restart=restart, command=command,
    )  # fmt: skip


def text_name(file: Path) -> str:
    """Return what a text is called where its numbers are shown."""
    return DEFAULT_TEXT if file == shipped_text() else file.name


def own_text() -> Path:
    """Return stories of the kind the built-in model tells, from a seed that it was not trained with.

    It was trained on little else, so that the general text would only show how strange that is to it.
    """
    return shipped_text().with_name("built-in-stories.txt")


def _variant(name: str, settings: LoadSettings) -> Variant:
    """Return the model with these settings; its label tells them, but for the context, which the stages choose."""
    standard = {field.name: field.default for field in fields(LoadSettings)}
    changed: dict[str, Value] = {
        row.name: getattr(settings, row.name) for row in ROPE if getattr(settings, row.name) != standard[row.name]
    }
    flags = shlex.join(flag_words(changed))
    return Variant(f"{name} {flags}".strip(), replace(settings, n_ctx=0), flags)


def _turned(settings: LoadSettings, plain: LoadSettings) -> dict[str, str]:
    """Return the RoPE knobs that differ; of a file that scales by itself the one that takes it away."""
    found = {}
    for row in ROPE:
        now, before = getattr(settings, row.name), getattr(plain, row.name)
        if now != before:
            found[row.name] = row.show(now)
    return found
