"""The Textual application: themes, the command palette, and the chat screen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.reactive import reactive
from textual.screen import Screen

from localknobs import preferences
from localknobs.errors import LocalknobsError
from localknobs.terminal_text import printable
from localknobs.tui.actions import key_text, palette_commands
from localknobs.tui.child_job import JobEnded, JobTold
from localknobs.tui.downloads import DownloadEnded, Downloads
from localknobs.tui.screens.chat import ChatScreen
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.work_text import summary_text
from localknobs.tui.works import Work, Works


class LocalknobsApp(App[None]):
    """The terminal interface.

    Args:
        model: Name or path of the model to begin with; None for the built-in one.

    Attributes:
        busy: What long work runs, on one line; empty when none does.
    """

    TITLE = "localknobs"
    ENABLE_COMMAND_PALETTE = True
    CSS_PATH = "screens/chat.tcss"  # a default screen's own CSS_PATH is not read
    busy: reactive[str] = reactive("")

    def __init__(self, model: str | None = None) -> None:
        super().__init__()
        self._model = model
        self.downloads = Downloads(self.post_message)
        self.works = Works(self.post_message)
        self.works.listen(lambda _work, _event: self._show_busy())
        theme = preferences.read().get("theme")
        if isinstance(theme, str) and theme in self.available_themes:
            self.theme = theme

    def get_key_display(self, binding: Binding) -> str:
        """Write a key as the texts of the program do: F7, Alt+T, Esc; in the footer Ctrl+T is ^T, for want of room."""
        return binding.key_display or key_text(binding.key).replace("Ctrl+", "^")

    def get_default_screen(self) -> Screen[None]:
        """Begin with the chat."""
        return ChatScreen(self._model)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer every action of the screen, then Textual's own."""
        yield from palette_commands(screen, getattr(screen, "ACTIONS", ()))
        yield from super().get_system_commands(screen)

    def on_job_told(self, message: JobTold) -> None:
        """A download or other work goes on."""
        if self.downloads.hear(message):
            self._show_busy()
        else:
            self.works.hear(message)

    def on_job_ended(self, message: JobEnded) -> None:
        """A download or other work is over; that of another screen than the one shown is said."""
        if self.downloads.end(message):
            self._show_busy()
            return
        work = self.works.end(message)
        if work and getattr(self.screen, "WORK", None) != work.kind:
            self._say_end(work)

    def _show_busy(self) -> None:
        self.busy = summary_text(self.works.items, self.downloads.items)

    async def action_quit(self) -> None:
        """Leave; while work runs, ask first."""
        if isinstance(self.screen, Leaving):
            return
        running = [one.title for one in self.works.items if one.active]
        fetching = [one.title for one in self.downloads.items if one.state in ("running", "waiting")]
        if not running and not fetching:
            self.exit()
            return

        def chosen(choice: str | None) -> None:
            if choice == "leave":
                self.exit()

        self.push_screen(Leaving(running, fetching), chosen)

    def _say_end(self, work: Work) -> None:
        if work.state == "done":
            self.notify(f"{work.title}: done.", timeout=10)
        elif work.state == "failed":
            self.notify(f"{work.title}: {work.error or 'it failed.'}", severity="error", timeout=15)

    def on_download_ended(self, message: DownloadEnded) -> None:
        """Say it on whatever screen is shown."""
        one = message.download
        if one.state == "done":
            self.notify(f"{one.title} is fetched. It is in the list of models (F3).", timeout=10)
        else:
            self.notify(f"{one.title}: {one.trouble}", severity="error", timeout=15)

    def on_unmount(self) -> None:
        """Stop the downloads and all other work; what they fetched, or wrote whole, is kept."""
        self.downloads.close()
        self.works.close()

    def notify(self, message: str, **options: Any) -> None:
        """Show a notice; texts of models, files and errors in it are text, not markup."""
        super().notify(printable(message), **{**options, "markup": False})

    def watch_theme(self, theme: str) -> None:
        """Remember the theme the user chose."""
        if self.is_running and preferences.read().get("theme", "textual-dark") != theme:
            try:
                preferences.write(theme=theme)
            except LocalknobsError as error:
                self.notify(str(error), severity="warning")


class Leaving(Picker):
    """Asks whether to leave while work runs.

    Args:
        running: Titles of the work that would be stopped.
        fetching: Titles of the downloads that would be paused.
    """

    def __init__(self, running: list[str], fetching: list[str]) -> None:
        stops = f"Leaving stops: {', '.join(running)}. Nothing half is left." if running else ""
        pauses = f"Leaving pauses: {', '.join(fetching)}. What was fetched is kept." if fetching else ""
        choices = [Choice("stay", "Stay"), Choice("leave", "Leave", "and stop the work")]
        super().__init__("Work is still running", choices, note="\n".join(filter(None, (stops, pauses))))


def run(model: str | None = None) -> int:
    """Open the terminal interface and return its exit code.

    Args:
        model: Name or path of the model to begin with; None for the built-in one.

    Raises:
        NotFound: there is no such model; said before the screen opens.
    """
    if model:
        from localknobs.gguf_info import check_is_model, read_header
        from localknobs.library import find_model

        check_is_model(read_header(find_model(model)))
    app = LocalknobsApp(model)
    app.run()
    return app.return_code or 0
