"""The Jobs screen: the long work and the downloads of this session, how far they are, and what to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Static

from localknobs.errors import LocalknobsError
from localknobs.gguf_info import check_is_model, read_header
from localknobs.terminal_text import printable, shortened_in_the_middle
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.cards import keys_help
from localknobs.tui.downloads import Download
from localknobs.tui.job_rows import Item, JobRow, job_row
from localknobs.tui.places import PLACES
from localknobs.tui.screens.info import Info
from localknobs.tui.screens.wish import Wish
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.list_table import ListTable
from localknobs.units import time_text

if TYPE_CHECKING:
    from localknobs.tui.app import LocalknobsApp

REDRAW_S = 0.25
"""How often the list is drawn again."""
NOTHING = (
    "Nothing runs, and nothing ran since the program was opened.\n\nLong work is listed here, whichever screen started "
    "it: files made in the Forge and on the Context screen, models fetched from the hub, and the rest. It goes on "
    "while you do something else. F7 in the chat goes to every screen."
)


class JobsScreen(Screen[Wish | None]):
    """Returns a screen to go to, a file to chat with, or None."""

    DEFAULT_CSS = """
    JobsScreen {
        & .title { text-style: bold; padding: 0 1; height: 1; }
        & #jobs { height: auto; max-height: 50%; }
        & #jobs.-empty { display: none; }
        & #details { height: 1fr; padding: 0 1; border-top: hkey $surface-lighten-1; scrollbar-size-vertical: 1; }
        & #details:focus { background: $boost; }
        & #about { height: auto; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("f1", "help", "Help", "every key of this screen"),
        Action("s", "stop", "Stop", "stop the marked job; a download is paused, and what it fetched is kept"),
        Action("r", "again", "Run again", "run a job that is over once more; go on with a paused download"),
        Action("x", "remove", "Take off", "take the marked job off the list; what it made or fetched stays"),
        Action("t", "chat", "Chat", "chat with the model that the marked job made"),
        Action("y", "copy", "Copy command", "copy the command that does the same in a shell"),
        Action("escape", "back", "Back", "go back; everything goes on"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[JobRow] = []

    def compose(self) -> ComposeResult:
        """Lay out the list, and what is known of the marked row."""
        yield Static("Jobs", classes="title")
        yield ListTable("Go to its screen", id="jobs")
        with VerticalScroll(id="details"):
            yield Static(id="about", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Show what there is, then follow it."""
        table = self.query_one(ListTable)
        self._columns = table.add_columns("job", "state", "", "left", "took", "rate")
        table.focus()
        self._draw()
        self.set_interval(REDRAW_S, self._draw)

    @property
    def _app(self) -> LocalknobsApp:
        return cast("LocalknobsApp", self.app)

    # ---- the list -----------------------------------------------------------------------------

    def _draw(self) -> None:
        table = self.query_one(ListTable)
        before = [row.key for row in self._rows]
        items: list[Item] = [*self._app.works.items, *self._app.downloads.items]
        self._rows = sorted(map(job_row, items), key=lambda row: not row.active)  # what runs comes first
        table.set_class(not self._rows, "-empty")
        if before == [row.key for row in self._rows]:
            for row in self._rows:
                for column, cell in zip(self._columns, self._cells(row), strict=True):
                    if table.get_cell(row.key, column) != cell:
                        table.update_cell(row.key, column, cell, update_width=True)
        else:
            marked = table.marked_key
            table.clear()
            for row in self._rows:
                table.add_row(*self._cells(row), key=row.key)
            table.mark(marked)
        self._show_details()

    def _cells(self, row: JobRow) -> list[Text]:
        wide = self.has_class("-wide")
        style = {"failed": "red", "done": "green"}.get(row.state, "")
        return [
            Text(shortened_in_the_middle(printable(row.what), 48 if wide else 26)),
            Text(printable(row.state)[: 24 if wide else 12], style),
            Text(row.progress(20 if wide else 8)),
            Text(time_text(row.left_s) if row.left_s is not None else "", justify="right"),
            Text(time_text(row.seconds), justify="right"),
            Text(row.rate),
        ]

    def _show_details(self) -> None:
        row = self._marked
        self.query_one("#about", Static).update(printable(row.details if row else NOTHING))
        self.refresh_bindings()

    @property
    def _marked(self) -> JobRow | None:
        key = self.query_one(ListTable).marked_key
        return next((row for row in self._rows if row.key == key), None)

    def on_data_table_row_highlighted(self) -> None:
        """Show what is known of another row."""
        self._show_details()

    # ---- what is done with one ----------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what is possible with the marked row."""
        if action not in ("stop", "again", "remove", "chat", "copy") or not self.is_mounted:
            return True
        row = self._marked
        if row is None:
            return False
        if action == "stop":
            return row.active
        if action == "again":
            return not row.active and not (isinstance(row.item, Download) and row.item.state == "done")
        if action == "remove":
            return not row.active or isinstance(row.item, Download)
        return bool(row.files) if action == "chat" else True

    def on_data_table_row_selected(self, _event: DataTable.RowSelected) -> None:
        """Enter: go to the screen that the work belongs to."""
        row = self._marked
        place = next((place for place in PLACES if row and row.verb in place.works), None)
        if place:
            self.dismiss(Wish("go", place.action))
        elif row:
            self.notify("This work has no screen of its own: all that is known of it is shown here.")

    def action_stop(self) -> None:
        """Stop the marked job."""
        row = self._marked
        if row and isinstance(row.item, Download):
            self._app.downloads.pause(row.item)
        elif row:
            self._app.works.stop(row.item)  # type: ignore[arg-type]
        self._draw()

    def action_again(self) -> None:
        """Run the marked job again."""
        row = self._marked
        if row is None:
            return
        item = row.item
        if isinstance(item, Download):
            self._app.downloads.resume(item)
        elif any(one.active and one.arguments == item.arguments for one in self._app.works.items):
            self.notify("The same work is running already.")
        else:
            self._app.works.start(item.kind, item.title, item.arguments)
        self._draw()

    def action_remove(self) -> None:
        """Take the marked job off the list."""
        row = self._marked
        if row and isinstance(row.item, Download):
            self._app.downloads.remove(row.item)
        elif row:
            self._app.works.remove(row.item)  # type: ignore[arg-type]
        self._draw()

    def action_chat(self) -> None:
        """Chat with the first model among the files that were made."""
        row = self._marked
        reason: LocalknobsError | None = None
        for path in row.files if row else ():
            if path.is_dir():
                continue
            try:
                check_is_model(read_header(path))
            except LocalknobsError as error:
                reason = error
            else:
                self.dismiss(Wish("chat", str(path)))
                return
        self.notify(str(reason or "It made no file that can be chatted with."), severity="warning")

    def action_copy(self) -> None:
        """Copy the command."""
        if row := self._marked:
            self.app.copy_to_clipboard(row.command)
            self.notify("Copied.")

    def action_back(self) -> None:
        """Go back."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Show every key."""
        enter = ("Enter", "go to the screen that the marked job belongs to")
        self.app.push_screen(Info("Jobs", keys_help([("On this screen", [enter, *key_help(self.ACTIONS)])])))
