"""The line that says what the colours along an answer mean; hidden while there are none."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static


class TintLegend(Static):
    """One line."""

    DEFAULT_CSS = """
    TintLegend { height: 1; padding: 0 2; color: $text-muted; display: none; }
    TintLegend.-shown { display: block; }
    """

    def show(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show texts with their styles; none hides the line."""
        self.update(Content.assemble(*pairs))
        self.set_class(bool(pairs), "-shown")
