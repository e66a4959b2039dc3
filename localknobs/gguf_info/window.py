"""A view of a file that moves forward: few reads, little memory, for files on disk and files far away."""

from __future__ import annotations

from typing import Protocol

FIRST_READ, LARGEST_READ = 2**16, 2**21


class Stream(Protocol):
    """What a header is read from: a binary file, or something that fetches ranges of one."""

    def seek(self, offset: int, /) -> object:
        """Go to a byte."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to so many bytes; none at the end."""


class CutShort(Exception):
    """The file ends before what its header promises."""


class Window:
    """The bytes of a stream around the place that is being read.

    Args:
        stream: Where they come from; it may return less than was asked for.
        size: Bytes of the whole file; nothing behind them is asked for.
        largest_read: Bytes to which a read ahead may grow.

    Attributes:
        data: The bytes that are held.
        start: Byte of the file at which they begin.
    """

    def __init__(self, stream: Stream, size: int, largest_read: int = LARGEST_READ) -> None:
        self._stream, self._size, self._largest_read = stream, size, largest_read
        self._next_read = FIRST_READ
        self.data = b""
        self.start = 0

    def hold(self, offset: int, count: int) -> int:
        """Make sure that some bytes are held; return where in `data` they begin.

        Raises:
            CutShort: the file has not so many.
        """
        place = offset - self.start
        if 0 <= place and place + count <= len(self.data):
            return place
        if offset + count > self._size:
            raise CutShort
        kept = self.data[place:] if 0 <= place < len(self.data) else b""
        self.data, self.start = kept, offset
        missing = count - len(kept)
        fetched = self.peek(offset + len(kept), max(missing, self._next_read))
        self._next_read = min(2 * self._next_read, self._largest_read)
        self.data = kept + fetched
        if len(self.data) < count:
            raise CutShort
        return 0

    def peek(self, offset: int, count: int) -> bytes:
        """Return bytes from elsewhere without moving the view; fewer at the end of the file."""
        count = min(count, self._size - offset)
        pieces = []
        self._stream.seek(offset)
        while count > 0:
            piece = self._stream.read(count)
            if not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
