"""What a report says of the changes it compares: one record for each model beside its parent, for the knobs' cards."""

from __future__ import annotations

import math
from pathlib import Path

from localknobs.errors import LocalknobsError
from localknobs.evaluate.config import EvalConfig, Variant
from localknobs.evaluate.results import ModelResult, Report
from localknobs.knobs import KNOBS, Lever, knobs_of
from localknobs.ledger import read_card
from localknobs.measured_effects import MeasuredEffect
from localknobs.units import size_text

_LEVER_OF_VERB: dict[str, Lever] = {
    "quantize": "quantize", "convert": "quantize", "merge": "finetune", "finetune": "finetune", "context": "context",
}  # fmt: skip
"""The lever that a verb moves when it makes a file."""
_NOT_COMPARED = ("n_ctx", "threads", "threads_batch")
"""What a report sets for all of its models alike."""


def effects_of_report(config: EvalConfig, report: Report) -> list[MeasuredEffect]:
    """Return what each change did, against the parent of the report; none without a parent.

    Args:
        config: What was asked for.
        report: What was found.
    """
    if config.base is None or not report.models:
        return []
    parent, *others = report.models
    found = []
    for variant, result in zip(config.models, others, strict=True):
        settings = _turned(config.base, variant, parent, result)
        text, numbers = _told(parent, result)
        if settings and text:
            found.append(
                MeasuredEffect(
                    lever=_lever(config.base, variant, settings), settings=settings,
                    model=result.label.removesuffix(variant.flags).strip(),
                    against=report.base, text=text, numbers=numbers, command=report.command, when=report.made,
                )
            )  # fmt: skip
    return found


def _turned(base: Variant, variant: Variant, parent: ModelResult, result: ModelResult) -> dict[str, str]:
    """Return what differs between a model and its parent: the file's type, adapters, loading knobs."""
    turned = {}
    if base.settings.model != variant.settings.model:
        turned["type"] = result.quant if result.quant != parent.quant else result.file
    for row in knobs_of("loading"):
        before, now = getattr(base.settings, row.name, None), getattr(variant.settings, row.name, None)
        if now is not None and before != now and row.name not in _NOT_COMPARED:
            # Of files the names will do.
            turned[row.name] = ", ".join(Path(text).name for text in now) if row.kind == "texts" else row.show(now)
    return turned


def _lever(base: Variant, variant: Variant, settings: dict[str, str]) -> Lever:
    if "type" in settings:
        try:
            return _LEVER_OF_VERB.get(read_card(variant.settings.model).verb, "quantize")
        except LocalknobsError:
            return "quantize"
    if "lora" in settings:
        return "finetune"
    return KNOBS[next(iter(settings))].lever


def _told(parent: ModelResult, result: ModelResult) -> tuple[str, dict[str, float]]:
    """Return what came of a change, as a phrase, and its figures."""
    parts: list[str] = []
    numbers: dict[str, float] = {}
    for name, key in (("file", "size_bytes"), ("memory", "memory_bytes")):
        before, now = getattr(parent, key), getattr(result, key)
        if before and now and before != now:
            parts.append(f"{name} {size_text(now)} instead of {size_text(before)}")
            numbers |= {key: now, f"{key}_before": before}
    if divergence := result.divergence:
        mean, top = divergence.mean, divergence.same_top
        parts.append(f"mean KL divergence {mean.value:.4g} ± {mean.error:.2g}, same top token {top.value:.1%}")
        numbers |= {"kld_mean": mean.value, "kld_mean_error": mean.error, "same_top": top.value}
    if parent.perplexity and result.perplexity:
        before, now = parent.perplexity.value, result.perplexity.value
        parts.append(f"perplexity {now:.4g} instead of {before:.4g} ({now / before - 1:+.2%})")
        numbers |= {"perplexity": now, "perplexity_before": before}
    for task in result.tasks:
        own = next((one for one in parent.tasks if one.suite == task.suite), None)
        if own:
            parts.append(f"{task.suite} {task.share.value:.0%} instead of {own.share.value:.0%}")
            numbers |= {f"task_{task.suite}": task.share.value, f"task_{task.suite}_before": own.share.value}
    if parent.needle and result.needle:
        before, now = parent.needle.share.value, result.needle.share.value
        parts.append(f"needles found {now:.0%} instead of {before:.0%}")
        numbers |= {"needle": now, "needle_before": before}
    if parent.speed and result.speed:
        before, now = parent.speed.generation, result.speed.generation
        parts.append(f"writes {now:,.0f} tokens/s instead of {before:,.0f} ({now / before - 1:+.0%})")
        numbers |= {"tokens_per_s": now, "tokens_per_s_before": before}
    return "; ".join(parts), {name: value for name, value in numbers.items() if math.isfinite(value)}
