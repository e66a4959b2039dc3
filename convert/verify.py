"""Whether a GGUF file is the model of a checkpoint: tokens, chat template, begin and end tokens, logits.

The checkpoint runs in transformers, the file in llama.cpp, each in a process of its own and one after the other, so
that only one model is in memory at a time. Both are given the checkpoint's tokens, so that the logits tell of the
weights alone.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.logit_distance import Distance, Limits, limits_for
from localknobs.convert.merge import MergedSource, open_source
from localknobs.convert.token_proof import SAMPLE
from localknobs.convert.verify_checks import CONVERSATIONS, Check, check_edges, check_template, check_tokens
from localknobs.engine.adapter_files import text_of
from localknobs.engine.process import WorkerProcess
from localknobs.engine.templates import TemplateRenderer
from localknobs.errors import BadValue, EngineDied, LocalknobsError, MissingExtra, NotEnough
from localknobs.gguf_info import Header, check_is_model, read_header, read_headers
from localknobs.hardware import available_memory_bytes, physical_cores, total_memory_bytes
from localknobs.jobs import Advanced, Job, Noted, Started
from localknobs.units import size_text

PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "What does the temperature of a language model do?",
    "Once upon a time, in a small village by the sea, there lived a fisherman who",
    "List three colours and one fruit of each.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Translate into German: Good morning, how are you today?",
    "Water boils at 100 degrees Celsius, which is 212 degrees",
    "Write a haiku about winter.",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Why is the sky blue? Answer in one sentence.",
    '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "',
    "¿Cuál es la diferencia entre un gato y un perro?",
    "Der schnelle braune Fuchs springt über den faulen",
    "Explain what a GGUF file is to a ten-year-old.",
    "SELECT name, COUNT(*) FROM users WHERE age > 30 GROUP BY",
    "如何学习一门新的语言？",
    "In the beginning the Universe was created. This has made a lot of people very",
    "If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?",
    "Subject: Meeting on Monday\n\nDear colleagues,\n\nI would like to",
    "Summarize: The committee met for three hours, argued about the budget, and agreed on nothing.",
)
"""Prose, questions, code, data and other languages; every second one is asked as a chat, where there is a template."""
MOST_TOKENS = 64
"""Tokens of a prompt that are compared; more would tell nothing new."""
_REFERENCE = (sys.executable, "-P", "-m", "localknobs.convert.reference")
_WORKER = (sys.executable, "-P", "-m", "localknobs.convert.verify_worker")
_POLL_S = 0.05
_INSTALL = "Install the extra: pip install 'localknobs[train]'"


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """What to compare.

    Args:
        source: Folder of a checkpoint.
        model: A GGUF file made from it.
        prompts: How many prompts are computed, 1 to 20.
        threads: 0 for all physical cores.
        loras: Adapters that were merged into the file.
        adapters: GGUF adapters that are put on the file instead, each with its factor: `loras` in another form.
        weights: A GGUF file whose bytes torch computes with, instead of the checkpoint's weights.
    """

    source: Path
    model: Path
    prompts: int = len(PROMPTS)
    threads: int = 0
    loras: tuple[LoraChoice, ...] = ()
    adapters: tuple[tuple[Path, float], ...] = ()
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class VerifyPlan:
    """A checked plan.

    Args:
        config: What was asked.
        header: Of the file.
        limits: What the logits must keep to.
        notes: What the user should know.
        rows: Tokens of the embedding where an adapter brings more than the base has; else 0.
    """

    config: VerifyConfig
    header: Header
    limits: Limits
    notes: tuple[str, ...]
    rows: int = 0


@dataclass(slots=True)
class Verdict:
    """What was found.

    Args:
        checks: One each for tokens, template, begin and end, logits.
        distance: Of the logits; None where they could not be compared.
        limits: What they were held to.
        notes: Differences that do not make the file wrong.
    """

    checks: list[Check]
    distance: Distance | None
    limits: Limits
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all checks did."""
        return all(check.passed for check in self.checks)


def plan_verify(config: VerifyConfig) -> VerifyPlan:
    """Check everything that can be checked before a model is loaded.

    Raises:
        MissingExtra: transformers or torch is not installed.
        NotFound, BadFile: the checkpoint or the file is missing, damaged or something else.
        BadValue: a count out of range.
        NotEnough: the checkpoint in float32 is larger than this machine's memory.
    """
    wanted = ("torch", "transformers", "peft") if config.loras else ("torch", "transformers")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"To compare with the checkpoint takes {' and '.join(missing)}, not installed here", _INSTALL
        )
    if not 1 <= config.prompts <= len(PROMPTS):
        raise BadValue(f"There are {len(PROMPTS)} prompts, not {config.prompts}", f"Take 1 to {len(PROMPTS)}.")
    if config.threads < 0:
        raise BadValue("A count of threads cannot be below 0", "0 takes all.")
    header = read_header(config.model)
    check_is_model(header)
    if config.weights:
        needed, rows = sum(one.tensor_bytes for one in read_headers(config.weights)), 0
    else:
        with open_source(config.source, config.loras) as source:
            needed = 4 * sum(source.info(name).elements for name in source.names())
            rows = (source.match.vocabulary_rows or 0) if isinstance(source, MergedSource) else 0
    if needed > total_memory_bytes() > 0:
        raise NotEnough(
            f"The checkpoint takes {size_text(needed)} in float32, more than this machine's memory",
            "Verify on a larger machine.",
            needed_bytes=needed,
            available_bytes=total_memory_bytes(),
        )
    notes = []
    if needed > available_memory_bytes() > 0:
        notes.append(f"The checkpoint takes {size_text(needed)} in float32, more than is free: it may take long.")
    return VerifyPlan(config, header, limits_for(header), tuple(notes), rows)


def verify(plan: VerifyPlan) -> Job[Verdict]:
    """Compare; nothing but temporary files is written.

    Args:
        plan: What `plan_verify` returned.

    Yields:
        Progress in prompts, of the checkpoint and then of the file.

    Raises:
        BadFile: transformers or llama.cpp cannot load its side.
        LocalknobsError: one of the two processes ended.
    """
    for text in plan.notes:
        yield Noted(text, "warning")
    with tempfile.TemporaryDirectory(prefix="localknobs-") as folder:
        expected = yield from _reference(plan, Path(folder))
        return (yield from _compare(plan, expected, Path(folder)))


def _reference(plan: VerifyPlan, folder: Path) -> Job[dict[str, Any]]:
    config = plan.config
    yield Started("loading the checkpoint in transformers", 0, "prompts")
    worker = WorkerProcess(_REFERENCE)
    try:
        worker.send({
            "source": str(config.source), "texts": [*SAMPLE, *PROMPTS], "prompts": PROMPTS[: config.prompts],
            "conversations": CONVERSATIONS, "most_tokens": MOST_TOKENS, "folder": str(folder),
            "threads": config.threads or physical_cores(), "rows": plan.rows,
            "weights": str(config.weights or ""),
            "loras": [(str(lora.path), lora.scale) for lora in config.loras],
        })  # fmt: skip
        found = yield from _next(worker)
        yield Started("the checkpoint", config.prompts, "prompts")
        for _ in found["inputs"]:
            yield from _next(worker)
            yield Advanced(1)
    except EngineDied as death:
        error = LocalknobsError(death.message.replace("The engine", "The process with the checkpoint"), death.hint)
        error.log_tail = death.log_tail
        raise error from None
    finally:
        worker.kill()
    return found


def _compare(plan: VerifyPlan, expected: Mapping[str, Any], folder: Path) -> Job[Verdict]:
    config = plan.config
    yield Started("loading the file in llama.cpp", 0, "prompts")
    worker, renderer = WorkerProcess(_WORKER), TemplateRenderer()
    try:
        threads = config.threads or physical_cores()
        worker.send({
            "model": str(config.model), "threads": threads, "context": MOST_TOKENS,
            "lora": [text_of(str(path), scale) for path, scale in config.adapters],
        })  # fmt: skip
        file = yield from _next(worker)
        template, rendered = check_template(expected, file, renderer)
        byte_level = plan.header.text("tokenizer.ggml.model") == "gpt2"
        special = [(expected["special_text"], True)] if byte_level and expected["special_text"] else []
        texts = [*((text, False) for text in (*SAMPLE, *PROMPTS)), *special]
        worker.send({"texts": [*texts, *((text, True) for text in rendered)]})
        found = yield from _next(worker)
        notes: list[str] = []
        tokens = check_tokens(texts, expected, found, notes)
        edges = check_edges(expected, file, rendered, found["tokens"][len(texts) :], notes)
        logits, distance = yield from _logits(plan, expected["inputs"], file["width"], worker, folder, notes)
    finally:
        worker.kill()
        renderer.close()
    return Verdict([tokens, template, edges, logits], distance, plan.limits, notes)


def _logits(
    plan: VerifyPlan, inputs: Sequence[list[int]], width: int, worker: WorkerProcess, folder: Path, notes: list[str]
) -> Job[tuple[Check, Distance | None]]:
    largest = max(map(max, inputs))
    if largest >= width:
        return Check("logits", False, f"the file has {width:,} tokens, the prompts use number {largest:,}"), None
    yield Started("the file", len(inputs), "prompts")
    worker.send({"inputs": inputs, "folder": str(folder)})
    distance = Distance()
    for at in range(len(inputs)):
        yield from _next(worker)
        theirs, ours = (np.load(folder / f"{name}-{at}.npy") for name in ("reference", "file"))
        both = min(theirs.shape[1], ours.shape[1])
        if at == 0 and theirs.shape[1] != ours.shape[1]:
            notes.append(
                f"The checkpoint has {theirs.shape[1]:,} rows of tokens and the file {ours.shape[1]:,}: "
                f"the first {both:,} are compared."
            )
        distance.add(at, theirs[:, :both], ours[:, :both])
        for name in ("reference", "file"):
            (folder / f"{name}-{at}.npy").unlink()
        yield Advanced(1)
    failures = distance.failures(plan.limits)
    if failures:
        worst = f"; worst at prompt {distance.worst_prompt + 1}" if distance.places else ""
        return Check("logits", False, "; ".join(failures) + worst), distance
    return Check("logits", True, f"{len(inputs)} prompts, {distance.places:,} tokens"), distance


def _next(worker: WorkerProcess) -> Job[dict[str, Any]]:
    """Return the next message; yields while it waits, so that the job can be stopped."""
    while worker.messages.empty():
        yield Advanced(0)
        time.sleep(_POLL_S)
    return worker.receive()
