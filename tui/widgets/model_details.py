"""What is known of one model of the library, and what it would take of the memory."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from localknobs.library import SOURCES, ModelEntry
from localknobs.terminal_text import printable
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.memory_bill import MemoryBill
from localknobs.units import count_text, size_text


class ModelDetails(VerticalScroll, can_focus=False):
    """The memory bill where there can be one, then the facts in words."""

    DEFAULT_CSS = """
    ModelDetails #name { text-style: bold; height: auto; }
    ModelDetails #about { height: auto; margin-top: 1; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        """Lay out the parts."""
        yield Static(id="name", markup=False)
        yield MemoryBill()
        yield Static(id="about", markup=False)

    def show(self, entry: ModelEntry | None) -> None:
        """Show another model."""
        bill = self.query_one(MemoryBill)
        bill.display = entry is not None and entry.usable
        if entry is None:
            self.query_one("#name", Static).update("No model matches. Esc leaves the filter.")
            self.query_one("#about", Static).update("")
            return
        self.query_one("#name", Static).update(printable(entry.name))
        self.query_one("#about", Static).update(printable(_about(entry)))
        if entry.usable:
            bill.show(entry.path, entry.context)

    def focus_first(self) -> bool:
        """Focus the first slider; False when there is none to see."""
        if not self.query_one(MemoryBill).display:
            return False
        self.query(KnobRow).first().focus()
        return True


def _about(entry: ModelEntry) -> str:
    facts = [
        entry.trouble,
        entry.title if entry.title and entry.title != entry.name else "",
        " · ".join(filter(None, (
            entry.architecture, count_text(entry.parameters) + " parameters" if entry.parameters else "",
            entry.quant, size_text(entry.size_bytes),
        ))),
        f"trained for {entry.context:,} tokens" if entry.context else "",
        f"{SOURCES[entry.source].label}: {entry.path}",
        f"{len(entry.files)} files" if len(entry.files) > 1 else "",
        f"projector: {entry.projector.name}" if entry.projector else "",
        f"also called {', '.join(entry.aliases)}" if entry.aliases else "",
        *(f"also at {place}" for place in entry.also_at),
    ]  # fmt: skip
    return "\n".join(filter(None, facts))
