"""Quality against size, drawn with characters: the same picture in the terminal and on the screen."""

from __future__ import annotations

import math
from string import ascii_uppercase

from localknobs.evaluate.pareto import Chart, Point
from localknobs.terminal_text import printable
from localknobs.units import size_text

WIDTH, HEIGHT = 56, 11
LARGEST_RATIO = 20.0
"""From this ratio of the largest to the smallest value on, the upward axis is logarithmic."""


def drawn(chart: Chart, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Return the picture: a letter a model, capital where no other is as small and as good, and what they mean.

    Args:
        chart: What it shows.
        width: Of the drawing in letters, the axis left out.
        height: The same; at least 3.
    """
    shown = [point for point in chart.points if not (chart.is_divergence and point.quality.value <= 0)]
    values = [point.quality.value for point in shown]
    if not values:
        return ""
    log = chart.is_divergence or max(values) > LARGEST_RATIO * min(values)

    def level(value: float) -> float:
        return math.log(value) if log else value

    low, high = min(map(level, values)), max(map(level, values))
    sizes = [point.size_bytes for point in chart.points] + ([chart.vram_bytes] if chart.vram_bytes else [])
    small, large = min(sizes), max(sizes)

    def column(size: int) -> int:
        return round((size - small) / max(1, large - small) * (width - 1))

    rows = [[" "] * width for _ in range(height)]
    if chart.vram_bytes:
        for row in rows:
            row[column(chart.vram_bytes)] = "¦"
    letters = dict(zip((point.label for point in chart.points), _letters(chart.points), strict=True))
    for point in reversed(chart.points):
        # What lost nothing has no place on a logarithmic axis, and stands on its edge.
        share = (level(point.quality.value) - low) / max(1e-12, high - low) if point in shown else -1.0
        place = height - 1 if share < 0 else round((1 - share) * (height - 2))
        rows[place][column(point.size_bytes)] = letters[point.label]
    marks = {0: f"{max(values):.3g}", height - 2: f"{min(values):.3g}"}
    lines = [f"{marks.get(at, ''):>9} ┤{''.join(row).rstrip()}" for at, row in enumerate(rows)]
    lines.append(f"{'':>9} └{'─' * width}")
    lines.append(f"{'':>11}{size_text(small)}{size_text(large):>{width - len(size_text(small))}}")
    lines = [f"{chart.up}{', logarithmic' if log else ''}; across: {chart.across}", *lines]
    for point in chart.points:
        quality = f"{point.quality.value:.4g}" + (", best of its size" if point.is_best else "")
        name = printable(" ".join(point.label.split()))
        lines.append(f"  {letters[point.label]}  {name}: {size_text(point.size_bytes)}, {quality}")
    if chart.vram_bytes:
        lines.append(f"  ¦  memory of the card: {size_text(chart.vram_bytes)}")
    return "\n".join(lines)


def _letters(points: tuple[Point, ...]) -> list[str]:
    """Return a letter a model, capital where it is the best of its size; after 26 they begin again."""
    found = []
    for at, point in enumerate(points):
        letter = ascii_uppercase[at % len(ascii_uppercase)]
        found.append(letter if point.is_best else letter.lower())
    return found
