"""The line under the transcript: what is going on, how fast, and how full the context is."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from localknobs.engine import ContextDropped

METER_WIDTH = 10
FULL_WARNING = 0.85
"""Share of the context from which on the meter warns."""


class StatusLine(Widget):
    """One line; set its attributes, it draws itself.

    Attributes:
        activity: What is going on, empty when nothing is.
        speed: Tokens a second and time to the first token, as text.
        drafts: How guessing ahead goes, as text; empty when nobody guesses.
        context: Tokens used and held.
        dropped: What the context dropped, None when it holds all.
        trouble: Shown instead of the activity until it is cleared.
        work: Long work that runs, as text; shown while the model does nothing.
    """

    DEFAULT_CSS = """
    StatusLine { height: 1; padding: 0 2; color: $text-muted; }
    """
    activity: reactive[str] = reactive("")
    speed: reactive[str] = reactive("")
    drafts: reactive[str] = reactive("")
    context: reactive[tuple[int, int]] = reactive((0, 0))
    dropped: reactive[ContextDropped | None] = reactive(None)
    trouble: reactive[str] = reactive("")
    work: reactive[str] = reactive("")

    def on_mount(self) -> None:
        """Follow the work of the application."""
        self.watch(self.app, "busy", self._work_changed)

    def _work_changed(self, busy: str) -> None:
        self.work = busy

    def render(self) -> Text:
        """Draw the line, what goes on at the left and the numbers at the right."""
        theme = self.app.theme_variables
        left = Text()
        left.append(self.trouble or self.activity or self.work, theme["error" if self.trouble else "accent"])
        for numbers in self._numbers():
            if left.cell_len + 2 + numbers.cell_len <= self.size.width:
                break
        room = max(0, self.size.width - numbers.cell_len)
        left.truncate(max(0, room - 1), overflow="ellipsis")
        left.append(" " * (room - left.cell_len))
        return left + numbers

    def _numbers(self) -> Iterator[Text]:
        """Yield speed and context, from the fullest form to the shortest."""
        speed = "  ".join(filter(None, (self.speed, self.drafts)))
        yield self._joined(speed, self._meter("context ", METER_WIDTH))
        yield self._joined(speed, self._meter("", METER_WIDTH))
        short = "  ".join(filter(None, (self.speed.partition(",")[0], self.drafts)))
        yield self._joined(short, self._meter("", METER_WIDTH))
        yield self._joined(short, self._meter("", 0))
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
        text = Text(label)
        if self.dropped:
            lost = self.app.theme_variables["error"]
            for held in meter_cells(self.dropped, meter):
                text.append("━" if held else "╌", colour if held else lost)
        else:
            filled = round(share * meter)
            text.append("━" * filled, colour)
            text.append("─" * (meter - filled))
        text.append(f"{' ' if meter else ''}{used:,}/{size:,}", colour if share >= FULL_WARNING else "")
        if self.dropped:
            text.append(f" {self.dropped.short_text}", self.app.theme_variables["error"])
        return text


def meter_cells(dropped: ContextDropped, width: int) -> list[bool]:
    """Return for each cell of a meter over the whole conversation whether what stands there is held.

    Args:
        dropped: What is held and what not; whole turns that are gone stand before everything else.
        width: Cells of the meter.
    """
    total = max(1, dropped.total)
    lost = dropped.dropped or ((0, dropped.dropped_tokens),)
    places = [total * (cell + 0.5) / width for cell in range(width)]
    return [not any(begin <= place < end for begin, end in lost) for place in places]
