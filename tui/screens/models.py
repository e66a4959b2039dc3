"""The Models screen: every model on this machine in a table, and what the marked one would take before it is loaded."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from localknobs.library import SOURCES, ModelEntry, RemovalPlan, list_models, plan_removal, remove
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.bridge import as_ours
from localknobs.tui.cards import keys_help
from localknobs.tui.screens.info import Info
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.screens.wish import Wish
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.list_table import ListTable
from localknobs.tui.widgets.model_details import ModelDetails
from localknobs.units import count_text, size_text

COLUMNS: tuple[str, ...] = ("name", "size", "quant", "context", "params", "kind", "source")


class ModelsScreen(Screen[Wish | None]):
    """Returns what is to be done with which model, or None.

    Args:
        chosen: Name of the model to begin at.
    """

    DEFAULT_CSS = """
    ModelsScreen {
        & #list { width: 1fr; }
        & ListTable { height: 1fr; }
        & #filter { border: none; height: 1; padding: 0 1; background: $boost; display: none; }
        & #filter:focus { border: none; background: $primary 25%; }
        & #filter.-open { display: block; }
        & .title { text-style: bold; padding: 0 1; }
        & ModelDetails { width: 46; padding: 0 1; border-left: vkey $surface-lighten-1; }
        &.-narrow Horizontal { layout: vertical; }
        &.-narrow ModelDetails { width: 1fr; height: 13; border-left: none; border-top: hkey $surface-lighten-1; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("f1", "help", "Help", "every key of this screen"),
        Action("n", "get", "Get more", "search the hub and fetch models"),
        Action("slash", "filter", "Filter", "narrow the list down by typing"),
        Action("f", "forge", "Forge", "make smaller files of the marked model"),
        Action("m", "measure", "Measure", "measure the marked model against the one it was made from"),
        Action("o", "open", "Open a file", "chat with a file that is not in the list"),
        Action("s", "sort", "Sort", "sort by the next column, up, then down"),
        Action("d", "delete", "Delete", "delete the marked model's files, after asking"),
        Action("r", "refresh", "Look again", "read the folders again", in_footer=False),
        Action("tab", "other_part", "To the memory", "go to the memory sliders, and back to the list", in_footer=False),
        Action("escape", "back", "Back", "leave the filter, or go back to the chat"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]

    def __init__(self, chosen: str = "") -> None:
        super().__init__()
        self._chosen = chosen
        self._entries: list[ModelEntry] = []
        self._sorted_by, self._reverse = "", False

    def compose(self) -> ComposeResult:
        """Lay out the table, and what is known of the marked model beside or under it."""
        with Horizontal():
            with Vertical(id="list"):
                yield Static("Models on this machine", classes="title", id="title", markup=False)
                yield Input(id="filter", placeholder="words to look for: a name, a quant, a kind, a source")
                yield ListTable("Chat")
            yield ModelDetails()
        yield KeyFooter()

    def on_mount(self) -> None:
        """Read the folders."""
        table = self.query_one(ListTable)
        for column in COLUMNS:
            table.add_column(column, key=column)
        table.focus()
        self.action_refresh()

    # ---- the table ----------------------------------------------------------------------------

    @work(exclusive=True, group="list", exit_on_error=False)
    async def action_refresh(self) -> None:
        """Read the folders again, in a thread: a disk may be slow."""
        try:
            listing = await asyncio.to_thread(list_models)
        except Exception as error:
            self.notify(str(as_ours(error, "reading the folders")), severity="error")
            return
        self._entries = list(listing.entries)
        for folder, reason in listing.unreadable:
            self.notify(f"{folder} was not looked into: {reason}", severity="warning")
        self._fill()

    def _fill(self) -> None:
        """Show the entries that the filter lets through, in the chosen order; the marked one stays marked."""
        table, marked = self.query_one(ListTable), self.marked
        row, is_first = table.cursor_row, not table.row_count
        words = self.query_one("#filter", Input).value.lower().split()
        shown = [entry for entry in self._entries if all(word in _searched(entry) for word in words)]
        if self._sorted_by:
            shown.sort(key=lambda entry: _sort_key(entry, self._sorted_by), reverse=self._reverse)
        table.clear()
        for entry in shown:
            table.add_row(*_cells(entry), key=entry.identity)
        for key, column in table.columns.items():
            arrow = (" ▼" if self._reverse else " ▲") if key.value == self._sorted_by else ""
            column.label = Text(f"{key.value}{arrow}")
        kept = next(filter(self._is_loaded, shown), None) if is_first else marked
        if kept or is_first:
            table.mark(kept.identity if kept else "")
        else:  # it is gone: its neighbour is marked
            table.move_cursor(row=min(row, table.row_count - 1))
        total = sum(entry.size_bytes for entry in shown)
        self.query_one("#title", Static).update(f"{len(shown)} of {len(self._entries)} models, {size_text(total)}")
        self._show_marked()

    def _is_loaded(self, entry: ModelEntry) -> bool:
        return self._chosen in (entry.name, *entry.aliases, str(entry.path))

    @property
    def marked(self) -> ModelEntry | None:
        """The entry under the cursor."""
        identity = self.query_one(ListTable).marked_key
        return next((entry for entry in self._entries if entry.identity == identity), None)

    def _show_marked(self) -> None:
        self.query_one(ModelDetails).show(self.marked)
        self.refresh_bindings()

    def on_data_table_row_highlighted(self) -> None:
        """Show what is known of the marked model."""
        self._show_marked()

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click on the marked row."""
        self.action_chat()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the clicked column; once more turns it round."""
        column = str(event.column_key.value)
        self._reverse = not self._reverse if column == self._sorted_by else False
        self._sorted_by = column
        self._fill()

    def action_sort(self) -> None:
        """Go on to the next order: each column up, then down."""
        if self._sorted_by and not self._reverse:
            self._reverse = True
        else:
            at = COLUMNS.index(self._sorted_by) if self._sorted_by else -1
            self._sorted_by, self._reverse = COLUMNS[(at + 1) % len(COLUMNS)], False
        self._fill()

    # ---- the filter ---------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Open the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        field.focus()

    def on_input_changed(self) -> None:
        """Narrow the table down."""
        self._fill()

    def on_input_submitted(self) -> None:
        """Go on in the table; the filter stays."""
        self.query_one(ListTable).focus()

    def action_back(self) -> None:
        """Leave the memory sliders, the filter, or the screen."""
        field = self.query_one("#filter", Input)
        if self.query_one(ModelDetails).has_focus_within:
            self.query_one(ListTable).focus()
        elif field.has_class("-open"):
            field.remove_class("-open")
            field.value = ""
            self.query_one(ListTable).focus()
        else:
            self.dismiss(None)

    def action_other_part(self) -> None:
        """Go to the memory sliders, or back to the table."""
        details = self.query_one(ModelDetails)
        if details.has_focus_within or not details.focus_first():
            self.query_one(ListTable).focus()

    # ---- what is done with a model ------------------------------------------------------------

    def action_chat(self) -> None:
        """Chat with the marked model."""
        if entry := self.marked:
            if entry.usable:
                self.dismiss(Wish("chat", entry.argument))
            elif entry.kind == "checkpoint" and not entry.trouble:
                self.notify("A checkpoint becomes a model in the Forge: press f.")
            else:
                self.notify(entry.trouble or f"{entry.name} is no model to chat with, but: {entry.kind}.")

    def action_forge(self) -> None:
        """Make files of the marked model."""
        if entry := self.marked:
            self.dismiss(Wish("forge", str(entry.path)))

    def action_measure(self) -> None:
        """Measure the marked model."""
        entry = self.marked
        if entry and entry.usable:
            self.dismiss(Wish("measure", entry.argument))
        elif entry:
            self.notify(entry.trouble or f"{entry.name} is no model to measure, but: {entry.kind}.")

    def action_get(self) -> None:
        """Search the hub."""
        self.dismiss(Wish("get"))

    def action_open(self) -> None:
        """Chat with a file that is not in the list."""

        def named(path: str | None) -> None:
            if path and path.strip():
                self.dismiss(Wish("chat", path.strip()))

        note = "The path of a GGUF file. To have it in this list: localknobs import"
        self.app.push_screen(TextDialog("Open a file", note=note, several_lines=False), named)

    @work(group="plan", exclusive=True, exit_on_error=False)
    async def action_delete(self) -> None:
        """Ask, then delete the marked model's files; only the own ones."""
        if (entry := self.marked) is None:
            return
        try:
            plan = await asyncio.to_thread(plan_removal, entry)  # it looks into folders
        except Exception as error:
            self.notify(str(as_ours(error, "looking at its files")), severity="warning", timeout=8)
            return

        def answered(choice: str | None) -> None:
            if choice == "delete":
                self._delete(plan)

        loaded = ("It is loaded now; the chat goes on with it until another model is.",) * self._is_loaded(entry)
        paths = "\n".join(map(str, (*plan.paths, *plan.remarks, *loaded)))
        delete = Choice("delete", "Delete it", f"frees {size_text(plan.freed_bytes)}; this cannot be undone")
        self.app.push_screen(
            Picker(f"Delete {entry.name}?", [Choice("keep", "Keep it"), delete], note=printable(paths)), answered
        )

    @work(group="delete", exit_on_error=False)
    async def _delete(self, plan: RemovalPlan) -> None:
        try:
            await asyncio.to_thread(remove, plan)
        except Exception as error:
            self.notify(str(as_ours(error, "deleting")), severity="error")
        self.action_refresh()

    def action_help(self) -> None:
        """Show every key."""
        moving = [
            ("Enter", "chat with the marked model"),
            ("↑ ↓ j k g G", "move in the list"),
            ("← → digits", "turn a memory slider"),
        ]
        sections = [("On this screen", [*key_help(self.ACTIONS), *moving])]
        sources = ", ".join(source.label for source in SOURCES.values())
        text = (
            f"{keys_help(sections)}\n\nLooked for in the folders of: {sources}. Only what lies in the own folder is "
            "ever deleted; everything else is read where it lies and never changed.\n\nThe memory bill is llama.cpp's "
            "own plan with nothing loaded; where it cannot be had, a formula, and the bill says so."
        )
        self.app.push_screen(Info("Models", text))


def _cells(entry: ModelEntry) -> list[Text]:
    style = "" if entry.usable else "dim"
    kind = Text(printable(entry.kind), style) if entry.state == "whole" else Text(entry.state, "bold")
    return [
        Text(printable(entry.name), style, no_wrap=True, overflow="ellipsis"),
        Text(size_text(entry.size_bytes), style, justify="right"),
        Text(entry.quant or "-", style),
        Text(f"{entry.context:,}" if entry.context else "-", style, justify="right"),
        Text(count_text(entry.parameters) if entry.parameters else "-", style, justify="right"),
        kind,
        Text(entry.source, style),
    ]


def _sort_key(entry: ModelEntry, column: str) -> tuple[object, str]:
    by: dict[str, object] = {
        "name": entry.name.lower(), "size": entry.size_bytes, "quant": entry.quant, "context": entry.context,
        "params": entry.parameters, "kind": entry.kind, "source": entry.source,
    }  # fmt: skip
    return by[column], entry.name.lower()


def _searched(entry: ModelEntry) -> str:
    parts = (entry.name, *entry.aliases, entry.title, entry.quant, entry.kind, entry.architecture, entry.state)
    return " ".join((*parts, entry.source, SOURCES[entry.source].label)).lower()
