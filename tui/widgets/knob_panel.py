"""The panel of knobs: the preset on top, then every row of the tables under its heading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from localknobs.knobs import KNOBS, Knob, Value
from localknobs.tui.widgets.adapter_rows import AdapterRows
from localknobs.tui.widgets.knob_row import KnobRow

PANEL_KNOBS: tuple[str, ...] = tuple(KNOBS)
"""Every knob has its row here (tests/guards compares)."""


class PresetRow(Widget, can_focus=True):
    """The chosen preset; arrows go through them, Enter opens the list."""

    DEFAULT_CSS = """
    PresetRow { height: 1; padding: 0 1; text-style: bold; }
    PresetRow:focus { background: $primary 25%; }
    PresetRow:hover { background: $boost; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "other(-1)", "Other preset", key_display="← →"),
        Binding("right", "other(1)", "Next preset", show=False),
        Binding("enter", "choose", "List presets"),
    ]
    preset: reactive[str] = reactive("default")
    changed: reactive[bool] = reactive(False)

    class Other(Message):
        """The user wants the neighbouring preset."""

        def __init__(self, direction: int) -> None:
            super().__init__()
            self.direction = direction

    class Choose(Message):
        """The user wants to see the presets."""

    def render(self) -> str:
        """Draw the line."""
        return f"preset         ‹ {self.preset}{' (changed)' if self.changed else ''} ›"

    def action_other(self, direction: int) -> None:
        """Take the neighbour."""
        self.post_message(self.Other(direction))

    def action_choose(self) -> None:
        """Open the list."""
        self.post_message(self.Choose())

    def on_click(self) -> None:
        """Open the list."""
        self.post_message(self.Choose())


class KnobPanel(VerticalScroll, can_focus=False):
    """All knobs. Up and Down go from row to row; `KnobRow.Changed` bubbles to the screen."""

    DEFAULT_CSS = """
    KnobPanel { width: 46; border-left: vkey $surface-lighten-1; scrollbar-size-vertical: 1; }
    KnobPanel .heading { height: 1; padding: 0 1; margin-top: 1; color: $text-muted; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "neighbour(-1)", "Up", show=False),
        Binding("down,j", "neighbour(1)", "Down", show=False),
    ]

    def __init__(self, values: Mapping[str, Value]) -> None:
        super().__init__()
        self._values = dict(values)
        self._last_focused: Widget | None = None

    def compose(self) -> ComposeResult:
        """Lay out the preset line, headings and rows."""
        yield PresetRow()
        yield AdapterRows()
        heading = ""
        for row in self._rows():
            if row.group != heading:
                heading = row.group
                note = " (⟳ at the next load)" if row.applies == "reload" else ""
                yield Static(heading + note, classes="heading")
            yield KnobRow(row, self._values[row.name], self._values[row.name])

    @staticmethod
    def _rows() -> Iterator[Knob]:
        rows = [KNOBS[name] for name in PANEL_KNOBS]
        groups = list(dict.fromkeys(row.group for row in rows))
        for group in groups:
            yield from (row for row in rows if row.group == group)

    def show_values(self, values: Mapping[str, Value], standard: Mapping[str, Value]) -> None:
        """Show other values, and what a reset goes back to."""
        for knob_row in self.query(KnobRow):
            if knob_row.row.name not in KNOBS:
                continue  # an adapter's scale is no value of these
            knob_row.standard = standard.get(knob_row.row.name, knob_row.row.default)
            knob_row.value = values.get(knob_row.row.name, knob_row.row.default)
            knob_row.refresh()

    def show_preset(self, name: str, *, changed: bool) -> None:
        """Show the chosen preset."""
        line = self.query_one(PresetRow)
        line.preset, line.changed = name, changed

    def focus_row(self) -> None:
        """Focus the row that had it last, or the first knob."""
        last = self._last_focused if self._last_focused and self._last_focused.is_attached else None
        target = last or next(iter(self.query(KnobRow)), None)
        if target is not None:
            target.focus()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Remember the row, to come back to it."""
        self._last_focused = event.widget

    def action_neighbour(self, direction: int) -> None:
        """Focus the next or previous row."""
        rows: list[Widget] = [self.query_one(PresetRow), *self.query(KnobRow)]
        focused = self.screen.focused
        at = rows.index(focused) + direction if focused in rows else 0
        rows[min(len(rows) - 1, max(0, at))].focus()
