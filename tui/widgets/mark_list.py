"""A list in which Space marks several things; a mark is a sign and not only a colour."""

from __future__ import annotations

from rich.segment import Segment
from textual.strip import Strip
from textual.widgets import SelectionList
from textual.widgets.option_list import OptionDoesNotExist


class MarkList(SelectionList[str]):
    """Textual's list, whose own box shows the same X whether it is marked or not."""

    DEFAULT_CSS = """
    MarkList { border: none; padding: 0; background: transparent; }
    MarkList:focus { border: none; }
    """
    MARKED, UNMARKED, IMPOSSIBLE = "x", " ", "–"

    def render_line(self, y: int) -> Strip:
        """Draw a line of the list, with the sign in its box."""
        strip = super().render_line(y)
        try:
            option = self.get_option_at_index(self.scroll_offset.y + y)
        except OptionDoesNotExist:
            return strip
        left, box, *rest = strip
        sign = self.MARKED if option.value in self.selected else self.UNMARKED
        return Strip([left, Segment(self.IMPOSSIBLE if option.disabled else sign, box.style), *rest])
