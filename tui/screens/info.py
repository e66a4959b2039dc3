"""A box to read: help, a knob's or a lever's card, the details of an error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Markdown, Static

from localknobs.tui.cards import keys_help, knob_card
from localknobs.tui.widgets.knob_row import KnobRow


class Info(ModalScreen[None]):
    """Shows Markdown until it is closed.

    Args:
        title: Heading of the box.
        text: Markdown.
        plain: What `y` copies; empty copies the Markdown.
    """

    DEFAULT_CSS = """
    Info { align: center middle; }
    Info > Vertical { width: 90%; max-width: 100; height: 85%; border: round $primary; background: $surface; padding: 0 1; }
    Info .title { text-style: bold; }
    Info .keys { color: $text-muted; dock: bottom; }
    Info Markdown { background: transparent; margin: 0; padding: 0; }
    """  # noqa: E501
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,f1", "close", "Close", show=False),
        Binding("y", "copy", "Copy", show=False),
    ]

    def __init__(self, title: str, text: str, *, plain: str = "") -> None:
        super().__init__()
        self._title, self._text = title, text
        self._plain = plain or text

    def compose(self) -> ComposeResult:
        """Lay out the box."""
        with Vertical():
            yield Static(self._title, classes="title", markup=False)
            with VerticalScroll():
                yield Markdown(self._text, open_links=False)
            yield Static("↑ ↓ PageUp PageDown scroll · y copies · Esc closes", classes="keys", markup=False)

    def on_mount(self) -> None:
        """Let the arrow keys scroll."""
        self.query_one(VerticalScroll).focus()

    def action_copy(self) -> None:
        """Copy the text."""
        self.app.copy_to_clipboard(self._plain)
        self.notify("Copied.")

    def action_close(self) -> None:
        """Close."""
        self.dismiss(None)


def show_help(screen: Screen[Any], title: str, sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> None:
    """Show the card of the knob that has the focus, or every key of the screen.

    Args:
        screen: Whose help it is.
        title: Heading of the page of keys.
        sections: Its sections: heading, then (key, what it does) pairs.
    """
    focused = screen.focused
    if isinstance(focused, KnobRow):
        screen.app.push_screen(Info(focused.row.label, knob_card(focused.row, focused.value)))
    else:
        screen.app.push_screen(Info(title, keys_help(sections)))
