"""What a measurement would take, suite by suite, before it is begun: how much is read, and about how long.

Times come from what was measured on this machine: from the stages of earlier reports, else from `localknobs bench`.
Where neither has anything of a like model, there is no time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from localknobs.convert.imatrix import text_bytes
from localknobs.engine.tokens import tokens_of
from localknobs.errors import LocalknobsError
from localknobs.evaluate.config import AGAINST_PARENT, LEAST_CHUNKS, STAGES_OF, SUITES, EvalConfig
from localknobs.evaluate.kept_reports import kept_reports
from localknobs.evaluate.results import StageTime
from localknobs.evaluate.run import EvalPlan, plan_eval
from localknobs.evaluate.stages import LONGEST_CHUNK, ROUNDS, shipped_text
from localknobs.evaluate.text_pass import check_length
from localknobs.hardware import processor_name
from localknobs.measured_speeds import measured_speeds

ALIKE = 8.0
"""A measurement of a model up to so many times larger or smaller tells about another."""
UNITS = {
    "text": "tokens", "general text": "tokens", "position": "tokens", "needle": "tokens",
    "tasks": "questions", "general tasks": "questions", "speed": "rounds",
}  # fmt: skip
"""What is counted of each stage, of all models together."""
_BENCH = "bench"
"""Stands for a stage in times that `localknobs bench` took: tokens of a prompt."""


@dataclass(frozen=True, slots=True)
class SuitePrice:
    """What one suite would take.

    Args:
        suite: Its name.
        chosen: Whether it is asked for.
        amount: What is worked through, in words.
        seconds: About how long; None where nothing like it was measured here.
        trouble: Why it cannot be done, and what to do; empty where it can.
    """

    suite: str
    chosen: bool
    amount: str = ""
    seconds: float | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """What a measurement would take.

    Args:
        models: Their labels, the parent first.
        base: Label of the parent; empty for none.
        context: Tokens that long suites use.
        suites: All there are, in order.
        seconds: Of what is asked for; None where it is not known.
        notes: What the user should know.
        command: The command line.
    """

    models: tuple[str, ...]
    base: str
    context: int
    suites: tuple[SuitePrice, ...]
    seconds: float | None
    notes: tuple[str, ...]
    command: str

    def as_mapping(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return asdict(self)


def price_of(config: EvalConfig) -> Price:
    """Check what is asked for, and say what it would take.

    Raises:
        As `plan_eval`; also `BadValue` for a text that is too short.
    """
    plan = plan_eval(config)
    past = _past()
    prices: list[SuitePrice] = []
    known: dict[str, float | None] = {}
    for suite in SUITES:
        chosen = suite in config.suites
        if suite in AGAINST_PARENT and config.base is None:
            prices.append(SuitePrice(suite, chosen, trouble="It compares with a parent model."))
            continue
        try:
            stages = _stages(plan_eval(replace(config, suites=(suite,)), plan))
        except LocalknobsError as error:
            if chosen:
                raise
            prices.append(SuitePrice(suite, chosen, trouble=str(error)))
            continue
        seconds = {stage: _seconds(stage, units, plan.parameters, past) for stage, units in stages.items()}
        if chosen:
            known |= seconds
        amount = " and ".join(f"{units:,} {UNITS[stage]}" for stage, units in stages.items())
        prices.append(SuitePrice(suite, chosen, amount, _sum(seconds.values())))
    total = _sum(known.values())
    if total is not None and config.minutes:
        total = min(total, 60 * config.minutes)
    labels = tuple(variant.label for _, variant in plan.variants)
    return Price(
        labels, config.base.label if config.base else "", plan.context, tuple(prices), total, plan.notes, config.command
    )


def _stages(plan: EvalPlan) -> dict[str, int]:
    """Return how much there is to do in each stage of a plan of one suite, all models together."""
    config, models = plan.config, len(plan.variants)
    (suite,) = config.suites
    found = {}
    for stage in STAGES_OF[suite]:
        if stage in ("text", "general text", "position"):
            found[stage] = models * _text_tokens(plan, stage)
        elif stage == "needle":
            found[stage] = models * sum(cell["length"] for cell in plan.needle_cells)
        elif stage == "speed":
            found[stage] = models * ROUNDS
        else:
            found[stage] = models * len(plan.items if stage == "tasks" else plan.general)
    return found


def _text_tokens(plan: EvalPlan, stage: str) -> int:
    """Return the tokens that one model reads of a text."""
    config = plan.config
    size, least = config.chunk_tokens, LEAST_CHUNKS
    if stage == "position":
        size, least = config.position_tokens or min(plan.context, LONGEST_CHUNK), 1
    _, variant = plan.variants[0]
    count = _count(variant.settings.model, shipped_text() if stage == "general text" else plan.text)
    check_length(variant.label, count, size, least)
    chunks = count // size
    return size * (chunks if stage == "general text" else min(chunks, config.chunks or chunks))


@cache
def _count(model: Path, text: Path) -> int:
    """Return a text's tokens, with the begin token, which most models want."""
    return len(tokens_of(model, [(text_bytes(text).decode("utf-8"), False)])[0]) + 1


def _past() -> list[StageTime]:
    """Return what was timed on this machine: stages, the newest first, and the prompts of `localknobs bench`."""
    here = processor_name()
    times = [time for kept in kept_reports() if kept.report.processor == here for time in kept.report.times]
    times += [
        StageTime(_BENCH, one.prompt_tokens_per_s, one.parameters, 1.0)
        for one in measured_speeds()
        if one.processor == here
    ]
    return [time for time in times if time.units > 0 and time.parameters > 0]


def _seconds(stage: str, units: int, parameters: float, past: Sequence[StageTime]) -> float | None:
    """Return about how long a stage takes: by the nearest model that was measured, larger ones take longer."""
    alike = [time for time in past if _work_of(time.stage) == _work_of(stage)]
    if not alike and UNITS[stage] == "tokens":
        alike = [time for time in past if time.stage == _BENCH]
    if not alike or parameters <= 0:
        return None

    def distance(time: StageTime) -> float:
        return abs(math.log(time.parameters / parameters))

    nearest = min(alike, key=distance)
    cost = nearest.seconds / nearest.units / nearest.parameters
    return units * parameters * cost if distance(nearest) <= math.log(ALIKE) else None


def _work_of(stage: str) -> str:
    """Return what a stage works at: general text is read as any other."""
    return stage.removeprefix("general ")


def _sum(seconds: Iterable[float | None]) -> float | None:
    found = list(seconds)
    known = [one for one in found if one is not None]
    return sum(known) if known and len(known) == len(found) else None
