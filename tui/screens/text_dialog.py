"""A box to write or change a text in: a system prompt, an edited answer, a grammar, a preset's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from localknobs.errors import LocalknobsError
from localknobs.terminal_text import printable


class TextDialog(ModalScreen[str | None]):
    """Returns the text, or None when the user thought better of it.

    Args:
        title: What is written.
        text: What it is now.
        note: What is allowed, and what it does.
        several_lines: A text area, finished by Ctrl+S; otherwise one line, finished by Enter.
        check: Raises a `LocalknobsError` when the text will not do; the box then stays open and says why.
    """

    DEFAULT_CSS = """
    TextDialog { align: center middle; }
    TextDialog > Vertical {
        width: 90%; max-width: 100; height: auto; max-height: 85%; border: round $primary; background: $surface; padding: 0 1;
    }
    TextDialog .title { text-style: bold; }
    TextDialog .note, TextDialog .keys { color: $text-muted; height: auto; }
    TextDialog .trouble { color: $text-error; height: auto; }
    TextDialog TextArea { height: 12; margin: 1 0; border: round $surface-lighten-2; }
    TextDialog Input { margin: 1 0; }
    """  # noqa: E501
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", show=False),
        Binding("ctrl+s", "accept", "Done", show=False, priority=True),
    ]

    def __init__(
        self,
        title: str,
        text: str = "",
        *,
        note: str = "",
        several_lines: bool = True,
        check: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__()
        # What a model wrote may hold control characters, and a text area would send them to the terminal.
        self._title, self._text, self._note = title, printable(text), note
        self._several_lines = several_lines
        self._check = check

    def compose(self) -> ComposeResult:
        """Lay out the box."""
        with Vertical():
            yield Static(self._title, classes="title", markup=False)
            if self._note:
                yield Static(self._note, classes="note", markup=False)
            if self._several_lines:
                yield TextArea(self._text, soft_wrap=True, highlight_cursor_line=False)
            else:
                yield Input(self._text, select_on_focus=True)
            yield Static("", classes="trouble", markup=False)
            keys = "Ctrl+S: done · Esc: leave it as it was" if self._several_lines else "Enter: done · Esc: leave it"
            yield Static(keys, classes="keys", markup=False)

    def on_mount(self) -> None:
        """Put the cursor at the end."""
        if self._several_lines:
            area = self.query_one(TextArea)
            area.move_cursor(area.document.end)

    def on_input_submitted(self) -> None:
        """Take one line."""
        self.action_accept()

    def action_accept(self) -> None:
        """Return the text, if it will do."""
        text = self.query_one(TextArea).text if self._several_lines else self.query_one(Input).value
        if self._check:
            try:
                self._check(text)
            except LocalknobsError as error:
                self.query_one(".trouble", Static).update(str(error))
                return
        self.dismiss(text)

    def action_cancel(self) -> None:
        """Return nothing."""
        self.dismiss(None)
