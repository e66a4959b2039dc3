"""What was found: frozen records, for the terminal, the page, the picture and JSON alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from localknobs.evaluate.statistics import Divergence, Estimate


@dataclass(frozen=True, slots=True)
class TextUsed:
    """A text that was read.

    Args:
        name: Of its file, or of the text that is shipped.
        sha256: Of its bytes.
        size_bytes: Of the file.
        tokens: Of the first model, the begin token included.
        chunk_tokens: Tokens of a chunk.
        chunks: Chunks that were read.
        chunks_whole: Chunks of the whole text.
        predicted: Tokens that were predicted in them, of each model.
        why: Why not all chunks were read; empty where they were.
    """

    name: str
    sha256: str
    size_bytes: int
    tokens: int
    chunk_tokens: int
    chunks: int
    chunks_whole: int
    predicted: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What was measured of one model.

    Args:
        label: Its name in the report.
        file: Its file's name, without the folder.
        flags: Settings that differ from the other models'.
        quant: Such as `Q4_K_M`.
        parameters: Weights.
        size_bytes: Of its files.
        bits_per_weight: On average.
        memory_bytes: Weights and key-value cache at `context` tokens.
        context: Tokens.
        perplexity: Of the text.
        divergence: From the parent.
        mode: How it was measured: `exact`, or `bounded`, which gives a lower bound.
        outside: Mean probability that the bounded mode counts as one token.
    """

    label: str
    file: str
    flags: str
    quant: str
    parameters: int
    size_bytes: int
    bits_per_weight: float
    memory_bytes: int
    context: int
    perplexity: Estimate | None = None
    divergence: Divergence | None = None
    mode: str = ""
    outside: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured in one run.

    Args:
        command: The command line that makes it again.
        version: Of this program.
        engine: Version of llama-cpp-python.
        made: When, ISO 8601, UTC.
        took_s: Seconds.
        threads: CPU threads.
        seed: Of every choice.
        base: Label of the parent; empty for none.
        models: The parent first, if there is one.
        text: The text that was read.
        notes: What the reader should know.
    """

    command: str
    version: str
    engine: str
    made: str
    took_s: float
    threads: int
    seed: int
    base: str
    models: tuple[ModelResult, ...]
    text: TextUsed | None = None
    notes: tuple[str, ...] = field(default=())

    def as_mapping(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return asdict(self)
