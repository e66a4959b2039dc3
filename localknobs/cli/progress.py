"""One bar for every long job: done, rate, time left; Ctrl+C stops the job and what it began is cleaned up.

On standard error, so that standard output stays data. Where that is no terminal, now and then a plain line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from localknobs.cli.output import clear_progress, note, show_progress
from localknobs.errors import Stopped
from localknobs.jobs import (
    EVENTS_VARIABLE,
    Advanced,
    Job,
    JobEvent,
    Measured,
    Noted,
    Rate,
    Result,
    Started,
    Wrote,
    drain,
    event_as_mapping,
)
from localknobs.terminal_text import shortened
from localknobs.units import size_text, time_text

REDRAW_S = 0.1
"""Time between two drawings of the bar: more often than people can read costs the job its time."""
PLAIN_LINE_S = 10.0
"""Least time between two lines where standard error is no terminal."""
_BAR_CELLS, _LEAST_BAR_CELLS, _LEAST_NAME_CELLS = 24, 8, 12


written: list[Path] = []
"""What the jobs of this command line wrote, in order, for the ledger."""
measured: list[tuple[Path, dict[str, Any]]] = []
"""What this command line measured of them, for their cards."""


def run_job(
    job: Job[Result], *, stopped: str = "Nothing was written.", on_event: Callable[[JobEvent], None] | None = None,
    bar: ProgressBar | None = None,
) -> Result:  # fmt: skip
    """Run a job with a bar on standard error; return its result.

    Args:
        job: What to run.
        stopped: What is left when the user stops it, for the message.
        on_event: Also told every event.
        bar: What shows the events instead of the usual bar.

    Raises:
        Stopped: by Ctrl+C or a signal to end; the job has cleaned up after itself.
    """
    shown: ProgressBar | EventLines = EventLines() if os.environ.get(EVENTS_VARIABLE) else bar or ProgressBar()

    def take(event: JobEvent) -> None:
        shown.on_event(event)
        if isinstance(event, Wrote):
            written.append(event.path)
        if on_event:
            on_event(event)

    try:
        with _first_signal_stops():
            return drain(job, take)
    except KeyboardInterrupt:
        shown.clear()
        raise Stopped("Stopped", stopped) from None
    finally:
        shown.clear()


class EventLines:
    """Writes the events of a job as JSON lines on standard error, for a program that started this one."""

    def __init__(self) -> None:
        self._advanced = 0
        self._written_at = 0.0

    def on_event(self, event: JobEvent) -> None:
        """Write one event; many small advances become one now and then."""
        if isinstance(event, Advanced):
            self._advanced += event.amount
            if monotonic() - self._written_at < REDRAW_S:
                return
        else:
            self._write_advance()
            self._write(event)
            return
        self._write_advance()

    def clear(self) -> None:
        """Write what is left."""
        self._write_advance()

    def _write_advance(self) -> None:
        if self._advanced:
            self._write(Advanced(self._advanced))
            self._advanced, self._written_at = 0, monotonic()

    @staticmethod
    def _write(event: JobEvent) -> None:
        print(json.dumps(event_as_mapping(event)), file=sys.stderr, flush=True)


class ProgressBar:
    """Shows the events of a job."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._stage = Started("", 0, "")
        self._done = 0
        self._measured = ""
        self._rate = Rate()
        self._began = self._shown_at = monotonic()
        self._shown_tenth = 0

    def on_event(self, event: JobEvent) -> None:
        """Take in one event and draw, if it is time."""
        if isinstance(event, Started):
            self._stage, self._done, self._measured, self._shown_tenth = event, event.done, "", 0
            self._rate = Rate()
            self._began = self._shown_at = monotonic()
            self._show(self._line() if self._live else self._title())
        elif isinstance(event, Advanced):
            self._done += event.amount
            self._rate.add(event.amount)
            self._draw()
        elif isinstance(event, Measured):
            self._measured = f"{event.name} {event.value:.4g}"
            self._draw()
        elif isinstance(event, Noted):
            self.clear()
            note(event.text)

    def clear(self) -> None:
        """Wipe the bar, so that something else can be printed."""
        clear_progress()

    def _draw(self) -> None:
        now = monotonic()
        if self._live:
            if now - self._shown_at >= REDRAW_S:
                self._show(self._line())
            return
        tenth = 10 * self._done // self._stage.total if self._stage.total else 0
        if tenth > self._shown_tenth and now - self._shown_at >= PLAIN_LINE_S:
            self._shown_tenth = tenth
            self._show(self._line())

    def _show(self, line: str) -> None:
        self._shown_at = monotonic()
        if self._live:
            show_progress(line[: self._columns()])
        else:
            print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _columns() -> int:
        columns = shutil.get_terminal_size().columns
        with contextlib.suppress(OSError):  # of standard error itself: standard output may be a file
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        return max(10, columns - 1)

    def _title(self) -> str:
        return f"{self._stage.what}: {self._amount(self._stage.total)}" if self._stage.total else self._stage.what

    def _line(self) -> str:
        """Return the stage and how far it is; a narrow terminal shortens the bar first, then the stage's name."""
        parts = self._parts()
        if not self._live:
            return "  ".join([self._stage.what, *parts])
        room = self._columns() - sum(2 + len(part) for part in parts)
        cells = min(_BAR_CELLS, room - len(self._stage.what) - 4)
        if self._stage.total and cells >= _LEAST_BAR_CELLS:
            filled = int(min(1.0, self._done / self._stage.total) * cells)
            parts = [f"[{'#' * filled}{'-' * (cells - filled)}]", *parts]
        return "  ".join([shortened(self._stage.what, max(_LEAST_NAME_CELLS, room)), *parts])

    def _parts(self) -> list[str]:
        """Return what is done, the rate, the time left and the last measurement."""
        seconds = monotonic() - self._began
        total, done, parts = self._stage.total, self._done, []
        if total:
            parts.append(f"{min(1.0, done / total):4.0%} of {self._amount(total)}")
        elif done:
            parts.append(self._amount(done))
        rate = self._rate.per_second()
        if rate and seconds >= 1:
            parts.append(f"{self._amount(int(rate)) if rate >= 1 else f'{rate:.2g} {self._stage.unit}'}/s")
            if total > done:
                parts.append(f"{time_text((total - done) / rate)} left")
        if self._measured:
            parts.append(self._measured)
        return parts

    def _amount(self, count: int) -> str:
        return size_text(count) if self._stage.unit == "bytes" else f"{count:,} {self._stage.unit}"


@contextlib.contextmanager
def _first_signal_stops() -> Iterator[None]:
    """Let the first Ctrl+C, or signal to end, raise `KeyboardInterrupt`; later ones must not interrupt the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 1:
            raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before: dict[int, Any] = {}
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
