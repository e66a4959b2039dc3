"""Panels as one picture, drawn by matplotlib: how all pictures of this program look.

matplotlib takes a second to load, so it is imported when a picture is drawn. `Figure` alone is used: no window system
is touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Axes"], None]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444", "#8B6F00")
"""Okabe and Ito's, which colour-blind people can tell apart."""
GRID = "#E4E4E4"
KINDS = (".png", ".svg")
_PANEL_INCHES = (7.2, 4.6)
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: smaller, and can be searched
    "svg.hashsalt": "localknobs",  # the same data makes the same file
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def drawn(panels: Sequence[tuple[str, Draw]], kind: str, *, heights: Sequence[float] = ()) -> bytes:
    """Return panels in one picture: under one another, in two columns from three on.

    Args:
        panels: Title, and what draws it.
        kind: `png` or `svg`.
        heights: Of the panels, in inches, when they are to stand in one column.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = 1 if heights or len(panels) < 3 else 2
    rows = -(-len(panels) // columns)
    height = sum(heights) or _PANEL_INCHES[1] * rows
    with mpl.rc_context(_SETTINGS):
        figure: Figure = Figure(figsize=(_PANEL_INCHES[0] * columns, height), layout="constrained", facecolor="white")
        grid = figure.add_gridspec(rows, columns, height_ratios=list(heights) or None)
        for at, (title, draw) in enumerate(panels):
            axes = figure.add_subplot(grid[at // columns, at % columns])
            if title:
                axes.set_title(title, loc="left", fontweight="bold")
            draw(axes)
        out = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(out, format=kind, dpi=150, metadata=metadata)
    return out.getvalue()
