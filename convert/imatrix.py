"""An importance matrix: how much each input column of each weight matters, measured while a model reads a text.

The quantizers weigh their errors with it. The model runs in a worker process; a run that was stopped is
taken up where it stood, from a hidden file beside the output, when it is asked for again.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localknobs.convert.imatrix_file import Imatrix, merged, read_imatrix, write_imatrix
from localknobs.engine.checks import plan_context
from localknobs.engine.process import WorkerProcess
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound
from localknobs.gguf_info import check_is_model, read_header, shard_paths
from localknobs.hardware import physical_cores
from localknobs.jobs import Advanced, Job, Measured, Noted, Started, Wrote, refuse_same_file

DEFAULT_TEXT = "localknobs-calibration"
"""Name of the text that is shipped, as it stands in a file's list of texts."""
LEAST_CHUNK, MOST_CHUNK = 32, 65_536
STOP_S = 10.0
"""Time a stopped worker has to save what it has summed."""
_COMMAND = (sys.executable, "-P", "-m", "localknobs.convert.imatrix_worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixConfig:
    """What to measure.

    Args:
        output: Where the matrix is written.
        model: A GGUF file; None to merge files alone.
        text: A UTF-8 text; None for the one that is shipped.
        merge: Matrices that are added, of this model.
        chunk_tokens: Tokens of a chunk, which the model reads without what came before.
        chunks: Most chunks to read; 0 for all.
        process_output: Also measure the input of `output.weight`.
        parse_special: Read control tokens, such as `<|im_end|>`, where the text spells them.
        restart: Begin anew even where a stopped run could be taken up.
        threads: 0 for all physical cores.
        n_gpu_layers: -1 for all that fit.
    """

    output: Path
    model: Path | None = None
    text: Path | None = None
    merge: tuple[Path, ...] = ()
    chunk_tokens: int = 512
    chunks: int = 0
    process_output: bool = False
    parse_special: bool = False
    restart: bool = False
    threads: int = 0
    n_gpu_layers: int = -1


@dataclass(frozen=True, slots=True)
class ImatrixPlan:
    """A checked plan.

    Args:
        config: What was asked.
        text: The text's file.
        dataset: Its name, as it is noted in the matrix.
        earlier: The matrices that are added.
        state: Where a stopped run leaves its sums.
        fingerprint: Of everything that shapes the sums.
        resume: Whether `state` holds sums of the same run.
        notes: What the user should know.
    """

    config: ImatrixConfig
    text: Path
    dataset: str
    earlier: tuple[Imatrix, ...]
    state: Path
    fingerprint: str
    resume: bool
    notes: tuple[str, ...]


def shipped_text() -> Path:
    """Return the calibration text that is shipped.

    It is about 25 kB of our own writing, of the kinds of text that models meet: plain prose, dialogue,
    questions and answers, instructions, tables, code in several languages, mathematics, data formats,
    and paragraphs in some other languages.
    """
    return Path(__file__).with_name("data") / "calibration.txt"


def plan_imatrix(config: ImatrixConfig) -> ImatrixPlan:
    """Check everything that can be checked before the model is loaded.

    Raises:
        NotFound, BadFile: the model, the text or a matrix is missing or damaged.
        BadValue: a size out of range, an output that is an input, or nothing to do.
        NotEnough: the context does not fit into memory.
    """
    earlier = tuple(map(read_imatrix, config.merge))
    text = config.text or shipped_text()
    dataset = config.text.name if config.text else DEFAULT_TEXT  # without its folder: that is nobody's business
    state = config.output.with_name(f".{config.output.name}.resume")
    if config.model is None:
        if not earlier:
            raise BadValue("There is nothing to do", "Name a model, or matrices to merge: --in-file F")
        return ImatrixPlan(config, text, dataset, earlier, state, "", False, ())
    if not LEAST_CHUNK <= config.chunk_tokens <= MOST_CHUNK:
        raise BadValue(
            f"A chunk cannot have {config.chunk_tokens:,} tokens", f"It takes {LEAST_CHUNK} to {MOST_CHUNK:,}: -c 512"
        )
    if config.chunks < 0 or config.threads < 0:
        raise BadValue("A count cannot be below 0", "0 takes all.")
    header = read_header(config.model)
    check_is_model(header)
    for file in (*shard_paths(header), text):
        refuse_same_file(file, config.output)
    plan_context(header, LoadSettings(model=config.model, n_ctx=config.chunk_tokens))
    fingerprint = _fingerprint(config, text_bytes(text), shard_paths(header))
    notes = []
    if config.chunk_tokens > (header.context_trained or config.chunk_tokens):
        notes.append(
            f"The model was trained with {header.context_trained:,} tokens of context: use smaller chunks (-c)."
        )
    return ImatrixPlan(
        config, text, dataset, earlier, state, fingerprint, _can_resume(config, state, fingerprint), tuple(notes)
    )


def compute_imatrix(plan: ImatrixPlan) -> Job[Path]:
    """Measure and write.

    Args:
        plan: What `plan_imatrix` returned.

    Yields:
        Progress in tokens, and the perplexity of the text so far.

    Raises:
        BadValue: the text is shorter than a chunk.
        EngineDied: the worker ended; what it saved is taken up next time.
    """
    config = plan.config
    for note in plan.notes:
        yield Noted(note)
    parts = list(plan.earlier)
    if config.model is not None:
        yield from _measure(plan)
        new = read_imatrix(plan.state)
        parts.append(Imatrix(new.entries, new.datasets, new.chunk_count, new.chunk_size))
    write_imatrix(merged(parts), config.output)
    plan.state.unlink(missing_ok=True)
    yield Wrote(config.output)
    return config.output


def _measure(plan: ImatrixPlan) -> Iterator[Started | Advanced | Measured | Noted]:
    config = plan.config
    config.output.parent.mkdir(parents=True, exist_ok=True)
    yield Started("loading the model", 0, "tokens")
    worker = WorkerProcess(_COMMAND)
    try:
        worker.send({
            "model": str(config.model), "text": str(plan.text), "dataset": plan.dataset, "state": str(plan.state),
            "fingerprint": plan.fingerprint, "resume": plan.resume, "chunk_tokens": config.chunk_tokens,
            "chunks": config.chunks, "process_output": config.process_output, "parse_special": config.parse_special,
            "threads": config.threads or physical_cores(), "n_gpu_layers": config.n_gpu_layers,
        })  # fmt: skip
        begun = worker.receive()
        if begun["first"]:
            yield Noted(f"Taken up after chunk {begun['first']:,} of {begun['chunks']:,}, where it was stopped.")
        yield Started("reading", begun["chunks"] * config.chunk_tokens, "tokens")
        if begun["first"]:
            yield Advanced(begun["first"] * config.chunk_tokens)
        surprise, seen = 0.0, 0
        while "finished" not in (message := worker.receive()):
            surprise, seen = surprise + message["nll"], seen + 1
            yield Advanced(config.chunk_tokens)
            yield Measured("perplexity", math.exp(min(50.0, surprise / seen)), message["done"])
    finally:
        _end(worker)


def _end(worker: WorkerProcess) -> None:
    """Let the worker save what it has and end; a stuck one is killed, and its last savings remain."""
    import subprocess

    worker.send({"do": "stop"})
    try:
        worker.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        worker.kill()
    worker.end()


def text_bytes(text: Path, hint: str = "Name a text file with --text.") -> bytes:
    """Return what is in a text file; raises `NotFound` or `BadFile` where that is no UTF-8 text.

    Args:
        text: The file.
        hint: What to do where it cannot be read.
    """
    try:
        data = text.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"There is no file {text}", hint) from None
    except OSError as error:
        raise BadFile(f"{text} cannot be read: {error.strerror}", hint) from None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"{text} is not UTF-8 text: byte {error.start:,} is wrong", "Convert it, with iconv.") from None
    return data


def _fingerprint(config: ImatrixConfig, text: bytes, shards: tuple[Path, ...]) -> str:
    """Return what tells whether sums are of the same run; the weights by size and time, since reading them is slow."""
    digest = hashlib.sha256(text)
    for shard in shards:
        status = os.stat(shard)
        digest.update(f"|{shard.name}|{status.st_size}|{status.st_mtime_ns}".encode())
    digest.update(f"|{config.chunk_tokens}|{config.process_output}|{config.parse_special}".encode())
    return digest.hexdigest()


def _can_resume(config: ImatrixConfig, state: Path, fingerprint: str) -> bool:
    if config.restart:
        return False
    try:
        before = read_imatrix(state)
    except LocalknobsError:
        return False
    fits = not config.chunks or before.chunk_count <= config.chunks
    return fits and before.extra.get("localknobs.resume") == fingerprint
