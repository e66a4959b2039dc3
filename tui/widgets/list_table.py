"""A table of things to choose from: moved in by arrows or as in vi, chosen by Enter, which the footer shows."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Offset, Region
from textual.widgets import DataTable


class ListTable(DataTable[Text]):
    """A table whose rows are marked and chosen.

    Args:
        chooses: What Enter does, for the footer.
        id: As of every widget.
    """

    DEFAULT_CSS = """
    ListTable { background: transparent; scrollbar-size-horizontal: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "scroll_top", "First", show=False),
        Binding("G", "scroll_bottom", "Last", show=False),
    ]

    def __init__(self, chooses: str, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(cursor_type="row", id=id)
        self._bindings.key_to_bindings["enter"] = [Binding("enter", "select_cursor", chooses)]

    def scroll_to_region(self, region: Region, **options: Any) -> Offset:
        """Scroll up and down only: the marked row is wider than a narrow table, and its name must stay in view."""
        return super().scroll_to_region(region, **{**options, "x_axis": False})

    @property
    def marked_key(self) -> str:
        """Key of the row under the cursor; empty when the table is."""
        if not self.is_valid_coordinate(self.cursor_coordinate):
            return ""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value or ""

    def mark(self, key: str) -> None:
        """Move the cursor to the row of a key; to the first when there is none."""
        keys = [row.value for row in self.rows]
        self.move_cursor(row=keys.index(key) if key in keys else 0)
