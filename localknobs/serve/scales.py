"""Scales of adapters in requests, in llama-server's form: `[{"id": 0, "scale": 0.5}]`."""

from __future__ import annotations

from typing import Any

from localknobs.serve.refused import Refused


def scales_of(given: Any, count: int, field: str | None) -> tuple[float, ...]:
    """Return a scale for every adapter of the server; one that is not named has 0, as in llama-server.

    Args:
        given: What the request says.
        count: Adapters that the server has.
        field: What an error names; None where it is the whole body.

    Raises:
        Refused: it has another form, or names an adapter that is not there.
    """
    where = f"`{field}`" if field else "The body"
    if not isinstance(given, list):
        raise Refused(400, f'{where} must be a list such as [{{"id": 0, "scale": 0.5}}].', param=field)
    scales = [0.0] * count
    for one in given:
        number, scale = (one.get("id"), one.get("scale")) if isinstance(one, dict) else (None, None)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) <= 1e6:
            raise Refused(400, f"{where} needs an id and a scale, a number, in each of its objects.", param=field)
        if type(number) is not int or not 0 <= number < count:
            there = "none; --lora FILE gives it some" if not count else f"0 to {count - 1} (/lora-adapters lists them)"
            raise Refused(400, f"There is no adapter {number!r} here: the server has {there}.", param=field)
        scales[number] = float(scale)
    return tuple(scales)
