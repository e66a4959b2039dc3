"""The curves of a training as a picture: losses, and under them learning rate and speed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.figures import COLOURS, GRID, drawn
from localknobs.paths import written_whole
from localknobs.tune.curves import ENDING, Curves, Points, read_curves, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS, _SMOOTH_POINTS = 600, 60
"""Most points of the losses of the steps as they are, and of their means."""
_STEPS_OF_A_MEAN = 8
_LARGEST_RATIO = 20.0
"""From this ratio of the largest to the smallest loss on, the upward axis is logarithmic."""


def picture_file(log: Path) -> Path:
    """Return where the picture of a file of curves is, beside it."""
    return log.with_name(log.name.removesuffix(ENDING) + ".curves.svg")


def draw_curves(log: Path, also: Path | None = None) -> None:
    """Draw a file of curves, beside it and elsewhere; where nothing was trained there is nothing to draw.

    Args:
        log: The file of curves.
        also: Another file to write, `.png` or `.svg`.
    """
    curves = read_curves(log)
    if not curves.loss:
        return
    for target in [picture_file(log), *([also] if also else [])]:
        # A full disk takes nothing from the training: the numbers are kept, and the picture can be drawn again.
        with contextlib.suppress(OSError), written_whole(target) as beside:
            beside.write_bytes(picture_of(curves, target.suffix.lower().removeprefix(".")))


def picture_of(curves: Curves, kind: str) -> bytes:
    """Return the picture.

    Args:
        curves: With at least one step.
        kind: `png` or `svg`.
    """
    panels = [
        ("Loss, nats a token", lambda axes: _draw_losses(axes, curves)),
        ("Learning rate", lambda axes: _draw_one(axes, curves.rate, COLOURS[6])),
        ("Tokens a second", lambda axes: _draw_one(axes, thinned(curves.speed, _SMOOTH_POINTS), COLOURS[6])),
    ]
    return drawn(panels, kind, heights=(4.2, 1.5, 1.5))


def _draw_losses(axes: Axes, curves: Curves) -> None:
    steps, losses = zip(*thinned(curves.loss, _MOST_POINTS), strict=True)
    axes.plot(steps, losses, color=COLOURS[5], linewidth=0.7, alpha=0.6, label="loss of a batch")
    means = thinned(curves.loss, min(_SMOOTH_POINTS, max(1, len(curves.loss) // _STEPS_OF_A_MEAN)))
    if len(means) > 2:
        axes.plot(*zip(*means, strict=True), color=COLOURS[0], label="its mean")
    for points, colour, marker, name in (
        (curves.held_out, COLOURS[1], "o", "held out"), (curves.general, COLOURS[2], "s", "general text"),
    ):  # fmt: skip
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)
    if curves.kept:
        axes.axvline(curves.kept, color=COLOURS[6], linestyle=":", linewidth=1, label=f"kept: step {curves.kept:,}")
    values = [value for points in (curves.loss, curves.held_out, curves.general) for _, value in points]
    if min(values) > 0 and max(values) > _LARGEST_RATIO * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(curves.step, 1))
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9, ncols=2)


def _draw_one(axes: Axes, points: Points, colour: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2)
        axes.set_xlim(0, max(points[-1][0], 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
