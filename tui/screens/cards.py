"""The cards: every lever and every knob, what it changes, costs and how it fails, and what it did on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Input, Markdown, OptionList, Static
from textual.widgets.option_list import Option

from localknobs.knobs import ALL_KNOBS, KNOBS, LEVERS, Knob, Values
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.cards import keys_help, knob_card, lever_card
from localknobs.tui.screens.info import Info
from localknobs.tui.widgets.key_footer import KeyFooter


class CardsScreen(Screen[str | None]):
    """Returns the name of the knob that is to be turned, or None.

    Args:
        values: Of the knobs of the chat.
        first: Key of the card to begin with: a lever or a knob.
    """

    DEFAULT_CSS = """
    CardsScreen {
        #list { width: 34; border-right: vkey $surface-lighten-1; }
        #search, #search:focus { border: none; height: 1; padding: 0 1; margin: 0 0 1 0; background: $boost; }
        #list OptionList { height: 1fr; border: none; padding: 0; background: transparent; scrollbar-size-vertical: 1; }
        #card { padding: 0 1; width: 1fr; }
        #title { text-style: bold; margin-bottom: 1; }
        #card Markdown { background: transparent; margin: 0; padding: 0; }
        &.-narrow #list { width: 26; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("f1", "help", "Help", "every key of this screen"),
        Action("slash", "search", "Search", "narrow the list down by typing"),
        Action("t", "turn", "Turn it", "go to the marked knob in the chat"),
        Action("tab", "other_part", "To the card", "scroll the card, and back to the list"),
        Action("y", "copy", "Copy", "copy the card", in_footer=False),
        Action("escape", "back", "Back", "leave the search, or go back to the chat"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]

    def __init__(self, values: Values, first: str = "") -> None:
        super().__init__()
        self._values = dict(values)
        self._first = first
        self._shown = ""
        self._text = ""

    def compose(self) -> ComposeResult:
        """Lay out the list on the left, the card on the right."""
        with Horizontal():
            with Vertical(id="list"):
                yield Input(placeholder="/ searches", id="search")
                yield OptionList()
            with VerticalScroll(id="card"):
                yield Static(id="title", markup=False)
                yield Markdown(open_links=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Show the first card."""
        self._fill("")
        self.query_one(OptionList).focus()

    def _fill(self, typed: str) -> None:
        """List what has all the typed words in its names or its text."""
        words = typed.lower().split()
        listed = self.query_one(OptionList)
        listed.clear_options()
        for card in LEVERS:
            rows = list(_in_groups(card.lever))
            found = [row for row in rows if all(word in _searched(row) for word in words)]
            if words and not found and not all(word in f"{card.title} {card.summary}".lower() for word in words):
                continue
            listed.add_option(Option(Text(card.title, "bold"), id=card.lever))
            group = ""
            for row in found:
                if row.group != group:
                    group = row.group
                    listed.add_option(Option(Text(f" {group}", "dim"), disabled=True))
                listed.add_option(Option(Text(f"   {row.label}", no_wrap=True, overflow="ellipsis"), id=row.name))
        if not listed.option_count:
            self._show("Nothing has these words", "Fewer letters find more.")
            return
        at = 0
        if self._first:
            keys = [option.id for option in listed.options]
            at = keys.index(self._first) if self._first in keys else 0
        elif words:  # what is called so; else the first knob that fits, rather than the lever above it
            names = [str(option.prompt).strip().lower() if option.id else "" for option in listed.options]
            knobs = (at for at, option in enumerate(listed.options) if option.id in ALL_KNOBS)
            at = next((at for at, name in enumerate(names) if name.startswith(typed.strip().lower())), next(knobs, 0))
        listed.highlighted = at

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Show its card."""
        key = event.option_id or ""
        if key and key != self._shown:
            self._shown = key
            self._show_card(key)

    def _show_card(self, key: str) -> None:
        if key in ALL_KNOBS:
            row = ALL_KNOBS[key]
            title = row.label if row.label == row.name else f"{row.label} ({row.name})"
            self._show(title, knob_card(row, self._values.get(key)))
        else:
            card = next(card for card in LEVERS if card.lever == key)
            self._show(card.title, lever_card(card))
        self.refresh_bindings()

    def _show(self, title: str, text: str) -> None:
        self._text = f"# {title}\n\n{text}"
        self.query_one("#title", Static).update(title)
        self.query_one(Markdown).update(text)
        self.query_one("#card").scroll_home(animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A knob of the chat can be turned there."""
        return self._shown in KNOBS if action == "turn" else True

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter goes to the card."""
        self.query_one("#card").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list."""
        self._first = ""
        self._fill(event.value)

    def on_input_submitted(self) -> None:
        """Go to the list."""
        self.query_one(OptionList).focus()

    def action_search(self) -> None:
        """Go to the search."""
        self.query_one("#search").focus()

    def action_other_part(self) -> None:
        """Go from the list to the card, and back."""
        listed = self.query_one(OptionList)
        (self.query_one("#card") if self.focused is listed else listed).focus()

    def action_turn(self) -> None:
        """Go to the knob in the chat."""
        self.dismiss(self._shown)

    def action_copy(self) -> None:
        """Copy the card."""
        self.app.copy_to_clipboard(self._text)
        self.notify("Copied.")

    def action_back(self) -> None:
        """Leave the search, or the screen."""
        search = self.query_one("#search", Input)
        if search.value or search.has_focus:
            search.value = ""
            self.query_one(OptionList).focus()
        else:
            self.dismiss(None)

    def action_help(self) -> None:
        """Say every key."""
        about = "Four boxes on each card: what changes, when, where it lives, which trade-off it moves."
        sections = [("Keys", [*key_help(self.ACTIONS), ("↑ ↓", "mark another card"), ("Enter", "go to the card")])]
        self.app.push_screen(Info("The levers and knobs", f"{about}\n\n{keys_help(sections)}"))


def _in_groups(lever: str) -> Iterator[Knob]:
    """Yield a lever's knobs, those of a group together."""
    rows = [row for row in ALL_KNOBS.values() if row.lever == lever]
    for group in dict.fromkeys(row.group for row in rows):
        yield from (row for row in rows if row.group == group)


def _searched(row: Knob) -> str:
    return f"{row.name} {row.label} {row.group} {row.help} {' '.join(row.flags)}".lower()
