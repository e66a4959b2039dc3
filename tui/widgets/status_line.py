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
        right = Text(self.speed)
        used, size = self.context
        if size:
            share = min(1.0, used / size)
            colour = theme["warning"] if share >= FULL_WARNING else theme["primary"]
            filled = round(share * METER_WIDTH)
            right.append("  context " if self.speed else "context ")
            right.append("━" * filled, colour)
            right.append("─" * (METER_WIDTH - filled))
            right.append(f" {used:,}/{size:,}", colour if share >= FULL_WARNING else "")
        left = Text()
        if self.trouble:
            left.append(self.trouble, theme["error"])
        else:
            left.append(self.activity, theme["accent"])
        room = self.size.width - right.cell_len
        left.truncate(max(0, room - 2), overflow="ellipsis")
        left.append(" " * max(1, room - left.cell_len))
        return left + right
