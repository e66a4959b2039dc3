"""A list whose lines change many times a second and whose cursor stays where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget


class Lines(Widget, can_focus=True):
    """Lines with a cursor. Up and Down move it, Enter or a click on the chosen line picks it."""

    DEFAULT_CSS = """
    Lines { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("enter", "pick", "Choose"),
    ]
    cursor: reactive[int] = reactive(0, repaint=True)
    lines: reactive[tuple[Text, ...]] = reactive((), layout=True)

    class Picked(Message):
        """The user chose a line."""

        def __init__(self, lines: Lines, index: int) -> None:
            super().__init__()
            self.lines, self.index = lines, index

        @property
        def control(self) -> Lines:
            """The list."""
            return self.lines

    def show(self, lines: Sequence[Text]) -> None:
        """Show other lines; the cursor keeps its place."""
        self.lines = tuple(lines)
        self.cursor = min(self.cursor, max(0, len(lines) - 1))

    def render(self) -> Text:
        """Draw the lines, the chosen one marked while the list has the focus."""
        drawn = Text(no_wrap=True, overflow="ellipsis")
        for at, line in enumerate(self.lines):
            line = line.copy()
            line.truncate(self.size.width, overflow="ellipsis", pad=True)
            if at == self.cursor and self.has_focus:
                line.stylize(f"on {self.app.theme_variables['primary-darken-2']}")
            drawn.append_text(line)
            drawn.append("\n")
        drawn.right_crop(1)
        return drawn

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """One row a line."""
        return max(1, len(self.lines))

    def action_move(self, direction: int) -> None:
        """Move the cursor."""
        self.cursor = min(max(0, len(self.lines) - 1), max(0, self.cursor + direction))

    def watch_cursor(self, cursor: int) -> None:
        """Keep the cursor in sight."""
        if isinstance(self.parent, VerticalScroll):
            self.parent.scroll_to_region(Region(0, cursor, 1, 1), animate=False)

    def action_pick(self) -> None:
        """Choose the line under the cursor."""
        if self.lines:
            self.post_message(self.Picked(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the line; a second click there chooses it."""
        if event.y == self.cursor and event.chain > 1:
            self.action_pick()
        elif event.y < len(self.lines):
            self.cursor = event.y

    def on_focus(self) -> None:
        """Show the cursor."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self.refresh()
