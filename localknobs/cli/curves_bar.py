"""The curves of a training over its bar, one line each, drawn anew in place while it runs.

On a terminal only, and where it has room; elsewhere the bar, or its plain lines, stand alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from localknobs.cli.progress import ProgressBar
from localknobs.tune.curves import CurveReader, Curves, Points, thinned

_EIGHTHS = "▁▂▃▄▅▆▇█"
_LABEL_CELLS, _NUMBER_CELLS, _NOTE_CELLS = 14, 8, 20
_LEAST_COLUMNS, _LEAST_LINES = 60, 12
"""Of a terminal that shows curves."""


class CurvesBar(ProgressBar):
    """Shows the events of a training, and its curves.

    Args:
        log: The file of curves, which grows.
    """

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._reader = CurveReader(log)
        self._lines = 0  # that stand over the bar

    def _show(self, line: str) -> None:
        if not self._live:
            super()._show(line)
            return
        self._reader.read()
        size = shutil.get_terminal_size()
        with_curves = size.columns >= _LEAST_COLUMNS and size.lines >= _LEAST_LINES and os.environ.get("TERM") != "dumb"
        above = curve_lines(self._reader.curves, self._columns()) if with_curves else []
        self._wipe()
        sys.stderr.write("".join(f"{one}\n" for one in above))
        sys.stderr.flush()
        self._lines = len(above)
        super()._show(line)

    def clear(self) -> None:
        """Wipe bar and curves, so that something else can be printed."""
        super().clear()
        if self._live:
            self._wipe()
            sys.stderr.flush()

    def _wipe(self) -> None:
        up = f"\x1b[{self._lines}A" if self._lines else ""
        sys.stderr.write(f"\r{up}\x1b[J")
        self._lines = 0


def curve_lines(curves: Curves, columns: int) -> list[str]:
    """Return a line for each curve: name, first value, the curve, the last value, and what to know of it.

    Args:
        curves: What was read so far.
        columns: Of the terminal.
    """
    cells = columns - _LABEL_CELLS - 2 * (_NUMBER_CELLS + 2) - _NOTE_CELLS
    lines = []
    for name, points, note in (
        ("loss", curves.loss, f"{curves.tokens_per_s:,.0f} tokens/s"),
        ("held-out loss", curves.held_out, f"lowest at step {curves.best[0]:,}" if curves.best else ""),
        ("general loss", curves.general, _rise(curves.general)),
        ("learning rate", curves.rate, ""),
    ):
        if points:
            first, last = (f"{value:.3g}" for _, value in (points[0], points[-1]))
            drawn = sparkline(points, cells, curves.steps)
            text = f"{name:<{_LABEL_CELLS}}{first:>{_NUMBER_CELLS}}  {drawn:<{cells}}  {last:<{_NUMBER_CELLS}}{note}"
            lines.append(text[:columns].rstrip())
    return lines


def _rise(points: Points) -> str:
    return f"{points[-1][1] / points[0][1] - 1:+.1%}" if points and points[0][1] else ""


def sparkline(points: Sequence[tuple[int, float]], cells: int, steps: int) -> str:
    """Return a curve as a row of blocks, as far as it is; the whole width is all the steps.

    Args:
        points: By step.
        cells: Width of the whole.
        steps: Steps of the whole.
    """
    cells = max(1, min(cells, round(cells * points[-1][0] / max(1, steps, points[-1][0]))))
    low, high = min(value for _, value in points), max(value for _, value in points)
    shown: list[float] = []
    if len(points) >= cells:
        shown = [value for _, value in thinned(points, cells)]
    else:  # each value stands until the next one
        last = points[-1][0]
        for cell in range(cells):
            place = last * (cell + 1) / cells
            shown.append(next(value for step, value in reversed(points) if step <= place or step == points[0][0]))
    return "".join(_EIGHTHS[round((value - low) / (high - low) * 7) if high > low else 0] for value in shown)
