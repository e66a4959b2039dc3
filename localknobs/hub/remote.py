"""A remote file as a stream that fetches only what is read: the header of a model that is not here."""

from __future__ import annotations

import io

from localknobs.errors import HubFailure
from localknobs.gguf_info import Header, parse_header
from localknobs.hub.cache import CachedRepository
from localknobs.hub.offline import refuse_offline
from localknobs.hub.partial import held_beginning
from localknobs.hub.quants import RemoteFile
from localknobs.hub.source import Broken, Changed, Source, Unreachable

FIRST_READ, LARGEST_READ = 512 * 1024, 8 * 2**20
"""Bytes of the first request and of the largest: a header with a large vocabulary has 5 to 15 MB."""
TRIES = 3
MOST_FROM_PARTIAL = 32 * 2**20
"""Bytes of an unfinished download that are looked at before anything is asked for."""


class RemoteStream(io.RawIOBase):
    """A remote file to read from and to seek in; what was fetched once is kept.

    Requests grow while the reader goes on, as a header's length is not known beforehand.

    Args:
        repo: `org/name`.
        commit: Commit of the repository.
        path: The file's path in it.
        size: Bytes it has.
        here: Its first bytes, as far as they are here already.

    Attributes:
        fetched_bytes: Bytes that were fetched so far.
    """

    def __init__(self, repo: str, commit: str, path: str, size: int, here: bytes = b"") -> None:
        refuse_offline(f"Reading {repo}/{path}")
        self._source = Source(repo, commit, path, size)
        self._size = size
        self._at = 0
        whole = len(here) if len(here) == size else len(here) // FIRST_READ * FIRST_READ
        self._blocks = {at // FIRST_READ: here[at : at + FIRST_READ] for at in range(0, whole, FIRST_READ)}
        self._next_read = FIRST_READ
        self.fetched_bytes = 0

    def beginning(self) -> bytes:
        """Return the first bytes without a gap, as far as they were read."""
        found: list[bytes] = []
        while block := self._blocks.get(len(found)):
            found.append(block)
        return b"".join(found)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that one can seek in it."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; nothing is fetched."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, count: int | None = -1) -> bytes:
        """Return the next bytes, fewer only at the end of the file.

        Raises:
            HubFailure: they cannot be fetched.
        """
        end = self._size if count is None or count < 0 else min(self._size, self._at + count)
        pieces = []
        while self._at < end:
            block = self._at // FIRST_READ
            if block not in self._blocks:
                self._fetch(block, end)
            start = self._at - block * FIRST_READ
            piece = self._blocks[block][start : start + end - self._at]
            if not piece:
                raise HubFailure(f"{self._source.name} is shorter than the hub says", "Check HF_ENDPOINT.")
            pieces.append(piece)
            self._at += len(piece)
        return b"".join(pieces)

    def readinto(self, buffer: object) -> int:
        """Fill a buffer; return how many bytes were read."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _fetch(self, block: int, end: int) -> None:
        first = block * FIRST_READ
        wanted = max(self._next_read, end - first)
        last = min(self._size, first + -(-min(wanted, max(LARGEST_READ, end - first)) // FIRST_READ) * FIRST_READ)
        self._next_read = min(LARGEST_READ, self._next_read * 2)
        reason = ""
        for _ in range(TRIES):
            data = bytearray()
            try:
                with self._source.answer(first, last) as answer:
                    skip = first - answer.first
                    for piece in answer.pieces():
                        data += piece
                        if len(data) >= skip + last - first:
                            break
            except Broken as broken:
                reason = broken.reason
                continue
            except Changed:
                raise HubFailure(
                    f"{self._source.name} is not the file the hub announces", "Check HF_ENDPOINT."
                ) from None
            if len(data) < skip + last - first:
                reason = "the connection broke off"
                continue
            self.fetched_bytes += len(data)
            for at in range(first, last, FIRST_READ):
                self._blocks[at // FIRST_READ] = bytes(
                    data[skip + at - first : skip + min(at + FIRST_READ, last) - first]
                )
            return
        raise Unreachable(f"The header of {self._source.name} cannot be fetched: {reason}", "Try again later.")


def remote_headers(file: RemoteFile, beginnings: dict[str, bytes] | None = None) -> tuple[Header, ...]:
    """Read the headers of a model that is not here: of all its files, the first shard's first.

    Args:
        file: A GGUF file of a repository.
        beginnings: Is given what was fetched for it: path to first bytes, for `download`, so that it is not
            fetched twice.

    Returns:
        The headers; the path of each is the file's name in the repository.

    Raises:
        Offline: offline work is asked for.
        BadFile: it is no GGUF, or damaged.
        HubFailure: it cannot be fetched.
    """
    cached, headers = CachedRepository(file.repo), []
    for part in file.parts:
        here = held_beginning(cached.partial(part), cached.journal(part), part.size_bytes, MOST_FROM_PARTIAL)
        stream = RemoteStream(file.repo, file.commit, part.path, part.size_bytes, here)
        try:
            headers.append(parse_header(stream, part.size_bytes, part.path))
        finally:
            if beginnings is not None:
                beginnings[part.path] = stream.beginning()
    return tuple(headers)
