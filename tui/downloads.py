"""The queue of downloads: belongs to the application, so it goes on whatever screen is shown.

Each download is `localknobs pull` in a process of its own; what it fetched is kept when it is paused, and when the
program ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Literal

from textual.message import Message

from localknobs.jobs import Advanced, Noted, Rate, Started
from localknobs.tui.child_job import ChildJob, JobEnded, JobTold

State = Literal["waiting", "running", "paused", "done", "failed"]


@dataclass
class DownloadEnded(Message):
    """A download is done or failed; told to the application."""

    download: Download


@dataclass(eq=False)
class Download:
    """One file, or files that belong together.

    Args:
        title: What is fetched, for people.
        spec: What `localknobs pull` is given.
        revision: Commit it was chosen from.
        total_bytes: Size of all of it.
        removed: Whether it was taken off the list.
    """

    title: str
    spec: str
    revision: str
    total_bytes: int
    state: State = "waiting"
    done_bytes: int = 0
    stage: str = ""
    trouble: str = ""
    path: Path | None = None
    job: ChildJob | None = None
    notes: list[str] = field(default_factory=list)
    removed: bool = False
    _rate: Rate = field(default_factory=Rate)
    _spent_s: float = 0.0
    _since: float | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words after `localknobs` that fetch it."""
        return ("pull", self.spec, "--revision", self.revision, "--json", "-y")

    @property
    def share(self) -> float:
        """How much of it is here, 0 to 1."""
        return self.done_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def seconds(self) -> float:
        """How long it was being fetched, pauses left out."""
        return self._spent_s + (monotonic() - self._since if self._since is not None else 0.0)

    def begin(self, job: ChildJob) -> None:
        """Its process runs from now on."""
        self.job, self._since = job, monotonic()

    def halt(self) -> None:
        """Its process is over."""
        self._spent_s, self._since, self.job = self.seconds, None, None

    @property
    def rate(self) -> float:
        """Bytes a second over the last seconds; 0 when nothing came."""
        return self._rate.per_second() if self.state == "running" else 0.0

    @property
    def left_s(self) -> float:
        """Seconds that are left at this rate; 0 when that cannot be said."""
        return (self.total_bytes - self.done_bytes) / self.rate if self.rate else 0.0

    def hear(self, event: object) -> None:
        """Take what the job tells."""
        if isinstance(event, Started):
            self.stage = event.what
            if event.total == self.total_bytes:
                self.done_bytes = event.done
                self._rate = Rate()
        elif isinstance(event, Advanced) and self.stage.startswith("fetching"):
            self.done_bytes = max(0, min(self.total_bytes, self.done_bytes + event.amount))
            self._rate.add(event.amount)
        elif isinstance(event, Noted):
            self.notes.append(event.text)


class Downloads:
    """The queue; one download at a time, as two would only share the line.

    Args:
        post: Takes messages from any thread; the owner hands `JobTold` and `JobEnded` to `hear` and `end`.
    """

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._all: list[Download] = []  # also those that were taken off the list and are still stopping

    @property
    def items(self) -> list[Download]:
        """The list, the next one first."""
        return [download for download in self._all if not download.removed]

    def add(self, download: Download) -> Download:
        """Put a download at the end; one that is there already is only started again."""
        for known in self.items:
            if (known.spec, known.revision) == (download.spec, download.revision) and known.state != "done":
                self.resume(known)
                return known
        self._all.append(download)
        self._start_next()
        return download

    def pause(self, download: Download) -> None:
        """Stop it; what was fetched is kept."""
        if download.state in ("waiting", "running"):
            download.state = "paused"
            if download.job:
                download.job.stop()
            self._start_next()

    def resume(self, download: Download) -> None:
        """Go on with it."""
        if download.state in ("paused", "failed"):
            download.state, download.trouble = "waiting", ""
            self._start_next()

    def remove(self, download: Download) -> None:
        """Take it off the list; what was fetched is kept for another time."""
        self.pause(download)
        download.removed = True
        self._forget_removed()

    def _forget_removed(self) -> None:
        self._all = [download for download in self._all if download.job or not download.removed]

    def close(self) -> None:
        """Stop everything, for the program ends."""
        for download in self._all:
            if download.job:
                download.job.stop()

    def hear(self, message: JobTold) -> bool:
        """Take an event; False when it is of no download."""
        for download in self._all:
            if download.job is message.job:
                download.hear(message.event)
                return True
        return False

    def end(self, message: JobEnded) -> bool:
        """Take the end of a job; False when it is of no download."""
        for download in self._all:
            if download.job is message.job:
                self._ended(download, message)
                return True
        return False

    def _ended(self, download: Download, message: JobEnded) -> None:
        download.halt()
        if download.state == "running":
            download.state = "done" if message.code == 0 else "failed"
            if message.code == 0:
                download.done_bytes = download.total_bytes
                download.path = Path(json.loads(message.output)["path"])
            else:
                download.trouble = message.error or "It was stopped."
            self._post(DownloadEnded(download))
        self._forget_removed()
        self._start_next()

    def _start_next(self) -> None:
        if any(download.job for download in self._all):
            return  # also one that is still stopping
        for download in self.items:
            if download.state == "waiting":
                download.state, download.stage = "running", "connecting"
                download.begin(ChildJob(download.arguments, self._post))
                return
