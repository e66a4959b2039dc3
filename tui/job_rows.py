"""Long work and downloads alike, as what a list of them shows: one row of text each, and all that is known of one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from localknobs.tui.downloads import Download
from localknobs.tui.work_text import bar_text, rate_text
from localknobs.tui.works import Work
from localknobs.units import time_text

Item = Work | Download
NOTES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class JobRow:
    """One row.

    Args:
        item: What it is of.
        what: What is made or fetched.
        verb: Verb of the command line that does it.
        state: As a word; of what runs, its stage.
        share: How much of the stage is done, 0 to 1; None when that is not known.
        rate: Units a second, as text; empty when nothing is done.
        left_s: Seconds left of the stage; None when that cannot be said.
        seconds: How long it ran.
        active: Whether it runs or waits.
        files: What it made.
        trouble: Why it failed.
        notes: What it said on the way.
    """

    item: Item
    what: str
    verb: str
    state: str
    share: float | None
    rate: str
    left_s: float | None
    seconds: float
    active: bool
    files: tuple[Path, ...]
    trouble: str
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the row in a table."""
        return str(id(self.item))

    @property
    def command(self) -> str:
        """The command that does the same in a shell."""
        return shlex.join(["localknobs", *self.item.arguments])

    def progress(self, width: int) -> str:
        """Return its bar and share; of what is over, and does not go on from there, nothing."""
        if self.share is None or not (self.active or isinstance(self.item, Download)):
            return ""
        return f"{bar_text(self.share, width)} {self.share:4.0%}"

    @property
    def details(self) -> str:
        """All that is known, as lines."""
        numbers = [self.rate, f"{time_text(self.left_s)} left" if self.left_s is not None else ""]
        ran = f"{'runs' if self.active else 'ran'} for {time_text(self.seconds)}"
        lines = [self.what, "  ".join(filter(None, (self.state, *numbers, ran)))]
        if self.trouble:
            lines += ["", self.trouble]
        if self.files:
            lines += ["", "Made:", *(f"  {path}" for path in self.files)]
        if self.notes:
            lines += ["", *(f"! {text}" for text in self.notes[-NOTES_SHOWN:])]
        return "\n".join([*lines, "", "In a shell:", f"  {self.command}"])


def job_row(item: Item) -> JobRow:
    """Return the row of long work or of a download."""
    if isinstance(item, Download):
        state = item.stage if item.state == "running" else item.state
        files = (item.path,) if item.path else ()
        return JobRow(
            item, item.title, "pull", state, item.share, rate_text(item.rate, "bytes"), item.left_s or None,
            item.seconds, item.state in ("running", "waiting"), files, item.trouble, tuple(item.notes),
        )  # fmt: skip
    state = item.stage.what if item.state == "running" else item.state
    error = item.error if item.state == "failed" else ""
    return JobRow(
        item, item.title, item.kind, state, item.share, rate_text(item.rate, item.stage.unit), item.left_s,
        item.seconds, item.active, tuple(item.wrote), error, tuple(item.notes),
    )  # fmt: skip
