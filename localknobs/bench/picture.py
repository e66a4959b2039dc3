"""The picture of a bench: a bar for each combination, reading on the left and writing on the right, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from localknobs.bench.config import BenchConfig, CaseResult

_ROW, _TOP, _BOTTOM = 26, 92, 40
_PANEL, _GAP = 330, 70  # the numbers beside the bars stand in the gap
_CHARACTER = 7.2  # width of one at 12 px, about
_BAR, _BEST, _INK, _QUIET = "#8fb3d9", "#1f5fa8", "#1a1a1a", "#666666"


def picture(config: BenchConfig, results: Sequence[CaseResult], title: str, machine: str) -> str:
    """Return the picture as the text of an SVG file.

    Args:
        config: What was measured.
        results: A bar for each.
        title: Name of the model.
        machine: On what it ran.
    """
    labels = [result.case.label for result in results]
    left = max(90.0, 24 + _CHARACTER * max(map(len, labels)))
    panels = []
    if config.prompt:
        speeds = [(result.prompt_speed, result.prompt) for result in results]
        panels.append((f"Reading {config.prompt:,} tokens", speeds))
    if config.generate:
        speeds = [(result.generation_speed, result.generation) for result in results]
        panels.append((f"Writing {config.generate:,} tokens", speeds))
    width = left + len(panels) * (_PANEL + _GAP)
    height = _TOP + _ROW * len(results) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{width:.0f}" height="{height}" fill="#ffffff"/>',
        _text(16, 28, title, size=17, bold=True),
        _text(
            16, 48, f"{machine}{f' · {config.depth:,} tokens in the context' if config.depth else ''}", colour=_QUIET
        ),
    ]
    for row, result in enumerate(results):
        colour = _QUIET if result.trouble else _INK
        parts.append(_text(left - 10, _middle(row), result.case.label, anchor="end", colour=colour))
    for place, (heading, speeds) in enumerate(panels):
        parts += _panel(left + place * (_PANEL + _GAP), f"{heading}, tokens/s", speeds)
    note = f"Bars are medians of {config.repetitions}; the line on a bar goes from the slowest to the fastest."
    parts.append(_text(16, height - 14, note, colour=_QUIET, size=11))
    return "\n".join([*parts, "</svg>\n"])


def _panel(left: float, heading: str, speeds: Sequence[tuple[float, tuple[float, ...]]]) -> list[str]:
    parts = [_text(left, _TOP - 14, heading, bold=True)]
    largest = max((max(samples) for _, samples in speeds if samples), default=1.0)
    best = max(middle for middle, _ in speeds)
    for row, (middle, samples) in enumerate(speeds):
        if not samples:
            parts.append(_text(left, _middle(row), "not measured", colour=_QUIET))
            continue
        scale = _PANEL / largest
        colour = _BEST if middle == best else _BAR
        top = _TOP + _ROW * row + 4
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{max(1, middle * scale):.1f}" height="{_ROW - 8}" fill="{colour}"/>'
        )
        low, high, centre = left + min(samples) * scale, left + max(samples) * scale, top + (_ROW - 8) / 2
        parts.append(
            f'<path d="M{low:.1f} {centre}H{high:.1f}M{low:.1f} {centre - 4}v8M{high:.1f} {centre - 4}v8" '
            f'stroke="{_INK}" stroke-width="1" fill="none"/>'
        )
        parts.append(_text(max(high, left + middle * scale) + 7, _middle(row), speed_text(middle), bold=middle == best))
    return parts


def _middle(row: int) -> float:
    return _TOP + _ROW * row + _ROW / 2 + 4


def _text(
    x: float, y: float, text: str, *, size: int = 12, bold: bool = False, anchor: str = "start", colour: str = _INK
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{weight} text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def speed_text(tokens_per_s: float) -> str:
    """Return a speed with three digits or more: 7.52, 84.1, 1,250."""
    return f"{tokens_per_s:,.{0 if tokens_per_s >= 1000 else 1 if tokens_per_s >= 10 else 2}f}"
