"""Fetch the missing chunks of one file over several connections at once.

Threads fetch and write; the generator that drains them reports what was really written, and stopping it stops them.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from localknobs.errors import HubFailure, LocalknobsError, NotEnough
from localknobs.hub.partial import Partial
from localknobs.hub.source import Answer, Broken, Source
from localknobs.jobs import DISK_FULL, Advanced, JobEvent, Noted
from localknobs.units import size_text

CONNECTIONS = 4
LEAST_PER_CONNECTION = 2 * 2**20
"""Bytes below which another connection is not worth its set-up."""
LEAST_SPAN, LARGEST_SPAN = 2**20, 64 * 2**20
"""Bytes asked for in one request."""
TRIES = 8
"""Attempts in a row that may bring nothing, before the work is given up."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
FLUSH_BYTES, FLUSH_S = 64 * 2**20, 5.0
_IDLE_S = 0.2


class Throttle:
    """Holds several threads together to a rate.

    Args:
        bytes_per_s: The rate; 0 for none.
    """

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = monotonic()

    def wait(self, amount: int, stop: threading.Event) -> None:
        """Return when so many more bytes may be taken, or at once when `stop` is set."""
        if self._rate <= 0:
            return
        with self._lock:
            now = monotonic()
            self._free_at = max(self._free_at, now) + amount / self._rate
            pause = self._free_at - now
        stop.wait(pause)


class Transfer:
    """One file's missing chunks on their way.

    Args:
        source: Where the bytes come from.
        partial: Where they go.
        throttle: Holds the rate.
        connections: Most connections at once.

    Attributes:
        differed: Whether a chunk was fetched that differs from what had been there before.
    """

    def __init__(self, source: Source, partial: Partial, throttle: Throttle, connections: int = CONNECTIONS) -> None:
        self.source, self.partial, self.throttle = source, partial, throttle
        self.differed = False
        self._missing = partial.missing()
        self._left = sum(map(partial.length, self._missing))
        self._connections = max(1, min(connections, self._left // LEAST_PER_CONNECTION))
        self._stop = threading.Event()
        self._events: queue.SimpleQueue[JobEvent | BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._whole_stream = threading.Lock()
        self._asked_once = threading.Event()
        self._tries = 0

    def events(self) -> Iterator[JobEvent]:
        """Fetch everything that is missing; yield what was written, and at least five times a second something.

        Raises:
            Changed: the server's file is another one now.
            HubFailure: it cannot be fetched; what was fetched is kept.
            LocalknobsError: the disk refuses.
        """
        if not self._left:
            return
        threads = [threading.Thread(target=self._run, args=(at,), daemon=True) for at in range(self._connections)]
        for thread in threads:
            thread.start()
        running, failure, unflushed, flushed_at = len(threads), None, 0, monotonic()
        try:
            while running:
                try:
                    event = self._events.get(timeout=_IDLE_S)
                except queue.Empty:
                    event = Advanced(0)  # lets the consumer stop us, and see a rate that falls
                if event is None:
                    running -= 1
                elif isinstance(event, BaseException):
                    failure = failure or event
                    self._halt()
                elif failure is None:
                    unflushed += event.amount if isinstance(event, Advanced) else 0
                    yield event
                self.partial.note_etags()
                if unflushed >= FLUSH_BYTES or (unflushed and monotonic() - flushed_at >= FLUSH_S):
                    self.partial.flush()
                    unflushed, flushed_at = 0, monotonic()
        finally:
            self._halt()
            for thread in threads:
                thread.join()
        if failure:
            raise failure

    def _halt(self) -> None:
        self._stop.set()
        self._asked_once.set()
        self.source.abort()

    # ---- in the threads --------------------------------------------------------------------------

    def _run(self, number: int) -> None:
        try:
            if number:
                self._asked_once.wait()  # one connection finds out how the server answers, then all go
            while not self._stop.is_set() and (span := self._take()):
                try:
                    self._fetch(span)
                except Broken as broken:
                    self._put_back(span)
                    self._pause(broken)
        except BaseException as error:  # raised again by the generator, in the thread of the consumer
            self._events.put(error)
        finally:
            self._asked_once.set()
            self._events.put(None)

    def _take(self) -> list[int]:
        """Return the next neighbouring chunks to ask for; fewer towards the end, so that all finish together."""
        with self._lock:
            while self._missing and self.partial.holds(self._missing[0]):  # a whole stream has brought it
                self._left -= self.partial.length(self._missing.pop(0))
            if not self._missing:
                return []
            wanted = min(LARGEST_SPAN, max(self._left // (4 * self._connections), LEAST_SPAN))
            most = max(1, wanted // self.partial.chunk)
            span = self._missing[:1]
            for chunk in self._missing[1:most]:
                if chunk != span[-1] + 1:
                    break
                span.append(chunk)
            del self._missing[: len(span)]
            self._left -= sum(map(self.partial.length, span))
            return span

    def _put_back(self, span: list[int]) -> None:
        with self._lock:
            missing = {*self._missing, *span}
            self._missing = sorted(chunk for chunk in missing if not self.partial.holds(chunk))
            self._left = sum(map(self.partial.length, self._missing))

    def _pause(self, broken: Broken) -> None:
        """Wait before the next try, longer each time that brought nothing."""
        if self._stop.is_set():
            return
        with self._lock:
            self._tries += 1
            tries = self._tries
        if tries > TRIES * self._connections:
            raise HubFailure(
                f"{self.source.name} cannot be fetched: {broken.reason}",
                "What was fetched is kept: check the network, then run the same command again.",
            )
        if broken.wait_s:
            self._events.put(Noted(f"The server asks to wait {broken.wait_s:.0f} s: {broken.reason}"))
        backoff = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** ((tries - 1) // self._connections))
        self._stop.wait(max(broken.wait_s, backoff * random.uniform(0.7, 1.3)))

    def _fetch(self, span: list[int]) -> None:
        first = span[0] * self.partial.chunk
        end = min(self.partial.size, (span[-1] + 1) * self.partial.chunk)
        with self.source.answer(first, end) as answer:
            if not answer.is_whole:
                self._asked_once.set()
                self._store(answer, end)
                return
            # The server ignores ranges: one stream of the whole file, and the others wait for it.
            if self._whole_stream.acquire(blocking=False):
                try:
                    self._store(answer, self.partial.size)
                    return
                finally:
                    self._whole_stream.release()
        with self._whole_stream:
            self._put_back(span)

    def _store(self, answer: Answer, end: int) -> None:
        """Write the chunks of an answer that are not there yet, up to a byte."""
        partial, gathered, at = self.partial, bytearray(), answer.first
        for piece in answer.pieces():
            self.throttle.wait(len(piece), self._stop)
            if self._stop.is_set():
                return
            gathered += piece
            while gathered:
                chunk = at // partial.chunk
                length = partial.length(chunk) if at < partial.size else 0
                if len(gathered) < length:
                    break
                if not length:
                    raise Broken("it sends more bytes than the file has")
                self._keep(chunk, gathered[:length])
                del gathered[:length]
                at += length
            if at >= end:
                return
        if at < end:
            raise Broken("the connection broke off")

    def _keep(self, chunk: int, data: bytearray) -> None:
        if self.partial.holds(chunk):
            return
        try:
            differs = self.partial.write(chunk, data)
        except OSError as error:
            raise disk_refusal(error, self.partial.path, self._left) from None
        with self._lock:
            self._tries = 0
            self.differed = self.differed or differs
        self._events.put(Advanced(len(data)))


def disk_refusal(error: OSError, place: Path, missing_bytes: int = 0) -> LocalknobsError:
    """Return what to tell the user when the disk refuses.

    Args:
        error: What it said.
        place: File or folder that was being written.
        missing_bytes: Bytes that are still to come; 0 when that does not matter.
    """
    kept = "then run the same command again: what was fetched is kept."
    if error.errno in DISK_FULL:
        more = f"{size_text(missing_bytes)} or more" if missing_bytes else "some space"
        return NotEnough(f"The disk is full: {place} cannot grow", f"Free {more}, {kept}")
    return LocalknobsError(
        f"{place} cannot be written: {error.strerror or error}", f"Check the permissions and the disk, {kept}"
    )
