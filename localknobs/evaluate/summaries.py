"""From records to results: shares with their intervals, pairs with the parent, curves by place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from localknobs.evaluate.results import (
    Forgetting,
    NeedleCell,
    NeedleResult,
    Paired,
    PositionBucket,
    Share,
    Speed,
    TaskResult,
)
from localknobs.evaluate.statistics import Divergence, Floats, mcnemar, mean_of, perplexity_of, wilson_interval
from localknobs.evaluate.tasks import Item, is_right, is_right_by_length

Records = Mapping[Any, Mapping[str, Any]]
BUCKETS = 16
"""Most places that a curve by position has."""


def share_of(right: Sequence[bool]) -> Share:
    """Return how many are right, with the interval."""
    count = len(right)
    low, high = wilson_interval(sum(right), count)
    return Share(sum(right), count, sum(right) / count if count else math.nan, low, high)


def paired(base: Sequence[bool], own: Sequence[bool]) -> Paired:
    """Return how answers to the same items differ."""
    lost = sum(before and not now for before, now in zip(base, own, strict=True))
    gained = sum(now and not before for before, now in zip(base, own, strict=True))
    return Paired(lost, gained, mcnemar(lost, gained))


def task_results(items: Sequence[Item], records: Records, base: Records | None) -> tuple[TaskResult, ...]:
    """Return one result a suite.

    Args:
        items: Of all suites.
        records: A model's, by item key.
        base: The parent's; None for none, or where this is the parent.
    """
    found = []
    for suite in dict.fromkeys(item.suite for item in items):
        whole = [item for item in items if item.suite == suite]
        asked = [item for item in whole if item.key in records]
        right = [is_right(item, records[item.key]) for item in asked]
        chosen = [item for item in asked if item.choices]
        names = list(dict.fromkeys(item.group for item in asked))
        groups = tuple(
            (name, share_of([ok for item, ok in zip(asked, right, strict=True) if item.group == name]))
            for name in names
        )
        found.append(
            TaskResult(
                suite,
                share_of(right),
                share_of([is_right_by_length(item, records[item.key]) for item in chosen]) if chosen else None,
                groups if len(names) > 1 else (),
                paired([is_right(item, base[item.key]) for item in asked], right) if base is not None else None,
                len(whole),
            )
        )
    return tuple(found)


def needle_result(
    cells: Sequence[Mapping[str, Any]], records: Records, base: Records | None, mode: str = "logprob"
) -> NeedleResult:
    """Return the grid of a model.

    Args:
        cells: What was asked for, one a needle.
        records: A model's, by cell key.
        base: The parent's.
        mode: How it was told whether a needle was found.
    """
    asked = [cell for cell in cells if cell["cell"] in records]
    places = dict.fromkeys((cell["length"], cell["depth"]) for cell in asked)
    found = []
    for length, depth in sorted(places):
        there = [records[cell["cell"]] for cell in asked if (cell["length"], cell["depth"]) == (length, depth)]
        mean = sum(record.get("log_probability", math.nan) for record in there) / len(there)
        found.append(NeedleCell(length, depth, share_of([record["found"] for record in there]), mean))
    right = [records[cell["cell"]]["found"] for cell in asked]
    before = [base[cell["cell"]]["found"] for cell in asked] if base is not None else None
    return NeedleResult(share_of(right), tuple(found), paired(before, right) if before is not None else None, mode)


def by_position(surprises: Sequence[Floats], kls: Sequence[Floats] | None) -> tuple[PositionBucket, ...]:
    """Return perplexity by place in the context, places in even steps.

    Args:
        surprises: One array a chunk, from its second token on.
        kls: Divergences from the parent, of the same shape.
    """
    length = len(surprises[0])
    step = -(-length // BUCKETS)
    return tuple(
        PositionBucket(
            begin + 1,
            min(length, begin + step) + 1,
            perplexity_of([chunk[begin : begin + step] for chunk in surprises]),
            mean_of([chunk[begin : begin + step] for chunk in kls]) if kls else None,
        )
        for begin in range(0, length, step)
    )


def speed_of(records: Sequence[Mapping[str, float]], prompt: int, generated: int) -> Speed:
    """Return the medians of rounds of timing."""
    read = sorted(record["prompt_tokens_per_s"] for record in records)
    written = sorted(record["tokens_per_s"] for record in records)
    return Speed(
        median(read), read[0], read[-1], median(written), written[0], written[-1], prompt, generated, len(records)
    )  # fmt: skip


def forgetting_of(
    divergence: Divergence, items: Sequence[Item], records: Records, base: Records,
) -> Forgetting:  # fmt: skip
    """Return what was lost of the parent's general abilities."""
    asked = [item for item in items if item.key in records]
    right = [is_right(item, records[item.key]) for item in asked]
    pairs = paired([is_right(item, base[item.key]) for item in asked], right)
    return Forgetting(divergence, share_of(right), pairs, _verdict(divergence, pairs))


def _verdict(divergence: Divergence, pairs: Paired) -> str:
    ratio = divergence.log_ratio
    low, middle, high = (f"x{math.exp(value):.3f}" for value in (ratio.low, ratio.value, ratio.high))
    numbers = f"{middle}, 95% {low} to {high}"
    if ratio.low > 0:
        text = f"General text is predicted worse: perplexity {numbers}"
    elif ratio.high < 0:
        text = f"General text is predicted better: perplexity {numbers}"
    else:
        text = f"No change on general text that could be told from chance: perplexity {numbers}"
    tasks = f"{pairs.lost} general tasks lost, {pairs.gained} gained"
    if pairs.p_value < 0.05:
        return f"{text}; {tasks}, more than chance would (p = {pairs.p_value:.2g})."
    return f"{text}; {tasks}, no more than chance might (p = {pairs.p_value:.2g})."
