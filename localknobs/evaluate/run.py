"""From what is asked to a report: checks first, then a job that measures suite after suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from time import monotonic
from typing import Any

from localknobs import version
from localknobs.convert.imatrix import text_bytes
from localknobs.engine.checks import cache_bytes_per_token, plan_context
from localknobs.errors import BadValue
from localknobs.evaluate.config import LEAST_CHUNK, MOST_CHUNK, SUITES, EvalConfig, Variant
from localknobs.evaluate.results import ModelResult, Report
from localknobs.evaluate.session import Clock, Session
from localknobs.evaluate.statistics import divergence_of, perplexity_of
from localknobs.evaluate.store import file_mark, remove_oldest
from localknobs.evaluate.text_pass import Readings, TextPass, read_pass
from localknobs.gguf_info import Header, check_is_model, read_header, shard_paths
from localknobs.hardware import available_memory_bytes, physical_cores
from localknobs.jobs import Job, Noted

DEFAULT_TEXT = "localknobs-held-out"
"""Name of the text that is shipped, in reports."""


def shipped_text() -> Path:
    """Return the evaluation text that is shipped.

    Our own writing, of the kinds of text that models meet, and none of it in the calibration text of the importance
    matrix: a quant made with that one is measured on words it never saw.
    """
    return Path(__file__).with_name("data") / "held-out.txt"


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """A checked plan.

    Args:
        config: What was asked.
        variants: Models with their numbers, the parent first, which has the number 0.
        headers: Of their files, by number.
        text: The text's file.
        mode: How KL divergence is measured.
        notes: What the user should know.
    """

    config: EvalConfig
    variants: tuple[tuple[int, Variant], ...]
    headers: Mapping[int, Header]
    text: Path
    mode: str
    notes: tuple[str, ...]


def plan_eval(config: EvalConfig) -> EvalPlan:
    """Check everything that can be checked before a model is loaded.

    Raises:
        NotFound, BadFile: a model or the text is missing or damaged.
        BadValue: a suite or size out of range, or a parent that is missing.
        NotEnough: a context does not fit into memory.
    """
    for name in config.suites:
        if name not in SUITES:
            raise BadValue(f"There is no suite {name!r}", f"There are {', '.join(SUITES)}.")
    if "kld" in config.suites and config.base is None:
        raise BadValue("The suite kld compares with a parent model", "Name it with --base, for example the F16 file.")
    if not LEAST_CHUNK <= config.chunk_tokens <= MOST_CHUNK:
        raise BadValue(
            f"A chunk cannot have {config.chunk_tokens:,} tokens", f"It takes {LEAST_CHUNK} to {MOST_CHUNK:,}: --chunk"
        )
    if config.chunks < 0 or config.threads < 0 or config.minutes < 0:
        raise BadValue("A count or a time cannot be below 0", "0 sets no limit.")
    variants = [(0, config.base)] if config.base else []
    variants += [(number, variant) for number, variant in enumerate(config.models, 1)]
    headers = {}
    for number, variant in variants:
        headers[number] = read_header(variant.settings.model)
        check_is_model(headers[number])
        plan_context(headers[number], replace(variant.settings, n_ctx=config.chunk_tokens))
    text = config.text or shipped_text()
    text_bytes(text)
    mode, notes = _mode(config, headers)
    trained = min((header.context_trained for header in headers.values() if header.context_trained), default=0)
    if trained and config.chunk_tokens > trained:
        notes += (f"A model was trained with {trained:,} tokens of context, and a chunk has {config.chunk_tokens:,}.",)
    return EvalPlan(config, tuple(variants), headers, text, mode, notes)


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
        EngineDied: the measuring process ended; what it had measured is kept.
    """
    config, began = plan.config, monotonic()
    for note in plan.notes:
        yield Noted(note)
    remove_oldest()
    marks = {number: _mark(variant, plan.headers[number]) for number, variant in plan.variants}
    clock = Clock(config.minutes)
    readings: Readings | None = None
    session = Session(config.threads or physical_cores())
    try:
        if {"ppl", "kld"} & set(config.suites):
            reading = TextPass(
                plan.text, config.text.name if config.text else DEFAULT_TEXT, config.chunk_tokens,
                config.chunk_tokens // 2, "kld" in config.suites, plan.mode,
            )  # fmt: skip
            readings = yield from read_pass(session, config, plan.variants, marks, reading, clock)
    finally:
        session.close()
    models = []
    for number, variant in plan.variants:
        found = _about(variant, plan.headers[number], config)
        if readings:
            found = replace(found, perplexity=perplexity_of(readings.surprises[number]))
            if number in readings.kls:
                divergence = divergence_of(
                    readings.kls[number], readings.same_top[number], readings.surprises[0], readings.surprises[number]
                )
                found = replace(found, divergence=divergence, mode=readings.mode, outside=readings.outside)
        models.append(found)
    return Report(
        command=config.command, version=version(), engine=installed_version("llama-cpp-python"),
        made=datetime.now(UTC).isoformat(timespec="seconds"), took_s=monotonic() - began,
        threads=config.threads or physical_cores(), seed=config.seed, base=config.base.label if config.base else "",
        models=tuple(models), text=readings.used if readings else None, notes=plan.notes,
    )  # fmt: skip


def _mark(variant: Variant, header: Header) -> dict[str, Any]:
    """Return what tells the numbers of a model from those of another; threads change none."""
    settings = {field.name: getattr(variant.settings, field.name) for field in fields(variant.settings)}
    for free in ("model", "threads", "n_ctx", "use_extra_bufts"):
        settings.pop(free)
    return {
        "files": [file_mark(shard) for shard in shard_paths(header)], "settings": settings,
        "engine": installed_version("llama-cpp-python"),
    }  # fmt: skip


def _about(variant: Variant, header: Header, config: EvalConfig) -> ModelResult:
    size = _size(header)
    context = variant.settings.n_ctx or header.context_trained or config.chunk_tokens
    return ModelResult(
        label=variant.label, file=variant.settings.model.name, flags=variant.flags, quant=header.quant,
        parameters=header.parameters, size_bytes=size, bits_per_weight=header.bits_per_weight,
        memory_bytes=size + context * cache_bytes_per_token(header), context=context,
    )  # fmt: skip
