"""A knob's value in a box of its own: a list where it is one of a few, a text otherwise."""

from __future__ import annotations

from textual.app import App

from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.widgets.knob_row import KnobRow


def edit_knob(app: App[object], knob_row: KnobRow) -> None:
    """Let the user choose or type a knob's value."""
    row = knob_row.row

    def given(text: str | None) -> None:
        if text is not None:
            knob_row.take(text)

    note = f"{row.help}\n{row.range_text()}"
    if row.kind == "choice":
        choices = [Choice(name, name) for name in row.choices]
        app.push_screen(Picker(row.label, choices, note=row.help, chosen=str(knob_row.value)), given)
    else:
        several_lines = row.kind == "text"
        shown = row.show(knob_row.value)
        app.push_screen(TextDialog(row.label, shown, note=note, several_lines=several_lines, check=row.parse), given)
