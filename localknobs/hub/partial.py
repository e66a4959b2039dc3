"""A file that is being fetched: its bytes so far, and a journal that says which of them are there.

The file is divided into chunks. A chunk is written, then its hash is added to the journal, so that the journal of a
process that was killed never claims what was not written. Now and then both are flushed to the disk and a mark is
added: chunks before the mark survive a power cut; those after it are read again and compared with their hashes when
the work goes on. The same hashes find a damaged part at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localknobs.errors import LocalknobsError
from localknobs.journal import Journal

SMALLEST_CHUNK, LARGEST_CHUNK = 64 * 1024, 4 * 2**20
CHUNKS = 16384
"""About how many chunks a file has: a kill loses less than one per connection."""
_FORMAT = 1
READ_BYTES = 4 * 2**20


def chunk_size(size: int) -> int:
    """Return the bytes of a chunk for a file of `size` bytes: a power of two between 64 KiB and 4 MiB."""
    wanted = SMALLEST_CHUNK
    while wanted < LARGEST_CHUNK and wanted * CHUNKS < size:
        wanted *= 2
    return wanted


@dataclass(slots=True)
class _Claims:
    """What a journal says: size of a chunk, chunks with their line and hash, lines that were flushed, entity tags."""

    chunk: int
    chunks: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    flushed: int = 0
    lines: int = 0
    etags: dict[str, str] = field(default_factory=dict)


def _claims(journal: Journal, size: int) -> _Claims:
    """Read a journal; one of another file or another form claims nothing."""
    claims = _Claims(chunk_size(size))
    try:
        records = journal.read()
    except LocalknobsError:
        return claims
    if not records or records[0].get("format") != _FORMAT or records[0].get("size") != size:
        return claims
    chunk = records[0].get("chunk")
    if not isinstance(chunk, int) or not 1024 <= chunk <= 2**30:  # another version may choose another size
        return claims
    claims.chunk, count = chunk, -(-size // chunk)
    for record in records[1:]:
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            if "hash" in record:
                chunk, line = int(record["chunk"]), int(record["line"])
                if 0 <= chunk < count:
                    claims.chunks[chunk] = line, bytes.fromhex(record["hash"])
                    claims.lines = max(claims.lines, line + 1)
            elif "lost" in record:
                for chunk in record["lost"]:
                    claims.chunks.pop(chunk, None)
            elif "flushed" in record:
                claims.flushed = int(record["flushed"])
            elif "etags" in record:
                claims.etags.update({str(host): str(tag) for host, tag in record["etags"].items()})
    return claims


def claimed_bytes(file: Path, journal: Path, size: int) -> int:
    """Return how many bytes of a file of `size` bytes are there as far as its journal says; 0 where there is none."""
    if not file.is_file():
        return 0
    claims = _claims(Journal(journal, "download"), size)
    return sum(min(claims.chunk, size - at * claims.chunk) for at in claims.chunks)


def held_beginning(file: Path, journal: Path, size: int, most: int) -> bytes:
    """Return the first bytes of a file of `size` bytes that are there and right, `most` at most."""
    if not file.is_file():
        return b""
    claims, found = _claims(Journal(journal, "download"), size), bytearray()
    chunk = claims.chunk
    with file.open("rb") as handle:
        for at in range(-(-size // chunk)):
            data = handle.read(min(chunk, size - at * chunk)) if at in claims.chunks and len(found) < most else b""
            if not data or _hash(data) != claims.chunks[at][1]:
                break
            found += data
    return bytes(found)


class Partial:
    """The bytes of one file so far. Several threads may write at once, each its own chunks.

    Args:
        file: Where the bytes are gathered.
        journal: Where it is written down which are there.
        size: Bytes of the whole file.
        about: What else the journal's first line says, for people who find it.

    Attributes:
        etags: Entity tag by host, as noted by `note_etags`.
    """

    def __init__(self, file: Path, journal: Path, size: int, about: dict[str, Any]) -> None:
        self.path, self.size = file, size
        self.etags: dict[str, str] = {}
        self._journal = Journal(journal, "download")
        self._hashes: dict[int, bytes] = {}
        self._before: dict[int, bytes] = {}
        self._lines = self._marked = 0
        self._noted_etags: dict[str, str] = {}
        self._lock = threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        claims = _claims(self._journal, size) if file.is_file() else _Claims(chunk_size(size))
        if not claims.chunks:  # of another size, or of a file that is gone
            journal.unlink(missing_ok=True)
            self._journal = Journal(journal, "download")
        self.chunk = claims.chunk if claims.chunks else chunk_size(size)
        self.count = -(-size // self.chunk)
        self._first = {"format": _FORMAT, "size": size, "chunk": self.chunk, **about}
        self.etags.update(claims.etags)
        self._noted_etags = dict(claims.etags)
        self._lines = claims.lines
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(self._file, size)
            for chunk, (line, digest) in claims.chunks.items():
                if line < claims.flushed or self._digest(chunk) == digest:
                    self._hashes[chunk] = digest
        except BaseException:
            os.close(self._file)
            raise

    # ---- writing ---------------------------------------------------------------------------------

    def write(self, chunk: int, data: bytes | bytearray) -> bool:
        """Write a whole chunk and note that it is there.

        Returns:
            Whether it differs from what was there before it was forgotten.
        """
        digest = _hash(data)
        view, at = memoryview(data), chunk * self.chunk
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written
        with self._lock:
            record = {"chunk": chunk, "line": self._lines, "hash": digest.hex()}
            self._journal.append([record], self._first)
            self._lines += 1
            self._hashes[chunk] = digest
            return self._before.get(chunk, digest) != digest

    def take_beginning(self, data: bytes) -> int:
        """Write the first bytes of the file, as far as they are whole chunks that are not there; return how many."""
        taken = 0
        for chunk in range(self.count):
            length = self.length(chunk)
            if (chunk * self.chunk) + length > len(data):
                break
            if not self.holds(chunk):
                self.write(chunk, data[chunk * self.chunk : chunk * self.chunk + length])
                taken += length
        return taken

    def flush(self) -> None:
        """Let what is noted so far survive a power cut."""
        with self._lock:
            lines = self._lines
            if lines == self._marked:
                return
        os.fsync(self._file)
        with self._lock:
            self._journal.sync()  # before the mark: it must not reach the disk without the lines it speaks of
            self._journal.append([{"flushed": lines}], self._first)
            self._marked = lines

    def note_etags(self) -> None:
        """Write down the entity tags, where there are new ones."""
        with self._lock:
            if self.etags != self._noted_etags:
                self._noted_etags = dict(self.etags)
                self._journal.append([{"etags": self._noted_etags}], self._first)

    def forget(self, chunks: Iterable[int]) -> None:
        """Note that chunks are not there after all."""
        with self._lock:
            lost = [chunk for chunk in chunks if chunk in self._hashes]
            self._before.update({chunk: self._hashes.pop(chunk) for chunk in lost})
            if lost:
                self._journal.append([{"lost": lost}], self._first)

    def begin_anew(self) -> None:
        """Forget everything, entity tags too."""
        self.forget(list(self._hashes))
        self._before.clear()
        self.etags.clear()

    # ---- looking ---------------------------------------------------------------------------------

    def holds(self, chunk: int) -> bool:
        """Return whether a chunk is there."""
        return chunk in self._hashes

    @property
    def held_bytes(self) -> int:
        """Bytes that are there."""
        with self._lock:
            return sum(map(self.length, self._hashes))

    def missing(self) -> list[int]:
        """Return the chunks that are not there, in order."""
        return [chunk for chunk in range(self.count) if chunk not in self._hashes]

    def length(self, chunk: int) -> int:
        """Return the bytes of a chunk: the last one may be short."""
        return min(self.chunk, self.size - chunk * self.chunk)

    def check(self, whole: Any) -> Iterator[tuple[int, list[int]]]:
        """Read everything back from the file, feeding a hash object of the standard library.

        Yields:
            How many bytes were read, and which chunks among them are not as they were written.
        """
        per_read = max(1, READ_BYTES // self.chunk)
        for first in range(0, self.count, per_read):
            damaged = []
            for chunk in range(first, min(first + per_read, self.count)):
                data = self._read(chunk)
                whole.update(data)
                if _hash(data) != self._hashes.get(chunk):
                    damaged.append(chunk)
            end = min(self.size, (first + per_read) * self.chunk)
            yield end - first * self.chunk, damaged

    def _read(self, chunk: int) -> bytes:
        return os.pread(self._file, self.length(chunk), chunk * self.chunk)

    def _digest(self, chunk: int) -> bytes:
        return _hash(self._read(chunk))

    # ---- the end ---------------------------------------------------------------------------------

    def finish(self, target: Path) -> None:
        """Flush the whole file, give it its final name and remove the journal."""
        os.fsync(self._file)
        os.replace(self.path, target)
        with contextlib.suppress(OSError):  # not every system lets a folder be opened
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self.close()
        self._journal.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the bytes and the journal."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close both files; what is there stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._journal.close()


def _hash(data: bytes | bytearray) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
