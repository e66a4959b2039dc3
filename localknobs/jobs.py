"""Long work as a generator of events: what a job says, how it is drained, and files that are whole or not there.

A job is a generator function that takes a frozen config, yields events and returns its result. Closing
the generator stops it: Python raises at the `yield`, and the job's `finally` cleans up. A job therefore
yields at least every tensor, batch or few megabytes. Nothing in a job prints, draws or asks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeVar

from localknobs.errors import BadValue, NotEnough
from localknobs.storing import PARTIAL, name_and_store

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Started:
    """A stage begins.

    Args:
        what: What is done, as a phrase: `converting`.
        total: How much there is to do, in `unit`; 0 when unknown.
        unit: `bytes`, `tensors`, `tokens`, `steps`.
        done: How much of it was done before, and does not count for the rate.
    """

    what: str
    total: int
    unit: str
    done: int = 0


@dataclass(frozen=True, slots=True)
class Advanced:
    """So much more of the stage is done, in its unit; less than 0 when something turned out not to be done."""

    amount: int


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the user should know that is no error."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of the work: a loss, a size, an error."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True, slots=True)
class Wrote:
    """A file is complete under its final name."""

    path: Path


@dataclass(frozen=True, slots=True)
class Found:
    """A part of the result that is whole before the rest is.

    Args:
        data: It, as plain data.
    """

    data: dict[str, Any]


JobEvent = Started | Advanced | Noted | Measured | Wrote | Found
Job = Generator[JobEvent, None, Result]
_KINDS = {kind.__name__: kind for kind in (Started, Advanced, Noted, Measured, Wrote, Found)}


def drain(job: Job[Result], on_event: Callable[[JobEvent], None] | None = None) -> Result:
    """Run a job to its end and return its result; whatever interrupts it also closes it, so that it cleans up."""
    try:
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                result: Result = end.value
                return result
            if on_event:
                on_event(event)
    finally:
        job.close()


def without_files(job: Job[Result]) -> Job[Result]:
    """Run a job whose files pass, or get their final names from another: its events without `Wrote`, and its result."""
    with contextlib.closing(job):
        while True:
            try:
                event = next(job)
            except StopIteration as end:
                result: Result = end.value
                return result
            if not isinstance(event, Wrote):
                yield event


def event_as_mapping(event: JobEvent) -> dict[str, Any]:
    """Return an event as plain data, for one JSON line."""
    fields = asdict(event)
    return {
        "event": type(event).__name__,
        **{key: str(value) if isinstance(value, Path) else value for key, value in fields.items()},
    }


def event_from_mapping(fields: dict[str, Any]) -> JobEvent:
    """Return the event of plain data; raises `KeyError` or `TypeError` when it is none."""
    rest = dict(fields)
    kind = _KINDS[rest.pop("event")]
    if kind is Wrote:
        rest["path"] = Path(rest["path"])
    made: JobEvent = kind(**rest)
    return made


EVENTS_VARIABLE = "LOCALKNOBS_JOB_EVENTS"
"""Environment variable with which a program asks a verb that it starts for event lines instead of a bar."""


class Rate:
    """How fast a stage goes: what was really done lately, and nothing that was there before.

    Args:
        over_s: Seconds that are averaged; more where fewer than 8 steps were done in them.
    """

    def __init__(self, over_s: float = 10.0) -> None:
        self._over_s = over_s
        self._since = monotonic()
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, amount: int, now: float | None = None) -> None:
        """Count an amount that was done just now."""
        now = monotonic() if now is None else now
        if amount > 0 and self._seen and now - self._seen[-1][0] < self._over_s / 100:
            when, before = self._seen.pop()
            self._seen.append((when, before + amount))
        elif amount > 0:
            self._seen.append((now, amount))

    def per_second(self, now: float | None = None) -> float:
        """Return the rate in units a second; 0 before anything was done."""
        now = monotonic() if now is None else now
        while len(self._seen) > 8 and self._seen[0][0] < now - self._over_s:
            self._since, _ = self._seen.popleft()
        return sum(amount for _, amount in self._seen) / max(now - self._since, 1e-6)


# ---- files ------------------------------------------------------------------------------------

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What a system answers when a file cannot grow any more."""
_PARTIAL_NAME = re.compile(r"\.(.+)\.(\d+)\.partial$")


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """Write a large file beside its final name; leaving normally gives it that name and has it stored on the disk.

    Leaving by an exception, a closed generator included, removes it. Leftovers of killed processes are removed first.

    Raises:
        NotEnough: the disk is full; nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    beside = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        with _full_disk_named(target):
            yield beside
            name_and_store(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """Do for a folder of files what `partial_file` does for a file; `target` must not exist, or be an empty folder.

    Raises:
        NotEnough: the disk is full; nothing is left behind.
    """
    target = target.absolute()
    with passing_folder(target) as beside:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
        os.replace(beside, target)


@contextlib.contextmanager
def passing_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside a path, on the same disk, which is removed at the end with what is still in it.

    Raises:
        NotEnough: the disk is full; nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    beside = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        with _full_disk_named(target):
            beside.mkdir()
            yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise NotEnough(
                f"The disk is full: {target} could not be written", "Free some space, or write elsewhere with -o."
            ) from None
        raise


def leftovers(folder: Path) -> list[Path]:
    """Return the partial files and folders in a folder whose process is gone."""
    named = ((file, _PARTIAL_NAME.fullmatch(file.name)) for file in folder.glob(f".*{PARTIAL}"))
    return sorted(file for file, found in named if found and not _is_alive(int(found[2])))


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the partial files and folders in a folder whose process is gone; return them."""
    removed = []
    for file in leftovers(folder):
        with contextlib.suppress(OSError):
            remove_file_or_folder(file)
            removed.append(file)
    return removed


def remove_file_or_folder(path: Path) -> None:
    """Remove a file, a link, or a folder with what is in it; raises `OSError` where that fails."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def refuse_same_file(source: Path, target: Path) -> None:
    """Refuse to write over what is read: llama.cpp maps its input, and the file would be destroyed.

    Raises:
        BadValue: both are the same file, by whatever names.
    """
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise BadValue(f"{target} is the input itself", "Name another output with -o.")
