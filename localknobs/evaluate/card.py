"""What a report says of one model, in the few numbers that its ledger card keeps."""

from __future__ import annotations

from typing import Any

from localknobs.evaluate.results import ModelResult, Report, plain


def measurement_of(result: ModelResult, report: Report) -> dict[str, Any]:
    """Return the measurement for `ledger.add_measurement`.

    Args:
        result: One model of the report.
        report: The report; its command, texts and parent say what the numbers mean.
    """
    text = report.text
    measured: dict[str, Any] = {
        "kind": "eval",
        "settings": {
            "flags": result.flags,
            "base": report.base if report.base != result.label else "",
            "text": f"{text.name} {text.sha256[:12]}, {text.chunks} chunks of {text.chunk_tokens}" if text else "",
            "tasks": [task.suite for task in result.tasks],
            "seed": report.seed,
        },
        "command": report.command,
    }
    if result.perplexity:
        measured |= {"perplexity": result.perplexity.value, "perplexity_error": result.perplexity.error}
    if divergence := result.divergence:
        measured |= {
            "kld_mean": divergence.mean.value,
            "kld_99.9%": divergence.percentile_999,
            "same_top": divergence.same_top.value,
            "kld_mode": result.mode,
        }
    for task in result.tasks:
        measured[f"task_{task.suite}"] = task.share.value
    if result.needle:
        measured["needle"] = result.needle.share.value
    if result.speed:
        measured |= {"prompt_tokens_per_s": result.speed.prompt, "tokens_per_s": result.speed.generation}
    if result.forgetting:
        measured["forgetting_kld"] = result.forgetting.divergence.mean.value
    kept: dict[str, Any] = plain(measured)
    return kept
