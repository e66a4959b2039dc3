"""Quality against size: the points of a report, and which of them no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from localknobs.evaluate.results import Report
from localknobs.evaluate.statistics import Estimate


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the picture.

    Args:
        label: Its name.
        size_bytes: Of its files, or of its memory where a card's memory is in the picture.
        quality: What it lost: KL divergence from the parent, or perplexity; lower is better.
        is_best: Whether no other model is both as small and as good.
        is_parent: Whether the others were made from it.
    """

    label: str
    size_bytes: int
    quality: Estimate
    is_best: bool
    is_parent: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """What the picture of quality against size shows.

    Args:
        points: From small to large.
        across, up: What the axes mean.
        is_divergence: Whether quality is KL divergence, which is shown on a logarithmic axis.
        vram_bytes: Memory of the card, 0 for none.
    """

    points: tuple[Point, ...]
    across: str
    up: str
    is_divergence: bool
    vram_bytes: int


def chart_of(report: Report, vram_bytes: int = 0) -> Chart | None:
    """Return the picture's points; None where there are too few to compare."""
    compared = [model for model in report.models if model.divergence]
    read = [model for model in report.models if model.perplexity]
    use_divergence = bool(compared)
    models = read if not use_divergence else [m for m in report.models if m.divergence or m.label == report.base]
    if len(compared if use_divergence else read) < 1 or len(models) < 2:
        return None
    found: list[tuple[str, int, Estimate, bool]] = []
    for at, model in enumerate(models):
        parent = bool(report.base) and at == 0 and model.label == report.base
        size = model.memory_bytes if vram_bytes else model.size_bytes
        quality = model.perplexity
        if use_divergence:
            quality = model.divergence.mean if model.divergence else Estimate(0.0, 0.0, 0.0, 0.0)
        if quality and math.isfinite(quality.value):
            found.append((model.label, size, quality, parent))
    best = front([(size, quality.value) for _, size, quality, _ in found])
    points = [
        Point(label, size, quality, at in best, parent) for at, (label, size, quality, parent) in enumerate(found)
    ]
    context = max(model.context for model in models)
    across = f"memory at {context:,} tokens of context" if vram_bytes else "size of the file"
    up = f"mean KL divergence from {report.base}, nats" if use_divergence else "perplexity"
    return Chart(tuple(sorted(points, key=lambda point: point.size_bytes)), across, up, use_divergence, vram_bytes)


def front(points: Sequence[tuple[int, float]]) -> set[int]:
    """Return the places of the points that no other point beats: none is smaller in one and no larger in the other."""
    return {
        at
        for at, (size, loss) in enumerate(points)
        if not any(
            other_size <= size and other_loss <= loss and (other_size, other_loss) != (size, loss)
            for other_size, other_loss in points
        )
    }
