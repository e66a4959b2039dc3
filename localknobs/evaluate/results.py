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
class Share:
    """How many of some items are right.

    Args:
        right: So many.
        count: Of so many.
        value: The share, 0 to 1.
        low, high: Its 95% interval (Wilson).
    """

    right: int
    count: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Paired:
    """How a model's answers differ from the parent's to the same items.

    Args:
        lost: Right before, wrong now.
        gained: Wrong before, right now.
        p_value: Chance of so uneven a split if neither were better (McNemar, exact).
    """

    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a model did in one suite of tasks.

    Args:
        suite: Its name.
        share: Of right answers.
        by_length: The same where choices are compared by log-probability a byte; None where there are no choices.
        groups: Name and share of every group, where there are several.
        paired: Against the parent.
        items: Of a whole suite, of which a short time may have allowed fewer.
    """

    suite: str
    share: Share
    by_length: Share | None
    groups: tuple[tuple[str, Share], ...]
    paired: Paired | None
    items: int


@dataclass(frozen=True, slots=True)
class NeedleCell:
    """Needles of one length and depth.

    Args:
        length: Tokens of the whole prompt.
        depth: Where the needle is, 0 for the beginning, 1 for the end.
        share: Of needles that were found, see `NeedleResult`.
        log_probability: Mean over the needles, of the whole key, in nats; no number where answers were written.
    """

    length: int
    depth: float
    share: Share
    log_probability: float


@dataclass(frozen=True, slots=True)
class NeedleResult:
    """A grid of needles.

    Args:
        share: Of all.
        cells: By length, then depth.
        paired: Against the parent.
        mode: How it was told whether a needle was found, a key of `NEEDLE_MODES`.
    """

    share: Share
    cells: tuple[NeedleCell, ...]
    paired: Paired | None
    mode: str = "logprob"


@dataclass(frozen=True, slots=True)
class PositionBucket:
    """How well tokens at some places of the context are predicted.

    Args:
        begin, end: Places, the end not included.
        perplexity: Of the tokens there.
        divergence: Mean KL divergence from the parent there.
    """

    begin: int
    end: int
    perplexity: Estimate
    divergence: Estimate | None


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second: the median of some rounds, and their range.

    Args:
        prompt: Of reading a prompt of `prompt_tokens`.
        generation: Of writing `generated_tokens`.
        rounds: How often each was timed.
    """

    prompt: float
    prompt_low: float
    prompt_high: float
    generation: float
    generation_low: float
    generation_high: float
    prompt_tokens: int
    generated_tokens: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What a model lost of its parent's general abilities.

    Args:
        divergence: From the parent, on the general text that is shipped.
        share: Of general tasks answered right.
        paired: Against the parent.
        verdict: One sentence.
    """

    divergence: Divergence
    share: Share
    paired: Paired
    verdict: str


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
        memory_bytes: Weights, key-value cache and computation at `context` tokens, on all devices.
        context: Tokens.
        perplexity: Of the text.
        divergence: From the parent.
        mode: How it was measured: `exact`, or `bounded`, which gives a lower bound.
        outside: Mean probability that the bounded mode counts as one token.
        position: Perplexity by place in the context.
        tasks: One a suite of tasks.
        needle: Numbers found in long texts.
        speed: On this machine.
        forgetting: Against the parent.
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
    position: tuple[PositionBucket, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    needle: NeedleResult | None = None
    speed: Speed | None = None
    forgetting: Forgetting | None = None


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long a stage took, for estimates of the next run.

    Args:
        stage: A key of `TIME_SHARES`.
        units: Work that was done, of all models together: tokens, questions or rounds, see `price.py`.
        parameters: Weights of a model, on average.
        seconds: Loading included.
    """

    stage: str
    units: float
    parameters: float
    seconds: float


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
        position_text: The same, in the long chunks of the suite `position`.
        general_text: The text of the suite `forgetting`.
        notes: What the reader should know.
        processor: Its name; speeds are of this machine.
        times: How long each stage took.
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
    position_text: TextUsed | None = None
    general_text: TextUsed | None = None
    notes: tuple[str, ...] = field(default=())
    processor: str = ""
    times: tuple[StageTime, ...] = ()

    def as_mapping(self) -> dict[str, Any]:
        """Return it as plain data, for JSON; what is no number becomes null."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def plain(data: Any) -> Any:
    """Return data without numbers that JSON has no form for: they become null."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return None if isinstance(data, float) and data - data != 0 else data
