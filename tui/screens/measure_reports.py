"""The part of the Measure screen that has to do with reports: shown, reopened, deleted, written into a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from textual import work
from textual.widgets import Input

from localknobs.errors import BadValue, LocalknobsError
from localknobs.evaluate.kept_reports import KeptReport, delete_report, find_report, kept_reports
from localknobs.evaluate.writing import check_outputs
from localknobs.fit.cards import parse_size
from localknobs.paths import user_path
from localknobs.terminal_text import printable
from localknobs.tui.bridge import as_ours
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.screens.work_screen import PlannedWorkScreen
from localknobs.tui.widgets.report_view import ReportView, Shown


class ReportScreen(PlannedWorkScreen[None]):
    """Has a `ReportView`, and a field `#vram` with the memory of a card."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Shown | None = None

    def _turn(self, *, to_report: bool) -> None:
        """Show the report, or what it is made from."""
        raise NotImplementedError

    @property
    def _vram(self) -> int:
        text = self.query_one("#vram", Input).value.strip()
        try:
            return parse_size(text) if text else 0
        except LocalknobsError:
            return 0

    def _show_report(self, shown: Shown) -> None:
        self._shown = shown
        self.query_one(ReportView).show(shown)
        self._turn(to_report=True)

    @work(exclusive=True, group="reports", exit_on_error=False)
    async def action_older(self) -> None:
        """Choose a report of before."""
        try:
            kept = await asyncio.to_thread(kept_reports)
        except Exception as error:
            self.notify(str(as_ours(error, "reading the reports")), severity="error")
            return
        if not kept:
            self.notify("Nothing was measured yet.")
            return
        choices = [Choice(one.name, one.name, one.title) for one in kept]
        note = "Each is also printed by: localknobs reports NAME"
        self.app.push_screen(Picker("Reports", choices, note=note, deletable=True), self._chosen)

    def _chosen(self, name: str | None) -> None:
        if not name:
            return
        try:
            kept = find_report(name.removeprefix("delete:"))
        except LocalknobsError as error:
            self.notify(str(error), severity="error")
            return
        if name.startswith("delete:"):
            self._ask_to_delete(kept)
        else:
            self._show_report(Shown(kept.report, kept.name, self._vram))

    def _ask_to_delete(self, kept: KeptReport) -> None:
        def answered(choice: str | None) -> None:
            if choice == "delete":
                try:
                    delete_report(kept)
                except LocalknobsError as error:
                    self.notify(str(error), severity="error")
            self.action_older()

        choices = [Choice("keep", "Keep it"), Choice("delete", "Delete it", "this cannot be undone")]
        self.app.push_screen(Picker(f"Delete the report {kept.name}?", choices, note=printable(kept.title)), answered)

    def action_write(self) -> None:
        """Ask where to, then write the report."""
        if not self._shown:
            return
        if not self._shown.name:
            self.notify("This report could not be kept, and cannot be written from here.", severity="error")
            return
        name = Path.home() / f"localknobs-{self._shown.name}.html"
        note = "What it ends in says what is written: .html (one page with everything), .png, .svg, .json."
        self.app.push_screen(
            TextDialog("Write the report", str(name), note=note, several_lines=False, check=_check_target),
            self._write_to,
        )

    def _write_to(self, name: str | None) -> None:
        if name and name.strip() and self._shown:
            target = user_path(name.strip())
            vram = self.query_one("#vram", Input).value.strip()
            words = ["reports", self._shown.name, "-o", str(target), *(["--vram", vram] if self._vram else [])]
            self._works.start("reports", f"The report to {target}", words)


def _check_target(text: str) -> None:
    target = user_path(text.strip())
    check_outputs([target])
    if os.path.exists(target):
        raise BadValue(f"{target} exists already", "Choose another name.")
    if not os.path.isdir(target.parent):
        raise BadValue(f"There is no folder {target.parent}", "Choose another place.")
