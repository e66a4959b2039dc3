"""The line of keys at the bottom: only whole ones, and always the way back and the help."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

ALWAYS = ("escape", "f1")


class KeyFooter(Footer):
    """Textual's footer, which cuts off what does not fit: first the palette's key goes, then the last ones.

    All keys are on the page of help.
    """

    def compose(self) -> ComposeResult:
        """Lay out the keys that fit."""
        keys = [one for one in super().compose() if isinstance(one, FooterKey)]
        if not self.has_class("-wide"):
            keys = [one for one in keys if not one.has_class("-command-palette")]
        room = self.app.size.width - sum(_width(one) for one in keys)
        for one in reversed(keys):
            if room < 0 and one.key not in ALWAYS and not one.has_class("-command-palette"):
                room += _width(one)
                keys.remove(one)
        yield from keys

    def on_resize(self, _event: events.Resize) -> None:
        """Lay out other keys where there is other room."""
        self.set_class(self.app.size.width >= 100, "-wide")
        self.call_after_refresh(self.recompose)


def _width(key: FooterKey) -> int:
    """Return the cells that a key takes, its blanks and the palette's line included."""
    return len(key.key_display) + len(key.description) + 3 + 2 * key.has_class("-command-palette")
