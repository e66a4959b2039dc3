"""Where a knob's value stands on a slider, and the way back: linear or logarithmic, special values at the left end.

Pure arithmetic over the rows; a screen draws what is returned here.
"""

from __future__ import annotations

import math

from localknobs.knobs.record import Knob, Value

SPECIAL_SHARE = 0.06
"""Share of the slider that belongs to a special value below the range (-1 = off)."""
WIDE_STEPS = 10
"""Steps of a wide move on a linear scale."""
WIDE_FACTOR = 1.5
"""Factor of a wide move on a logarithmic scale."""


def has_slider(row: Knob) -> bool:
    """Whether a slider makes sense: a number whose range a person would slide over (a seed is not)."""
    return row.is_number and row.low is not None and slider_high(row) - slider_low(row) <= 20_000_000


def slider_low(row: Knob) -> float:
    """Return the value at the left end, apart from a special value below it."""
    assert row.low is not None
    return row.low if row.live_low is None else row.live_low


def slider_high(row: Knob) -> float:
    """Return the value at the right end: the highest one people use, not the highest one allowed."""
    high = row.live_high if row.live_high is not None else row.high
    return math.inf if high is None else high


def below_range(row: Knob) -> float | None:
    """Return the special value under the range, such as -1 for off; None when there is none."""
    values = [value for value, _ in row.special if row.low is not None and value < row.low]
    return max(values, default=None)


def fraction_of(row: Knob, value: Value) -> float:
    """Return where a value stands on the slider, from 0 (left) to 1 (right)."""
    assert isinstance(value, int | float) and row.low is not None
    special = below_range(row)
    if special is not None and value < row.low:
        return 0.0
    span = slider_high(row) - slider_low(row)
    part = min(1.0, max(0.0, (value - slider_low(row)) / span))
    if row.scale == "log":
        part = math.log1p(part * span) / math.log1p(span)
    return part if special is None else SPECIAL_SHARE + part * (1 - SPECIAL_SHARE)


def value_at(row: Knob, fraction: float) -> Value:
    """Return the value at a place of the slider, rounded to the knob's step.

    Args:
        row: The knob.
        fraction: 0 (left) to 1 (right); beyond is taken as the end.
    """
    assert row.low is not None
    fraction = min(1.0, max(0.0, fraction))
    special = below_range(row)
    if special is not None:
        if fraction < SPECIAL_SHARE:
            return row.check(special)
        fraction = (fraction - SPECIAL_SHARE) / (1 - SPECIAL_SHARE)
    span = slider_high(row) - slider_low(row)
    part = math.expm1(fraction * math.log1p(span)) / span if row.scale == "log" else fraction
    return _on_step(row, slider_low(row) + part * span)


def stepped(row: Knob, value: Value, direction: int, *, wide: bool = False) -> Value:
    """Return the neighbour of a value.

    Args:
        row: The knob.
        value: Where to step from.
        direction: 1 up, -1 down.
        wide: Ten steps, or half as much again on a logarithmic scale.

    Returns:
        The neighbour inside the range; stepping down from the lowest value gives the special one below it.
    """
    assert isinstance(value, int | float) and row.low is not None
    special = below_range(row)
    if value < row.low:
        return row.check(row.low if direction > 0 else value)
    if special is not None and direction < 0 and value <= row.low:
        return row.check(special)
    change = row.step
    if wide:
        change = max(row.step, value * (WIDE_FACTOR - 1)) if row.scale == "log" else row.step * WIDE_STEPS
    return _on_step(row, value + direction * change)


def _on_step(row: Knob, value: float) -> Value:
    assert row.low is not None
    high = math.inf if row.high is None else row.high
    rounded = round(value / row.step) * row.step
    # 0.1 + 0.2 must not be shown, saved and compared as 0.30000000000000004.
    rounded = float(f"{rounded:.10g}")
    return row.check(min(high, max(row.low, rounded)))
