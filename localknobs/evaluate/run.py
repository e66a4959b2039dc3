"""From what is asked to a report: checks first, then a job that measures stage after stage (`stages.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Any

import numpy as np

from localknobs import version
from localknobs.convert.imatrix import text_bytes
from localknobs.engine.adapter_files import check_adapters, read_adapters
from localknobs.engine.checks import plan_context
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.evaluate.config import (
    AGAINST_PARENT,
    LEAST_CHUNK,
    MOST_CHUNK,
    NEEDLE_MODES,
    SUITES,
    EvalConfig,
    Variant,
)
from localknobs.evaluate.results import ModelResult, Report
from localknobs.evaluate.session import Session
from localknobs.evaluate.stages import GENERATED_TOKENS, PROMPT_TOKENS, Found, Stages, shipped_text
from localknobs.evaluate.statistics import perplexity_of
from localknobs.evaluate.store import remove_oldest
from localknobs.evaluate.summaries import by_position, forgetting_of, needle_result, speed_of, task_results
from localknobs.evaluate.tasks import GENERAL, Item, read_suite
from localknobs.fit.bill import Bill
from localknobs.fit.formula import computed_bill
from localknobs.fit.machine import other_machine, this_machine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import Header, check_is_model, read_header, read_headers, shard_paths
from localknobs.hardware import available_memory_bytes, physical_cores, processor_name
from localknobs.jobs import Job, Noted, Started

BUILT_IN_NAME = "localknobs built-in"
"""What the built-in model's file calls itself; its own questions are asked only of it and its kin."""
BUILT_IN_SUITE = "built-in"
MOST_CONTEXT = 8192
"""Most context that long suites use where none is named: more costs minutes on most machines."""


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """A checked plan.

    Args:
        config: What was asked.
        variants: Models with their numbers, the parent first, which has the number 0.
        headers: Of their files, by number.
        text: The text's file.
        items: Of the suites of tasks.
        general: Of the general tasks that `forgetting` asks.
        mode: How KL divergence is measured.
        context: Tokens that long suites may use.
        notes: What the user should know.
    """

    config: EvalConfig
    variants: tuple[tuple[int, Variant], ...]
    headers: Mapping[int, Header]
    text: Path
    items: tuple[Item, ...]
    general: tuple[Item, ...]
    mode: str
    context: int
    notes: tuple[str, ...]

    @property
    def parameters(self) -> float:
        """Weights of a model, on average."""
        return fmean(header.parameters for header in self.headers.values())

    @property
    def needle_cells(self) -> list[dict[str, Any]]:
        """Every needle of the grid, in a seeded order, so that the first of them cover the grid."""
        config = self.config
        context = self.context
        whole = context - 16 - config.needle_answer
        lengths = config.needle_lengths or (context // 8, context // 4, context // 2, whole)
        mode = "/generate" if config.needle_mode == "generate" else ""
        cells = [
            {
                "cell": f"{length}/{depth:.3f}/{number}/{config.needle_others}/{config.seed}{mode}", "length": length,
                "depth": depth, "others": config.needle_others, "seed": f"{config.seed}/{length}/{depth:.3f}/{number}",
                "mode": config.needle_mode,
            }
            for length in lengths
            for depth in np.linspace(0, 1, config.needle_depths).tolist()
            for number in range(config.needles)
        ]  # fmt: skip
        order = np.random.default_rng(config.seed).permutation(len(cells))
        return [cells[at] for at in order]


def plan_eval(config: EvalConfig, known: EvalPlan | None = None) -> EvalPlan:
    """Check everything that can be checked before a model is loaded.

    Args:
        config: What is asked for.
        known: A plan of the same models and text: they are not read again.

    Raises:
        NotFound, BadFile: a model, the text or a suite is missing or damaged; of a suite, the line is named.
        BadValue: a suite or size out of range, or a parent that is missing.
        NotEnough: a context does not fit into memory.
    """
    _check(config)
    variants = [(0, config.base)] if config.base else []
    variants += [(number, variant) for number, variant in enumerate(config.models, 1)]
    headers = {}
    for number, variant in variants:
        headers[number] = known.headers[number] if known else read_header(variant.settings.model)
        check_is_model(headers[number])
    trained = min((header.context_trained for header in headers.values() if header.context_trained), default=4096)
    context = max((variant.settings.n_ctx for _, variant in variants), default=0) or min(trained, MOST_CONTEXT)
    long = {"tasks", "needle", "position", "forgetting"} & set(config.suites)
    for number, variant in variants:
        needles = (length + config.needle_answer for length in config.needle_lengths)
        largest = max(config.chunk_tokens, context if long else 0, *needles, config.position_tokens)
        plan_context(headers[number], replace(variant.settings, n_ctx=largest))
        check_adapters(read_adapters(variant.settings), headers[number], variant.settings)
    text = config.text or shipped_text()
    if known is None:
        text_bytes(text)
    mode, notes = _mode(config, headers)
    if config.chunk_tokens > trained:
        notes += (f"A model was trained with {trained:,} tokens of context, and a chunk has {config.chunk_tokens:,}.",)
    items: list[Item] = []
    if "tasks" in config.suites:
        own = [BUILT_IN_SUITE] if any(header.name == BUILT_IN_NAME for header in headers.values()) else []
        items = [item for name in config.tasks or (*GENERAL, *own) for item in read_suite(name)]
    general = [item for name in GENERAL for item in read_suite(name)] if "forgetting" in config.suites else []
    return EvalPlan(
        config, tuple(variants), headers, text, _drawn(items, config), _drawn(general, config), mode, context, notes
    )


def _check(config: EvalConfig) -> None:
    for name in config.suites:
        if name not in SUITES:
            raise BadValue(f"There is no suite {name!r}", f"There are {', '.join(SUITES)}.")
        if name in AGAINST_PARENT and config.base is None:
            raise BadValue(
                f"The suite {name} compares with a parent model", "Name it with --base, for example the F16 file."
            )
    if not LEAST_CHUNK <= config.chunk_tokens <= MOST_CHUNK:
        raise BadValue(
            f"A chunk cannot have {config.chunk_tokens:,} tokens", f"It takes {LEAST_CHUNK} to {MOST_CHUNK:,}: --chunk"
        )
    if min(config.chunks, config.threads, config.position_tokens) < 0 or not 0 <= config.minutes < math.inf:
        raise BadValue("A count or a time cannot be below 0 or without end", "0 sets no limit.")
    if not (1 <= config.needle_depths <= 101 and 1 <= config.needles <= 100 and 0 <= config.needle_others <= 7):
        raise BadValue(
            "The needles' grid is out of range", "It takes 1 to 101 depths, 1 to 100 needles a cell, 0 to 7 other keys."
        )
    if config.needle_mode not in NEEDLE_MODES:
        raise BadValue(f"There is no needle mode {config.needle_mode!r}", f"There are {', '.join(NEEDLE_MODES)}.")
    if any(not 32 <= length <= 16_777_216 for length in config.needle_lengths):
        raise BadValue("A needle's text cannot be as short or long", "Lengths are 32 tokens and more.")


def _drawn(items: list[Item], config: EvalConfig) -> tuple[Item, ...]:
    """Return the questions in the order they are asked: drawn where time may end it, so that the first are a sample."""
    if not config.minutes:
        return tuple(items)
    return tuple(items[at] for at in np.random.default_rng(config.seed).permutation(len(items)))


def _mode(config: EvalConfig, headers: Mapping[int, Header]) -> tuple[str, tuple[str, ...]]:
    """Return how KL divergence is measured: the parent beside each model where both fit into memory."""
    if config.base is None or config.mode != "auto":
        return ("exact" if config.mode == "auto" else config.mode), ()
    sizes = {number: _size(header) for number, header in headers.items()}
    needed = sizes[0] + max((size for number, size in sizes.items() if number), default=0)
    free = available_memory_bytes()
    if free and needed > 0.9 * free:
        return "bounded", (
            "The parent and a model do not fit into memory together: KL divergence is measured against the parent's "
            "kept log-probabilities, and is a lower bound.",
        )
    return "exact", ()


def _size(header: Header) -> int:
    return sum(shard.stat().st_size for shard in shard_paths(header))


def evaluate(plan: EvalPlan) -> Job[Report]:
    """Measure.

    Args:
        plan: What `plan_eval` returned.

    Yields:
        Progress in tokens or items, and numbers so far.

    Raises:
        BadValue: a text too short, or vocabularies that differ.
        ContextFull: a question that does not fit the context.
        EngineDied: the measuring process ended; what it had measured is kept.
    """
    config, began = plan.config, monotonic()
    for note in plan.notes:
        yield Noted(note)
    remove_oldest()
    memories = yield from _memories(plan)
    session = Session(config.threads or physical_cores())
    try:
        found = yield from Stages(plan, session).run()
    finally:
        session.close()
    return Report(
        command=config.command, version=version(), engine=installed_version("llama-cpp-python"),
        made=datetime.now(UTC).isoformat(timespec="seconds"), took_s=monotonic() - began,
        threads=config.threads or physical_cores(), seed=config.seed, base=config.base.label if config.base else "",
        models=tuple(_result(plan, number, found, memories[number]) for number, _ in plan.variants),
        text=found.text.used if found.text else None,
        position_text=found.position.used if found.position else None,
        general_text=found.general.used if found.general else None,
        notes=plan.notes, processor=processor_name(), times=tuple(found.times),
    )  # fmt: skip


def _memories(plan: EvalPlan) -> Job[dict[int, Bill]]:
    """Return what each model takes with its settings: weights, cache and computation, on all devices."""
    if not plan.config.plan_memory:
        machine = other_machine(())
        return {
            number: computed_bill(read_headers(header.path), _with_context(plan, number), machine)
            for number, header in plan.headers.items()
        }
    yield Started("planning memory", 0, "models")
    machine, bills, planning = this_machine(), {}, Planning()
    try:
        for number, variant in plan.variants:
            with Pricer(read_headers(variant.settings.model), machine, planning=planning) as pricer:
                bills[number] = pricer.price(_with_context(plan, number))
    finally:
        planning.close()
    return bills


def _with_context(plan: EvalPlan, number: int) -> LoadSettings:
    settings = dict(plan.variants)[number].settings
    trained = plan.headers[number].context_trained
    return replace(settings, n_ctx=settings.n_ctx or trained or plan.config.chunk_tokens)


def _result(plan: EvalPlan, number: int, found: Found, bill: Bill) -> ModelResult:
    """Return what was found of one model."""
    variant, header, base = dict(plan.variants)[number], plan.headers[number], plan.config.base is not None and number
    result = _about(variant, header, bill)
    if found.text:
        result = replace(result, perplexity=perplexity_of(found.text.surprises[number]))
        if number in found.text.kls:
            result = replace(
                result, divergence=found.text.divergence(number), mode=found.text.mode, outside=found.text.outside
            )
    if found.tasks:
        result = replace(result, tasks=task_results(plan.items, found.tasks[number], found.tasks[0] if base else None))
    if found.needles:
        result = replace(
            result,
            needle=needle_result(
                plan.needle_cells, found.needles[number], found.needles[0] if base else None, plan.config.needle_mode
            ),
        )
    if found.position:
        kls = found.position.kls.get(number)
        result = replace(result, position=by_position(found.position.surprises[number], kls))
    if found.speeds:
        result = replace(result, speed=speed_of(found.speeds[number], PROMPT_TOKENS, GENERATED_TOKENS))
    if found.general and number in found.general.kls:
        forgetting = forgetting_of(
            found.general.divergence(number), plan.general, found.general_tasks[number], found.general_tasks[0]
        )
        result = replace(result, forgetting=forgetting)
    return result


def _about(variant: Variant, header: Header, bill: Bill) -> ModelResult:
    size = _size(header) + sum(file.path.stat().st_size for file in read_adapters(variant.settings))
    return ModelResult(
        label=variant.label, file=variant.settings.model.name, flags=variant.flags, quant=header.quant,
        parameters=header.parameters, size_bytes=size, bits_per_weight=header.bits_per_weight,
        memory_bytes=bill.weights + bill.cache + bill.compute, context=bill.context,
    )  # fmt: skip
