"""Fields and knobs under one another: the arrows go from one to the next, and the list follows."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Input

from localknobs.tui.widgets.knob_row import KnobRow


class FieldList(VerticalScroll, can_focus=False):
    """Holds text fields and knobs."""

    BINDINGS: ClassVar[list[BindingType]] = [  # those of the container scroll, and leave the cursor where it is
        Binding("up,k", "neighbour(-1)", "Up", show=False),
        Binding("down,j", "neighbour(1)", "Down", show=False),
    ]

    def action_neighbour(self, direction: int) -> None:
        """Go to the next or previous one; the first and the last stay."""
        listed = [one for one in self.query("KnobRow, Input") if isinstance(one, KnobRow | Input) and one.focusable]
        focused = self.screen.focused
        at = listed.index(focused) if focused in listed else -direction
        if 0 <= at + direction < len(listed):
            listed[at + direction].focus()
