"""What is to be measured: one frozen record, and the models of it with the settings each is loaded with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localknobs.engine.settings import LoadSettings

SUITES = {
    "ppl": "perplexity of a text",
    "kld": "KL divergence from the parent model, over the same text",
}
"""Every suite and what it measures, in the order of a report."""
DEFAULT_CHUNK = 512
LEAST_CHUNK, MOST_CHUNK = 16, 65_536
LEAST_CHUNKS = 2
"""llama-perplexity wants two chunks of text."""
Mode = Literal["auto", "exact", "bounded"]


@dataclass(frozen=True, slots=True)
class Variant:
    """A model with the settings it is measured with.

    Args:
        label: Its name in the report.
        settings: Which file, and how it is loaded; the context is chosen by what is measured.
        flags: The settings that differ from the run's, as they are typed.
    """

    label: str
    settings: LoadSettings
    flags: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """What to measure.

    Args:
        models: What is measured.
        base: The parent they are compared with.
        suites: Names out of `SUITES`.
        text: A UTF-8 text; None for the one that is shipped.
        chunk_tokens: Tokens of a chunk, which a model reads without what came before.
        chunks: Most chunks; 0 for all.
        mode: How KL divergence is measured: with both models open, or against the parent's kept log-probabilities;
            `auto` takes the second where memory does not suffice for the first.
        minutes: Time that measuring may take; 0 for as long as it takes.
        seed: Of every choice.
        restart: Measure anew what was measured before.
        threads: 0 for all physical cores.
        command: The command line that asks for this, for the report.
    """

    models: tuple[Variant, ...]
    base: Variant | None = None
    suites: tuple[str, ...] = ("ppl",)
    text: Path | None = None
    chunk_tokens: int = DEFAULT_CHUNK
    chunks: int = 0
    mode: Mode = "auto"
    minutes: float = 0.0
    seed: int = 1
    restart: bool = False
    threads: int = 0
    command: str = ""
