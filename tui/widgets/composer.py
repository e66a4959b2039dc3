"""The box a message is written in: Enter sends, Ctrl+J or Shift+Enter begins a new line."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class Composer(TextArea):
    """A text area that grows with its text; readline's keys stay free."""

    DEFAULT_CSS = """
    Composer {
        height: auto; min-height: 3; max-height: 10; padding: 0 1; margin: 0 1; background: transparent;
        border: round $primary 60%; border-title-color: $text-muted; border-subtitle-color: $text-accent;
        scrollbar-size-vertical: 1;
    }
    Composer:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", show=False),
        Binding("ctrl+j,shift+enter", "new_line", "New line", show=False),
    ]

    class Sent(Message):
        """The user sends a message."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class WentUp(Message):
        """The user presses Up in an empty box: to the messages."""

    def __init__(self, placeholder: str) -> None:
        super().__init__(
            id="composer", placeholder=placeholder, show_line_numbers=False, highlight_cursor_line=False, soft_wrap=True
        )

    async def _on_key(self, event: events.Key) -> None:
        # TextArea takes Enter as a new line before bindings are asked.
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.action_send()
        elif event.key in ("shift+enter", "ctrl+j"):
            event.stop()
            event.prevent_default()
            self.action_new_line()
        elif event.key == "up" and not self.text:
            event.stop()
            event.prevent_default()
            self.post_message(self.WentUp())
        else:
            await super()._on_key(event)

    def action_send(self) -> None:
        """Send what is written; an empty box sends nothing."""
        if self.text.strip():
            self.post_message(self.Sent(self.text.strip()))

    def action_new_line(self) -> None:
        """Begin a new line."""
        self.insert("\n")
