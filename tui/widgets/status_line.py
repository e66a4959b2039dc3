"""The line under the transcript: what is going on, how fast, and how full the context is."""

from __future__ import annotations

from collections.abc import Iterator

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
        left = Text()
        left.append(self.trouble or self.activity, theme["error" if self.trouble else "accent"])
        for numbers in self._numbers():
            if left.cell_len + 2 + numbers.cell_len <= self.size.width:
                break
        room = max(0, self.size.width - numbers.cell_len)
        left.truncate(max(0, room - 1), overflow="ellipsis")
        left.append(" " * (room - left.cell_len))
        return left + numbers

    def _numbers(self) -> Iterator[Text]:
        """Yield speed and context, from the fullest form to the shortest."""
        yield self._joined(self.speed, self._meter("context ", METER_WIDTH))
        yield self._joined(self.speed, self._meter("", METER_WIDTH))
        yield self._joined(self.speed, self._meter("", 0))
        yield self._joined(self.speed.partition(",")[0], self._meter("", 0))
        yield self._meter("", 0)

    @staticmethod
    def _joined(speed: str, context: Text) -> Text:
        return Text(f"{speed}  ") + context if speed else context

    def _meter(self, label: str, meter: int) -> Text:
        used, size = self.context
        if not size:
            return Text()
        share = min(1.0, used / size)
        colour = self.app.theme_variables["warning" if share >= FULL_WARNING else "primary"]
        filled = round(share * meter)
        text = Text(label)
        text.append("━" * filled, colour)
        text.append("─" * (meter - filled))
        text.append(f"{' ' if meter else ''}{used:,}/{size:,}", colour if share >= FULL_WARNING else "")
        return text
