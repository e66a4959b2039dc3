"""The long work of this session: each a verb in a process of its own, which goes on whatever screen is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Literal

from textual.message import Message

from localknobs.jobs import Advanced, JobEvent, Noted, Rate, Started, Wrote
from localknobs.tui.child_job import ChildJob, JobEnded, JobTold

State = Literal["running", "stopping", "done", "stopped", "failed"]

STOPPED_CODE = 130
"""Exit code of a verb that was stopped."""
EVENTS_KEPT = 20_000
"""Events of one work that are kept for a screen that opens later; older ones are forgotten."""


@dataclass(eq=False)
class Work:
    """One verb that runs, or ran, in this session.

    Args:
        kind: The verb.
        title: What is made of what, for people.
        arguments: The words after `localknobs`; run in a shell they do the same.
        events: What it told, oldest first; a screen that opens later reads them again.
        stage: The stage it is in.
        done: How much of the stage is done, in its unit.
        wrote: Files that are complete.
        output: What it printed as its result.
        error: What it said about its failure.
    """

    kind: str
    title: str
    arguments: tuple[str, ...]
    job: ChildJob | None = None
    state: State = "running"
    events: list[JobEvent] = field(default_factory=list)
    stage: Started = field(default_factory=lambda: Started("starting", 0, ""))
    done: int = 0
    notes: list[str] = field(default_factory=list)
    wrote: list[Path] = field(default_factory=list)
    output: str = ""
    error: str = ""
    began: float = field(default_factory=monotonic)
    took_s: float | None = None
    _rate: Rate = field(default_factory=Rate)

    @property
    def active(self) -> bool:
        """Whether its process still runs."""
        return self.state in ("running", "stopping")

    @property
    def share(self) -> float | None:
        """How much of the present stage is done, 0 to 1; None when that is not known."""
        return min(1.0, self.done / self.stage.total) if self.stage.total else None

    @property
    def rate(self) -> float:
        """Units of the stage a second, over the last seconds; 0 before anything was done."""
        return self._rate.per_second() if self.state == "running" else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that are left of the stage at this rate; None when that cannot be said."""
        rate = self.rate
        return (self.stage.total - self.done) / rate if rate and self.stage.total else None

    @property
    def seconds(self) -> float:
        """How long it runs, or ran."""
        return self.took_s if self.took_s is not None else monotonic() - self.began

    def hear(self, event: JobEvent) -> None:
        """Take what the process tells."""
        self.events.append(event)
        del self.events[:-EVENTS_KEPT]
        if isinstance(event, Started):
            self.stage, self.done, self._rate = event, event.done, Rate()
        elif isinstance(event, Advanced):
            self.done += event.amount
            self._rate.add(event.amount)
        elif isinstance(event, Noted):
            self.notes.append(event.text)
        elif isinstance(event, Wrote):
            self.wrote.append(event.path)


Listener = Callable[[Work, JobEvent | None], None]
"""Called for every event of every work, in the screens' own thread; the event is None when the work's state changed."""


class Works:
    """All of them, the newest first.

    Args:
        post: Takes messages from any thread; the owner hands `JobTold` and `JobEnded` to `hear` and `end`.
    """

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._listeners: list[Listener] = []
        self.items: list[Work] = []

    def start(self, kind: str, title: str, arguments: Sequence[str]) -> Work:
        """Start a verb.

        Args:
            kind: The verb.
            title: What is made of what, for people.
            arguments: The words after `localknobs`, the verb with them.
        """
        work = Work(kind, title, tuple(arguments))
        work.job = ChildJob(arguments, self._post)
        self.items.insert(0, work)
        self._tell(work, None)
        return work

    def latest(self, kind: str) -> Work | None:
        """Return the newest work of a verb; a screen that opens shows it."""
        return next((work for work in self.items if work.kind == kind), None)

    def stop(self, work: Work) -> None:
        """Ask it to stop and clean up."""
        if work.state == "running" and work.job:
            work.state = "stopping"
            work.job.stop()
            self._tell(work, None)

    def remove(self, work: Work) -> None:
        """Take one that is over off the list; what it wrote stays."""
        if not work.active and work in self.items:
            self.items.remove(work)
            self._tell(work, None)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a function for every event; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def hear(self, message: JobTold) -> bool:
        """Take an event; False when it is of no work here."""
        work = self._of(message.job)
        if work:
            work.hear(message.event)
            self._tell(work, message.event)
        return work is not None

    def end(self, message: JobEnded) -> Work | None:
        """Take the end of a process and return its work; None when it is of no work here."""
        work = self._of(message.job)
        if work:
            stopped = work.state == "stopping" or message.code == STOPPED_CODE
            work.state = "done" if message.code == 0 else "stopped" if stopped else "failed"
            work.job, work.took_s = None, monotonic() - work.began
            work.output, work.error = message.output, message.error
            self._tell(work, None)
        return work

    def close(self) -> None:
        """Stop everything, for the program ends."""
        for work in self.items:
            self.stop(work)

    def _of(self, job: ChildJob) -> Work | None:
        return next((work for work in self.items if work.job is job), None)

    def _tell(self, work: Work, event: JobEvent | None) -> None:
        for listener in list(self._listeners):
            listener(work, event)
