"""A report as pictures: quality against size, perplexity by place, needles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from localknobs.evaluate.pareto import Chart, Point, chart_of
from localknobs.evaluate.results import ModelResult, Report
from localknobs.figures import COLOURS, GRID, Draw, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAT = ("#F0A37A", "#FFF3D6", "#8CC6E8")
"""From nothing found to all found, through the middle; light enough for dark letters."""
_BEST, _BEATEN, _CARD = "#0072B2", "#9A9A9A", "#D55E00"


def panels_of(report: Report, vram_bytes: int = 0) -> list[tuple[str, Draw]]:
    """Return what there is to draw, each with its title."""
    panels: list[tuple[str, Draw]] = []
    chart = chart_of(report, vram_bytes)
    if chart:
        panels.append(("Quality against size", lambda axes: _draw_chart(axes, chart)))
    if any(model.position for model in report.models):
        panels.append(("Perplexity by place in the context", lambda axes: _draw_position(axes, report)))
    for model in report.models:
        if model.needle:
            panels.append((f"Needles: {model.label}", lambda axes, model=model: _draw_needles(axes, model)))  # type: ignore[misc]
    return panels


def picture_of(report: Report, kind: str, vram_bytes: int = 0) -> bytes | None:
    """Return all panels in one picture; None where there is nothing to draw.

    Args:
        report: What was measured.
        kind: `png` or `svg`.
        vram_bytes: Memory of the card.
    """
    panels = panels_of(report, vram_bytes)
    return drawn(panels, kind) if panels else None


def svg_panels(report: Report, vram_bytes: int = 0) -> list[tuple[str, str]]:
    """Return every panel as SVG to stand inside a page, with its title; needles are left to the page's tables."""
    found = []
    for title, draw in panels_of(report, vram_bytes):
        if not title.startswith("Needles"):
            text = drawn([("", draw)], "svg").decode()
            found.append((title, text[text.index("<svg") :]))
    return found


def _unit(largest: float) -> tuple[float, str]:
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")


def _draw_chart(axes: Axes, chart: Chart) -> None:
    scale, unit = _unit(max([point.size_bytes for point in chart.points] + [chart.vram_bytes]))
    axes.set_xlabel(f"{chart.across}, {unit}")
    axes.set_ylabel(chart.up)
    shown = [point for point in chart.points if not (chart.is_divergence and point.quality.value <= 0)]
    values = [point.quality.value for point in shown]
    if values and (chart.is_divergence or max(values) > 20 * min(values)):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 3, max(values) * 3)
    best = [point for point in shown if point.is_best]
    axes.plot(
        [point.size_bytes / scale for point in best], [point.quality.value for point in best],
        color=_BEST, linewidth=1.2, alpha=0.6, zorder=1, label="best of its size (Pareto front)",
    )  # fmt: skip
    for point in shown:
        _draw_point(axes, point, scale)
    floor = axes.get_ylim()[0]
    # A divergence of 0 has no place on a logarithmic axis: the parent stands on its edge.
    parents = [point for point in chart.points if point not in shown]
    for point in parents:
        axes.plot(point.size_bytes / scale, floor, "D", color=_BEST, clip_on=False, zorder=3)
    if chart.vram_bytes:
        axes.axvline(chart.vram_bytes / scale, color=_CARD, linestyle="--", linewidth=1.2, label="memory of the card")
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.legend(fontsize=9, loc="upper right", edgecolor="none", framealpha=0.9)
    named = [(point.label, point.size_bytes / scale, point.quality.value) for point in shown]
    named += [(f"{point.label} (0)", point.size_bytes / scale, floor) for point in parents]
    _name_points(axes, named)


def _draw_point(axes: Axes, point: Point, scale: float) -> None:
    colour = _BEST if point.is_best else _BEATEN
    value, low, high = point.quality.value, point.quality.low, point.quality.high
    if math.isfinite(low) and math.isfinite(high) and low > 0:
        axes.errorbar(
            point.size_bytes / scale, value, yerr=[[value - low], [high - value]], color=colour, capsize=3,
            linewidth=1, zorder=2,
        )  # fmt: skip
    marker = "D" if point.is_parent else "o"
    axes.plot(point.size_bytes / scale, value, marker, color=colour, markersize=7, zorder=3)


def _name_points(axes: Axes, points: list[tuple[str, float, float]]) -> None:
    """Write each name beside its point, where it covers no other name and no point."""
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else figure._get_renderer()
    taken = []
    for _, across, up in points:
        x, y = axes.transData.transform((across, up))
        taken.append(Bbox.from_extents(x - 6, y - 6, x + 6, y + 6))
    legend = axes.get_legend()
    if legend:
        taken.append(legend.get_window_extent(renderer))
    frame = axes.get_window_extent(renderer)
    # (right, up) from the point, and how the text is anchored.
    places = ((9, 5, "left", "bottom"), (-9, 5, "right", "bottom"), (9, -5, "left", "top"), (-9, -5, "right", "top"),
              (0, 12, "center", "bottom"), (0, -12, "center", "top"), (14, 20, "left", "bottom"))  # fmt: skip
    for name, across, up in points:
        text = None
        for right, high, horizontal, vertical in places:
            if text is not None:
                text.remove()
            text = axes.annotate(
                name, (across, up), xytext=(right, high), textcoords="offset points", ha=horizontal, va=vertical,
                fontsize=9, annotation_clip=False,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 + 40 and box.y0 >= frame.y0
            if inside and not any(box.overlaps(other) for other in taken):
                break
        assert text is not None
        taken.append(text.get_window_extent(renderer))


def _draw_position(axes: Axes, report: Report) -> None:
    for at, model in enumerate(model for model in report.models if model.position):
        middle = [(bucket.begin + bucket.end) / 2 for bucket in model.position]
        values = [bucket.perplexity.value for bucket in model.position]
        colour = COLOURS[at % len(COLOURS)]
        axes.plot(middle, values, "o-", color=colour, markersize=4, linewidth=1.4, label=model.label)
        errors = [bucket.perplexity.error for bucket in model.position]
        axes.fill_between(
            middle, [value - error for value, error in zip(values, errors, strict=True)],
            [value + error for value, error in zip(values, errors, strict=True)], color=colour, alpha=0.12, linewidth=0,
        )  # fmt: skip
    axes.set_xlabel("place in the context, tokens")
    axes.set_ylabel("perplexity ± one standard error")
    axes.set_yscale("log")
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9)


def _draw_needles(axes: Axes, model: ModelResult) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    assert model.needle is not None
    lengths = sorted({cell.length for cell in model.needle.cells})
    depths = sorted({cell.depth for cell in model.needle.cells})
    shares = [[math.nan] * len(lengths) for _ in depths]
    for cell in model.needle.cells:
        row, column = depths.index(cell.depth), lengths.index(cell.length)
        shares[row][column] = cell.share.value
        axes.text(column, row, f"{cell.share.right}/{cell.share.count}", ha="center", va="center", fontsize=9)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("heat", HEAT), vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xlabel("length, tokens")
    axes.set_ylabel("depth of the needle")
