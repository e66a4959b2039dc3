"""A picture of curves, over a shaded part where there is one, drawn with the dots of braille letters: eight a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

Points = Sequence[tuple[float, float]]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille letter, by line and column of its dots (Unicode 2800 to 28FF)."""
_EIGHTHS = " ▁▂▃▄▅▆▇█"
LABEL_WIDTH = 8
SHADE = "success-muted"
"""Theme variable of the shaded part."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve.

    Args:
        name: What the legend calls it.
        points: From left to right.
        colour: Theme variable.
    """

    name: str
    points: Points
    colour: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What a plot shows.

    Args:
        title: Above it.
        lines: The curves; where two meet, the later one is seen.
        x_name, y_name: What the axes count.
        shade: The part beneath this curve is shaded, as far to the right as it goes; empty for none.
        shade_name: What the legend calls the shaded part.
        log: Whether the height is logarithmic; values of 0 stand at its lower end.
        low: Lower end of a logarithmic height.
        last: Right end, where the curves are still on their way there; 0 for where they end.
    """

    title: str
    lines: tuple[Line, ...]
    x_name: str
    y_name: str
    shade: Points = ()
    shade_name: str = ""
    log: bool = False
    low: float = 0.0
    last: float = 0.0


class Plot(Widget):
    """Draws a picture as large as it is; set `picture`."""

    DEFAULT_CSS = """
    Plot { height: 1fr; min-height: 6; }
    """
    picture: reactive[Picture | None] = reactive(None)

    def render(self) -> Text:
        """Draw title, legend, curves and axis."""
        width, height = self.size
        picture = self.picture
        if picture is None or height < 5 or width < LABEL_WIDTH + 8:
            return Text()
        lines = [Text(picture.title, "bold"), self._legend(picture)]
        lines += self._body(picture, width - LABEL_WIDTH, height - 3)
        lines.append(_axis(picture, width))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines)

    def _legend(self, picture: Picture) -> Text:
        theme = self.app.theme_variables
        text = Text()
        if picture.shade:
            text = Text.assemble(("  ", Style(bgcolor=theme[SHADE])), f" {picture.shade_name}")
        for line in picture.lines:
            text.append("  ⣀⠤⠒ ", theme[line.colour])
            text.append(line.name)
        return text

    def _body(self, picture: Picture, columns: int, rows: int) -> list[Text]:
        first, last, top = _ends(picture)
        floor = picture.low if picture.log else 0.0
        places = [first + (last - first) * dot / (2 * columns - 1) for dot in range(2 * columns)]

        def share(value: float) -> float:
            if value >= top:
                return 1.0
            if not picture.log:
                return value / top
            return max(0.0, math.log(max(value, floor) / floor) / math.log(top / floor))

        bits = [[0] * columns for _ in range(rows)]
        colours = [[""] * columns for _ in range(rows)]
        for line in picture.lines:
            before = None
            for dot, place in enumerate(places):
                value = _at(line.points, place)
                if value is None:
                    continue
                at = round((1 - share(value)) * (4 * rows - 1))
                low, high = sorted((at, at if before is None else before))
                for step in range(low, high + 1):
                    bits[step // 4][dot // 2] |= _DOTS[step % 4][dot % 2]
                    colours[step // 4][dot // 2] = line.colour
                before = at
        ceilings = [_at(picture.shade, place) for place in places[::2]]
        theme, drawn = self.app.theme_variables, []
        shade = theme[SHADE]
        for row in range(rows):
            label = {0: _short(top), 1: picture.y_name, rows - 1: _short(floor)}.get(row, "")
            text = Text.assemble((f"{label:>{LABEL_WIDTH - 1}.{LABEL_WIDTH - 1}} ", "dim"))
            for column, ceiling in enumerate(ceilings):
                colour = theme[colours[row][column]] if bits[row][column] else None
                filled = 0.0 if ceiling is None else min(1.0, max(0.0, share(ceiling) * rows - (rows - 1 - row)))
                if bits[row][column]:
                    text.append(
                        chr(0x2800 + bits[row][column]), Style(color=colour, bgcolor=shade if filled >= 0.5 else None)
                    )
                else:
                    text.append(_EIGHTHS[round(filled * 8)], Style(color=shade))
            drawn.append(text)
        return drawn


def _axis(picture: Picture, width: int) -> Text:
    first, last, _ = _ends(picture)
    left, right = f"{_short(first)} {picture.x_name}", _short(last)
    return Text(f"{' ' * LABEL_WIDTH}{left}{right:>{max(1, width - LABEL_WIDTH - len(left))}}", "dim")


def _ends(picture: Picture) -> tuple[float, float, float]:
    """Return the first and last place and the greatest height."""
    points = [point for line in picture.lines for point in line.points]
    top = max((y for _, y in points), default=1.0)
    first = min((x for x, _ in points), default=0.0)
    last = max([picture.last, *(x for x, _ in points)])
    return first, max(last, first + 1e-9), max(top, picture.low * 10 if picture.log else 0.0, 1e-9)


def _at(points: Points, x: float) -> float | None:
    """Return a curve's height at a place, straight between its points; None beside its ends."""
    if not points or x < points[0][0] or x > points[-1][0]:
        return None
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        if x <= right:
            if math.isinf(low) or math.isinf(high):
                return low if x - left < right - x else high
            return low + (high - low) * (x - left) / (right - left) if right > left else high
    return points[-1][1]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.2g}"
