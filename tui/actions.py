"""What a screen can do, as rows of a table: the keys, the footer, the command palette and the help are made from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from textual.app import SystemCommand
from textual.binding import Binding
from textual.keys import format_key
from textual.screen import Screen

_KEY_NAMES = {"escape": "Esc", "enter": "Enter", "tab": "Tab", "space": "Space", "backspace": "Backspace"}


class Action(NamedTuple):
    """One row of the table.

    Args:
        key: Textual's name of the key.
        name: The action method's name without `action_`.
        label: What the footer and the palette call it.
        help: What it does.
        in_footer: Whether the footer shows it.
        first: Whether the key acts before that of the focused widget.
    """

    key: str
    name: str
    label: str
    help: str
    in_footer: bool = True
    first: bool = False


def bindings(actions: Iterable[Action], *, priority: bool = False) -> list[Binding]:
    """Return the key bindings of a table.

    Args:
        actions: The table.
        priority: Whether the keys act before those of the focused widget.
    """
    return [
        Binding(
            row.key, row.name, row.label, show=row.in_footer, tooltip=row.help, priority=priority or _comes_first(row)
        )
        for row in actions
    ]


def _comes_first(row: Action) -> bool:
    return row.first or row.key.startswith("alt+")  # a text box takes Alt and a letter for the letter


def key_text(key: str) -> str:
    """Write a key as all texts of the program do: `Ctrl+T` for `ctrl+t`, `F7`, `Esc`, and a letter alone as it is."""
    *held, last = key.split("+")
    last = _KEY_NAMES.get(last) or format_key(last)
    if held or (last[:1] == "f" and last[1:].isdigit()):
        last = last[:1].upper() + last[1:]
    return "+".join([*(one.capitalize() for one in held), last])


def key_help(actions: Iterable[Action]) -> list[tuple[str, str]]:
    """Return (key, what it does) pairs for a help page."""
    return [(key_text(row.key), row.help) for row in actions]


def palette_commands(screen: Screen[Any], actions: Iterable[Action]) -> Iterator[SystemCommand]:
    """Yield the actions that are possible now, for the command palette."""
    for row in actions:
        if screen.check_action(row.name, ()):
            about = f"{row.help}  ({key_text(row.key)})"
            yield SystemCommand(row.label, about, lambda name=row.name: screen.call_later(screen.run_action, name))
