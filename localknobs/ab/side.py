"""One of the two sides: a model, how it is loaded, and how it draws its tokens."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from localknobs.engine.adapter_files import check_adapters, read_adapters
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.evaluate.model_words import ModelWords, read_model_words
from localknobs.gguf_info import check_is_model, read_header
from localknobs.knobs import Value, knobs_of
from localknobs.sampler_state import SamplerState

LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Side:
    """A side.

    Args:
        words: What was written.
    """

    words: ModelWords

    @property
    def label(self) -> str:
        """What it is called, flags included."""
        return self.words.label

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.words.path

    @property
    def load_settings(self) -> LoadSettings:
        """How it is loaded."""
        return self.words.settings()

    def loads_like(self, other: Side) -> bool:
        """Whether one loaded model serves both: they differ in what takes effect without a new load."""
        return replace(self.load_settings, **other.live_settings) == other.load_settings  # type: ignore[arg-type]

    @property
    def live_settings(self) -> dict[str, Value]:
        """The loading knobs that take effect at the next answer, such as adapters."""
        settings = self.load_settings
        return {row.name: getattr(settings, row.name) for row in knobs_of("loading") if row.applies == "next answer"}

    def values(self, recommended: Mapping[str, Value], seed: int) -> dict[str, Value]:
        """Return its sampling knobs.

        Args:
            recommended: The model's own values.
            seed: Of this answer; a `--seed` of its own comes before it.
        """
        state = SamplerState(recommended, self.words.preset or None)
        return {**state.values, "seed": seed, **self.words.sampling}


def read_side(text: str) -> Side:
    """Return the side that a text names: `some-Q4_K_M -ctk q4_0 --temp 0.2 --preset code`.

    Raises:
        NotFound, BadFile, Unsupported: there is no such model, or it is none.
        UnknownName, BadValue: a preset, a flag or a value that there is not.
    """
    if not text.strip():
        raise BadValue("A side is empty", "Write a model, and flags if you like: built-in --temp 0.2")
    words = read_model_words(text, ("loading", "sampling"))
    if words.preset not in ("", "model"):  # that one is known when the model is loaded
        SamplerState(name=words.preset)
    header = read_header(words.path)
    check_is_model(header)
    side = Side(words)
    check_adapters(read_adapters(side.load_settings), header, side.load_settings)
    return side


def drawn_order() -> tuple[int, int]:
    """Return which side is shown left and which right, drawn by the system: nothing on a screen tells it."""
    left = secrets.randbelow(2)
    return left, 1 - left


def drawn_seed() -> int:
    """Return a seed that both answers of a prompt are drawn with."""
    return secrets.randbelow(LARGEST_SEED)
