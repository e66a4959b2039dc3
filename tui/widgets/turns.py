"""The conversation of an A/B chat: its prompts with their answers, and what went wrong between them."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from localknobs.terminal_text import printable
from localknobs.tui.widgets.duel import TurnView
from localknobs.tui.widgets.transcript import Notice

GREETING = """\
Write a message: both sides answer it, with the same seed. Then say which answer is better.

F4 hides which answer is whose until you have voted. F2 changes the sides. F1 shows every key.
"""


class Turns(VerticalScroll):
    """The prompts with their answers, following the end while answers are written."""

    DEFAULT_CSS = """
    Turns {
        height: 1fr; scrollbar-size-vertical: 1; padding: 1 0 0 0;
        &:focus { background: $boost; }
        & > .greeting { margin: 1 2; color: $text-muted; height: auto; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._top: TurnView | None = None

    def compose(self) -> ComposeResult:
        """Begin with what to do."""
        yield Static(GREETING, classes="greeting", markup=False)

    async def add(self, turn: TurnView) -> None:
        """Show one more prompt at the end."""
        await self.query(".greeting").remove()
        self._top = None
        await self.mount(turn)
        self.anchor()

    async def say(self, text: str) -> None:
        """Show what went wrong at the end."""
        await self.mount(Notice(printable(text), classes="-error", markup=False))
        self.anchor()

    def show_top(self, turn: TurnView) -> None:
        """Show a prompt that is taller than the room from its beginning, until the user scrolls."""
        self._top = turn
        self.call_after_refresh(self._go_to_top)

    def _go_to_top(self) -> None:
        if self._top and self._top.size.height > self.scrollable_content_region.height:
            self.release_anchor()
            self.scroll_to_widget(self._top, top=True, animate=False)

    def on_turn_view_resized(self, event: TurnView.Resized) -> None:
        """Its text is laid out piece by piece, also after its end came."""
        if event.turn is self._top:
            self.call_after_refresh(self._go_to_top)

    async def begin_anew(self) -> None:
        """Show what to do."""
        await self.remove_children()
        await self.mount(Static(GREETING, classes="greeting", markup=False))

    def look(self, rows: int) -> None:
        """Scroll, and stay there."""
        self._top = None
        if rows < 0:
            self.release_anchor()
        self.scroll_relative(y=rows, animate=False)

    def on_mouse_scroll_up(self, _event: events.MouseScrollUp) -> None:
        """Stay where the user scrolls to."""
        self._top = None
        self.release_anchor()
