"""The line under the transcript: what is going on, how fast, and how full the context is."""

from __future__ import annotations

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

METER_WIDTH = 10
FULL_WARNING = 0.85
"""Share of the context from which on the meter warns."""


class StatusLine(Widget):
    """One line; set its attributes, it draws itself.

    Attributes:
        activity: What is going on, empty when nothing is.
        speed: Tokens a second and time to the first token, as text.
        context: Tokens used and held.
        trouble: Shown instead of the activity until it is cleared.
    """

    DEFAULT_CSS = """
    StatusLine { height: 1; padding: 0 2; color: $text-muted; }
    """
    activity: reactive[str] = reactive("")
    speed: reactive[str] = reactive("")
    context: reactive[tuple[int, int]] = reactive((0, 0))
    trouble: reactive[str] = reactive("")

    def render(self) -> Text:
        """Draw the line, what goes on at the left and the numbers at the right."""
        theme = self.app.theme_variables
        left = Text(self.trouble, theme["error"]) if self.trouble else Text(self.activity, theme["accent"])
        right = self._numbers("context ")
        if left.cell_len + 2 + right.cell_len > self.size.width:
            right = self._numbers("")
        room = self.size.width - right.cell_len
        left.truncate(max(0, room - 2), overflow="ellipsis")
        left.append(" " * max(1, room - left.cell_len))
        return left + right

    def _numbers(self, label: str) -> Text:
        """Return speed and context meter."""
        theme = self.app.theme_variables
        numbers = Text(self.speed)
        used, size = self.context
        if size:
            share = min(1.0, used / size)
            colour = theme["warning"] if share >= FULL_WARNING else theme["primary"]
            filled = round(share * METER_WIDTH)
            numbers.append(f"  {label}" if self.speed else label)
            numbers.append("━" * filled, colour)
            numbers.append("─" * (METER_WIDTH - filled))
            numbers.append(f" {used:,}/{size:,}", colour if share >= FULL_WARNING else "")
        return numbers
