"""A box to choose one of several things from, narrowed down by typing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from localknobs.terminal_text import printable


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing to choose.

    Args:
        key: What the picker returns.
        label: What it is called.
        detail: What else to know, shown dimmed behind it.
        allowed: Whether it can be chosen.
    """

    key: str
    label: str
    detail: str = ""
    allowed: bool = True


class Picker(ModalScreen[str | None]):
    """Returns the key of the choice, or None.

    Args:
        title: What is to be chosen.
        choices: In order.
        note: A line under the title.
        chosen: Key to begin at.
        deletable: Whether Ctrl+D returns `delete:` and the key.
    """

    DEFAULT_CSS = """
    Picker { align: center middle; }
    Picker > Vertical {
        width: 90%; max-width: 100; height: auto; max-height: 85%; border: round $primary; background: $surface; padding: 0 1;
    }
    Picker .title { text-style: bold; }
    Picker .note { color: $text-muted; height: auto; }
    Picker Input, Picker Input:focus { border: none; height: 1; padding: 0 1; margin: 1 0; background: $boost; }
    Picker OptionList { height: auto; max-height: 24; border: none; padding: 0; background: transparent; }
    Picker OptionList { text-wrap: nowrap; text-overflow: ellipsis; }
    Picker .keys { color: $text-muted; margin-top: 1; }
    """  # noqa: E501
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Close", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("up", "move(-1)", "Up", show=False),
    ]

    def __init__(
        self, title: str, choices: Sequence[Choice], *, note: str = "", chosen: str = "", deletable: bool = False
    ) -> None:
        super().__init__()
        self._title, self._note = title, note
        self._choices = list(choices)
        self._chosen = chosen
        self._deletable = deletable
        if deletable:
            self._bindings.bind("ctrl+d", "delete", "Delete", show=False, priority=True)

    def compose(self) -> ComposeResult:
        """Lay out the box."""
        with Vertical():
            yield Static(printable(self._title), classes="title", markup=False)
            if self._note:
                yield Static(printable(self._note), classes="note", markup=False)
            yield Input(placeholder="type to narrow the list")
            yield OptionList()
            keys = "Enter chooses · ↑ ↓ move · Esc closes" + (" · Ctrl+D deletes" if self._deletable else "")
            yield Static(keys, classes="keys", markup=False)

    def on_mount(self) -> None:
        """Fill the list."""
        self._fill("")
        keys = [choice.key for choice in self._choices]
        if self._chosen in keys:
            self.query_one(OptionList).highlighted = keys.index(self._chosen)

    def _fill(self, typed: str) -> None:
        listed = self.query_one(OptionList)
        listed.clear_options()
        words = typed.lower().split()
        for choice in self._choices:
            if all(word in f"{choice.label} {choice.detail}".lower() for word in words):
                line = Text(printable(choice.label), no_wrap=True, overflow="ellipsis")
                line.append(f"   {printable(choice.detail)}", "dim")
                listed.add_option(Option(line, id=choice.key, disabled=not choice.allowed))
        listed.highlighted = 0 if listed.option_count else None

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list."""
        self._fill(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Choose what is highlighted."""
        listed = self.query_one(OptionList)
        if listed.highlighted is not None:
            option = listed.get_option_at_index(listed.highlighted)
            if not option.disabled:
                self.dismiss(option.id)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Choose by mouse or Enter."""
        self.dismiss(event.option_id)

    def action_move(self, direction: int) -> None:
        """Move the highlight while typing."""
        listed = self.query_one(OptionList)
        if direction > 0:
            listed.action_cursor_down()
        else:
            listed.action_cursor_up()

    def action_delete(self) -> None:
        """Return that the highlighted one is to be deleted."""
        listed = self.query_one(OptionList)
        if self._deletable and listed.highlighted is not None:
            self.dismiss(f"delete:{listed.get_option_at_index(listed.highlighted).id}")

    def action_cancel(self) -> None:
        """Return nothing."""
        self.dismiss(None)
