"""Working through units (questions, needles, rounds of timing) with all models, keeping each record as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localknobs.evaluate.config import EvalConfig, Variant
from localknobs.evaluate.session import Clock, Session
from localknobs.evaluate.store import RecordsOfModels
from localknobs.hardware import available_memory_bytes
from localknobs.jobs import Advanced, Job, Noted, Started

Numbered = tuple[int, Variant]


@dataclass(frozen=True, slots=True)
class UnitPass:
    """What is worked through.

    Args:
        order: What the measuring process is told to do, such as `items`.
        units: In the order they are worked through; `key` names each.
        key: The key that tells a unit and its record from others.
        what: What is being done, as a phrase.
        unit: What a unit is called, in the plural.
        context: Tokens that the models must hold.
        extra: Let llama.cpp repack weights.
    """

    order: str
    units: Sequence[Mapping[str, Any]]
    key: str
    what: str
    unit: str
    context: int
    extra: bool = False


def groups_of(variants: Sequence[Numbered]) -> list[list[Numbered]]:
    """Return the models in groups that are open together: all, where they take less than half of the free memory."""
    sizes = sum(variant.settings.model.stat().st_size for _, variant in variants)
    free = available_memory_bytes()
    return [list(variants)] if not free or sizes < free // 2 else [[one] for one in variants]


def work_through(
    session: Session,
    config: EvalConfig,
    variants: Sequence[Numbered],
    marks: Mapping[int, Mapping[str, Any]],
    work: UnitPass,
    clock: Clock,
) -> Job[dict[int, dict[Any, dict[str, Any]]]]:
    """Work through units with all models; return for each model number the records by unit, the same units for all.

    Where time ends, later groups of models do exactly what the first had time for.
    """
    opened = RecordsOfModels(work.key, restart=config.restart)
    stores = {number: opened.open({"measure": work.order, "model": marks[number]}) for number, _ in variants}
    allowed = list(work.units)
    try:
        for at, group in enumerate(groups := groups_of(variants)):
            clock.begin_group(len(group), sum(map(len, groups[at:])))
            numbers = [number for number, _ in group]
            left = [unit for unit in allowed if any(unit[work.key] not in stores[number].found for number in numbers)]
            if not left:
                continue
            names = ", ".join(variant.label for _, variant in group)
            yield Started(f"loading {names}", 0, work.unit)
            session.open(group, work.context, extra=work.extra)
            if done := len(allowed) - len(left):
                yield Noted(
                    f"{done} of {len(allowed)} {work.unit} were done before and are kept: --restart does them anew."
                )
            yield Started(f"{work.what} {names}", len(left) * len(group), work.unit)
            order = {"do": work.order, work.order if work.order == "items" else "cells": left}
            for record in session.records(order, lambda first=at == 0: first and clock.is_over()):  # type: ignore[misc]
                stores[record["model"]].add(record)
                yield Advanced(1)
            if at == 0 and clock.runs:
                allowed = [u for u in allowed if all(u[work.key] in stores[number].found for number in numbers)]
    finally:
        opened.close()
    return {
        number: {unit[work.key]: store.found[unit[work.key]] for unit in allowed} for number, store in stores.items()
    }
