"""A picture of one device's memory: what a model would take of it, and what stays free."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from localknobs.terminal_text import printable
from localknobs.units import size_text

COLOURS = {"weights": "primary", "cache": "success", "compute": "accent", "program": "secondary"}
"""Theme variable of each part; parts not named here are drawn as warnings."""


def cells(parts: Mapping[str, int], capacity_bytes: int, width: int) -> dict[str, int]:
    """Return how many cells of a bar each part takes; none that is there vanishes.

    Args:
        parts: Bytes of each part.
        capacity_bytes: What the whole bar stands for; more than that is drawn to its end.
        width: Cells of the bar.
    """
    total = max(capacity_bytes, sum(parts.values()), 1)
    drawn: dict[str, int] = {}
    left = width
    for name, size in parts.items():
        share = min(left, max(1, round(width * size / total))) if size else 0
        drawn[name] = share
        left -= share
    return drawn


class FitBar(Widget):
    """Three lines: the device with its total, the bar, and what each colour is.

    Attributes:
        device: Name of the device.
        parts: Bytes of each part, in order.
        capacity_bytes: The device's memory.
    """

    DEFAULT_CSS = """
    FitBar { height: auto; min-height: 3; }
    """
    device: reactive[str] = reactive("")
    parts: reactive[Mapping[str, int]] = reactive[Mapping[str, int]]({})
    capacity_bytes: reactive[int] = reactive(0)

    def render(self) -> Text:
        """Draw the lines."""
        theme = self.app.theme_variables
        width, needed = self.size.width, sum(self.parts.values())
        over = needed > self.capacity_bytes > 0
        numbers = f"{size_text(needed)} of {size_text(self.capacity_bytes)}" if self.capacity_bytes else "not known"
        name = printable(self.device)[: max(0, width - len(numbers) - 1)]
        text = Text(f"{name}{' ' * max(1, width - len(name) - len(numbers))}")
        text.append(f"{numbers}\n", theme["error"] if over else "bold")
        drawn = cells(self.parts, self.capacity_bytes, width)
        for part, count in drawn.items():
            text.append("█" * count, self._colour(part))
        text.append("░" * (width - sum(drawn.values())) + "\n", theme["surface-lighten-2"])
        return text.append_text(self._legend(width, self.capacity_bytes - needed))

    def _legend(self, width: int, free_bytes: int) -> Text:
        """Return what each colour is, broken between its entries only."""
        entries = [
            Text.assemble(("■ ", self._colour(part)), f"{part} {size_text(size)}")
            for part, size in self.parts.items()
            if size
        ]
        if self.capacity_bytes and free_bytes < 0:
            entries.append(Text(f"{size_text(-free_bytes)} too much", self.app.theme_variables["error"]))
        legend, used = Text(), 0
        for entry in entries:
            if used and used + 2 + entry.cell_len > width:
                legend.append("\n")
                used = 0
            elif used:
                legend.append("  ")
                used += 2
            legend.append_text(entry)
            used += entry.cell_len
        return legend

    def _colour(self, part: str) -> str:
        return self.app.theme_variables[COLOURS.get(part, "warning")]
