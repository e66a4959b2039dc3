"""The Get screen: search the hub, see which file fits, fetch it. The queue belongs to the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from localknobs.errors import LocalknobsError
from localknobs.terminal_text import printable, shortened_in_the_middle
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.bridge import as_ours
from localknobs.tui.cards import keys_help
from localknobs.tui.downloads import Download, Downloads
from localknobs.tui.remote_fit import badges
from localknobs.tui.screens.info import Info
from localknobs.tui.screens.wish import Wish
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.list_table import ListTable
from localknobs.tui.work_text import bar_text, rate_text
from localknobs.units import count_text, size_text, time_text

if TYPE_CHECKING:
    from localknobs.hub.quants import RemoteFile
    from localknobs.hub.repository import Repository
    from localknobs.hub.search import Found

BAR_WIDTH, TITLE_WIDTH = 10, 34
REDRAW_S = 0.25
"""How often the queue is drawn again."""


@dataclass
class Searched(Message):
    """The hub answered a search."""

    text: str
    found: list[Found]
    trouble: str = ""


@dataclass
class Opened(Message):
    """The hub told what a repository holds."""

    name: str
    repository: Repository | None
    trouble: str = ""


@dataclass
class Judged(Message):
    """It is known which files of a repository fit this machine."""

    name: str
    verdicts: dict[str, str]
    advice: str


class GetScreen(Screen[Wish | None]):
    """Returns a fetched model to chat with, or None.

    Args:
        queue: The application's downloads.
    """

    DEFAULT_CSS = """
    GetScreen {
        & #search { border: none; height: 1; padding: 0 1; background: $boost; }
        & #search:focus { border: none; background: $primary 25%; }
        & .title { text-style: bold; padding: 0 1; height: 1; }
        & #lists { height: 1fr; }
        & #repositories { height: 1fr; }
        & #left { width: 11fr; }
        & #right { width: 9fr; border-left: vkey $surface-lighten-1; }
        & #files { height: 1fr; }
        & .note { color: $text-muted; padding: 0 1; height: auto; max-height: 4; }
        & #queue { height: auto; max-height: 9; border-top: hkey $surface-lighten-1; }
        & #queue.-empty { display: none; }
        &.-narrow #lists { layout: vertical; }
        &.-narrow #left, &.-narrow #right { width: 1fr; }
        &.-narrow #right { border-left: none; border-top: hkey $surface-lighten-1; }
        &.-narrow #queue { max-height: 5; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("f1", "help", "Help", "every key of this screen"),
        Action("slash", "search", "Search", "search the hub"),
        Action("p", "pause", "Pause", "pause the marked download, or go on with it", in_footer=False),
        Action("x", "remove", "Take off", "take the marked download off the list; what was fetched is kept"),
        Action("t", "chat", "Chat", "chat with the marked download, once it is done"),
        Action("tab", "next_part", "Next part", "search → repositories → files → downloads", in_footer=False),
        Action("escape", "back", "Back", "go back; downloads go on"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]

    def __init__(self, queue: Downloads) -> None:
        super().__init__()
        self._queue = queue
        self._found: list[Found] = []
        self._repository: Repository | None = None
        self._wanted = self._sought = ""  # the newest questions: an older one may be answered later

    def compose(self) -> ComposeResult:
        """Lay out search, repositories, files and queue."""
        yield Input(id="search", placeholder="a name to search for, or org/repo, or a hub address; Enter searches")
        with Horizontal(id="lists"):
            with Vertical(id="left"):
                yield Static("Repositories", classes="title")
                yield ListTable("List its files", id="repositories")
            with Vertical(id="right"):
                yield Static("Files", classes="title", id="files-title", markup=False)
                yield ListTable("Fetch", id="files")
                yield Static("", classes="note", id="advice", markup=False)
        yield ListTable("Pause/go on", id="queue")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Name the columns, and say at once when there is no connection to be had."""
        self.query_one("#repositories", ListTable).add_columns("params", "downloads", "repository", "licence", "")
        self.query_one("#files", ListTable).add_columns("quant", "size", "fits", "file")
        self.query_one("#queue", ListTable).add_columns("download", "", "rate", "left", "state")
        self.query_one("#search", Input).focus()
        self.set_interval(REDRAW_S, self._draw_queue)
        self._draw_queue()
        from localknobs.hub.offline import refuse_offline

        try:
            refuse_offline("The hub")
        except LocalknobsError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self.query_one("#advice", Static).update(printable(text))

    # ---- searching ----------------------------------------------------------------------------

    def action_search(self) -> None:
        """Go to the search."""
        self.query_one("#search", Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Search; what names a repository is opened at once."""
        text = event.value.strip()
        if not text:
            return
        if "/" in text:
            self._ask_for(text)
        else:
            self._sought = text
            self._say("asking the hub …")
            self._search(text)

    @work(thread=True, exclusive=True, group="search", exit_on_error=False)
    def _search(self, text: str) -> None:
        from localknobs.hub.search import search

        try:
            self.post_message(Searched(text, search(text, limit=40)))
        except Exception as error:
            self.post_message(Searched(text, [], str(as_ours(error, "searching"))))

    def on_searched(self, event: Searched) -> None:
        """Show what was found."""
        if event.text != self._sought:
            return
        table = self.query_one("#repositories", ListTable)
        table.clear()
        self._found = event.found
        for one in event.found:
            lock = " gated" if one.gated else " private" if one.private else ""
            table.add_row(
                Text(count_text(one.parameters) if one.parameters else "-", justify="right"),
                Text(count_text(one.downloads), justify="right"),
                Text(printable(one.repo)),
                Text(printable(one.licence) or "-"),
                Text(" ".join(one.formats) + lock),
                key=one.repo,
            )
        if event.found:
            self._say("Enter on a repository lists its files.")
            table.focus()
        else:
            self._say(event.trouble or f"Nothing on the hub is called {event.text}.")

    # ---- a repository -------------------------------------------------------------------------

    def _ask_for(self, text: str) -> None:
        self._wanted = text
        self._say("asking the hub …")
        self._open(text)

    @work(thread=True, exclusive=True, group="open", exit_on_error=False)
    def _open(self, text: str) -> None:
        from localknobs.hub.repository import open_repository
        from localknobs.hub.spec import parse_spec

        try:
            self.post_message(Opened(text, open_repository(parse_spec(text))))
        except Exception as error:
            self.post_message(Opened(text, None, str(as_ours(error, "asking the hub"))))

    def on_opened(self, event: Opened) -> None:
        """List the files, then judge them."""
        if event.name != self._wanted:
            return
        table = self.query_one("#files", ListTable)
        table.clear()
        self._repository = event.repository
        if event.repository is None:
            self._say(event.trouble)
            return
        self.query_one("#files-title", Static).update(printable(event.repository.name))
        self._fill_files({})
        self._say("reading a header, to know what fits …" if event.repository.files else "It holds no model.")
        table.focus()
        self._judge(event.repository)

    def _fill_files(self, verdicts: dict[str, str]) -> None:
        table = self.query_one("#files", ListTable)
        row = table.cursor_row
        table.clear()
        for file in self._repository.files if self._repository else ():
            verdict = verdicts.get(file.quant or file.path, "") if file.kind == "model" else ""
            style = {"yes": "green", "no": "red"}.get(verdict.split(",")[0], "yellow")
            table.add_row(
                Text(file.quant or file.kind),
                Text(size_text(file.size_bytes), justify="right"),
                Text(verdict or "-", style if verdict else ""),
                Text(printable(file.path) + (f" and {len(file.parts) - 1} more" if len(file.parts) > 1 else "")),
                key=file.path,
            )
        table.move_cursor(row=row)

    @work(thread=True, exclusive=True, group="judge", exit_on_error=False)
    def _judge(self, repository: Repository) -> None:
        try:
            verdicts, advice = badges(repository)
        except Exception as error:
            verdicts, advice = {}, str(as_ours(error, "reading a header"))
        self.post_message(Judged(repository.name, verdicts, advice))

    def on_judged(self, event: Judged) -> None:
        """Show which files fit."""
        if self._repository and event.name == self._repository.name:
            self._fill_files(event.verdicts)
            self._say(event.advice)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: open a repository, fetch a file, pause a download."""
        key = event.row_key.value or ""
        if event.data_table.id == "repositories":
            self._ask_for(key)
        elif event.data_table.id == "files" and self._repository:
            self._fetch(next(file for file in self._repository.files if file.path == key))
        else:
            self.action_pause()

    def _fetch(self, file: RemoteFile) -> None:
        spec = f"{file.repo}:safetensors" if file.kind == "checkpoint" else f"{file.repo}/{file.path}"
        title = f"{file.repo} {file.quant or file.kind}"
        self._queue.add(Download(title, spec, file.commit, file.size_bytes))
        self._draw_queue()

    # ---- the queue ----------------------------------------------------------------------------

    def _draw_queue(self) -> None:
        table = self.query_one("#queue", ListTable)
        row = table.cursor_row
        table.set_class(not self._queue.items, "-empty")
        table.clear()
        for one in self._queue.items:
            table.add_row(
                Text(shortened_in_the_middle(printable(one.title), TITLE_WIDTH)),
                Text(f"{bar_text(one.share, BAR_WIDTH)} {one.share:4.0%} of {size_text(one.total_bytes)}"),
                Text(rate_text(one.rate, "bytes")),
                Text(time_text(one.left_s) if one.left_s else ""),
                Text(printable(one.trouble or (one.stage if one.state == "running" else one.state))),
            )
        table.move_cursor(row=row)

    @property
    def _marked(self) -> Download | None:
        row = self.query_one("#queue", ListTable).cursor_row
        return self._queue.items[row] if 0 <= row < len(self._queue.items) else None

    def action_pause(self) -> None:
        """Pause the marked download, or go on with it."""
        if one := self._marked:
            if one.state in ("waiting", "running"):
                self._queue.pause(one)
            else:
                self._queue.resume(one)
            self._draw_queue()

    def action_remove(self) -> None:
        """Take the marked download off the list."""
        if one := self._marked:
            self._queue.remove(one)
            self._draw_queue()

    def action_chat(self) -> None:
        """Chat with a model that was fetched."""
        one = self._marked
        if one and one.state == "done" and one.path:
            self.dismiss(Wish("forge" if one.path.is_dir() else "chat", str(one.path)))
        else:
            self.notify("Mark a download that is done.")

    def action_next_part(self) -> None:
        """Go round the parts that hold something."""
        parts = [self.query_one("#search", Input), *(table for table in self.query(ListTable) if table.row_count)]
        at = next((index for index, part in enumerate(parts) if part.has_focus), -1)
        parts[(at + 1) % len(parts)].focus()

    def action_back(self) -> None:
        """Go back."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Show every key."""
        enter = ("Enter", "search; on a repository: list its files; on a file: fetch it; on a download: pause it")
        sections = [("On this screen", [enter, *key_help(self.ACTIONS)])]
        text = (
            f"{keys_help(sections)}\n\nFiles are put where other programs find them too: the Hugging Face cache. A "
            "download that was paused, or cut off by anything at all, goes on where it was."
        )
        self.app.push_screen(Info("Get models", text))
