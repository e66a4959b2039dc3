"""What a fine-tuning did, for the cards of its knobs and of its lever."""

from __future__ import annotations

import math

from localknobs.knobs import ALL_KNOBS
from localknobs.measured_effects import MeasuredEffect
from localknobs.tune.finetune import TuneResult
from localknobs.tune.plan import TunePlan


def effect_of(plan: TunePlan, result: TuneResult, command: str) -> MeasuredEffect | None:
    """Return what a training did to held-out and general text; None when neither was measured.

    Args:
        plan: What was asked for.
        result: What came of it.
        command: The command line that does it again.
    """
    parts: list[str] = []
    numbers: dict[str, float] = {}
    for key, name, form in (
        ("held_out", "held-out loss", ".3f"), ("right", "held-out questions answered right", ".0%"),
        ("general", "loss on general text", ".3f"),
    ):  # fmt: skip
        before, after = result.before.get(key, math.nan), result.after.get(key, math.nan)
        if not math.isnan(before) and not math.isnan(after):
            parts.append(f"{name} {before:{form}} -> {after:{form}}")
            numbers |= {f"{key}_before": before, key: after}
    if not parts:
        return None
    turned = {
        name: ALL_KNOBS[name].show(value)
        for name, value in plan.values.items()
        if name in ALL_KNOBS and value != ALL_KNOBS[name].default
    }
    parts.append(f"{result.steps:,} steps in {result.seconds / 60:.1f} minutes")
    return MeasuredEffect(
        lever="finetune", settings={"data": plan.config.data.name, **turned}, model=plan.config.base.name,
        against="the model before", text="; ".join(parts),
        numbers=numbers, command=command,
    )  # fmt: skip
