"""Writes the tensors of a plan to their places in a file, from all cores.

A tensor is cut into stretches of rows where it can be. What an adapter changes is made on the caller's thread, one
tensor at a time, so that memory stays at the largest of those. Knows no header and no names of files.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from localknobs.convert.gguf_header import padded
from localknobs.convert.tensors import PlannedTensor
from localknobs.errors import BadFile
from localknobs.hardware import logical_cores
from localknobs.jobs import DISK_FULL

STRETCH_BYTES = 16 << 20
"""Bytes of the source that one thread takes at a time."""
_MOST_THREADS = 8
"""The disk is the limit before that many."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Some rows of a tensor, or all of it.

    Args:
        tensor: The tensor.
        rows: Which of its rows; None for a tensor that cannot be cut.
        offset: Where its bytes go in the file.
        size_bytes: How many there must be.
    """

    tensor: PlannedTensor
    rows: range | None
    offset: int
    size_bytes: int


class _Target:
    """The file, as the threads share it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.stopped = threading.Event()
        # One at a time: file systems let no two write to one file, and a thread that waits in there burns its core.
        self._turn = threading.Lock()

    def write(self, data: memoryview, at: int) -> int:
        """Write all of it; return where it ends."""
        with self._turn:
            while data:
                written = os.pwrite(self.descriptor, data, at)
                data, at = data[written:], at + written
        return at


def reserve(descriptor: int, size_bytes: int) -> None:
    """Give a new file its size and its place on the disk.

    Several threads that write into a file without a place make the file system look for one again and again: on ext4
    that took 3 times as long. Where a system cannot do it, the file just gets its size.

    Raises:
        OSError: the disk has no room for it.
    """
    if (code := _fallocate(descriptor, size_bytes)) in DISK_FULL:
        raise OSError(code, os.strerror(code))
    os.ftruncate(descriptor, size_bytes)


def _fallocate(descriptor: int, size_bytes: int) -> int:
    """Return the system's answer, 0 when it was done.

    Not by `os.posix_fallocate`: where a file system has no way to do it, the C library writes to every block instead.
    """
    if sys.platform != "linux":
        return errno.EOPNOTSUPP
    import ctypes

    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return ctypes.get_errno() if fallocate(descriptor, 0, 0, size_bytes) else 0


def write_tensors(tensors: Sequence[PlannedTensor], descriptor: int, offset: int) -> Generator[int, None, None]:
    """Write tensors one behind the other, each padded; the file must be as long already, so that padding is there.

    Closing the iterator stops all threads within a slab of their work.

    Args:
        tensors: In the order of the file.
        descriptor: Of the file, open for writing.
        offset: Where the first begins.

    Yields:
        Bytes that were written since the last time, padding included.

    Raises:
        BadFile: a weight is infinite or no number; the first such in the order of the file.
        OSError: the disk is full.
    """
    target = _Target(descriptor)
    waiting: deque[Future[int]] = deque()
    pool = ThreadPoolExecutor(min(logical_cores(), _MOST_THREADS), thread_name_prefix="convert")
    try:
        for stretch in _stretches(tensors, offset):
            if any(stretch.tensor.source.is_changed(name) for name in stretch.tensor.source_names):
                yield _write(stretch, target)
            else:
                waiting.append(pool.submit(_write, stretch, target))
            while waiting and waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        target.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _stretches(tensors: Sequence[PlannedTensor], offset: int) -> Iterator[_Stretch]:
    for tensor in tensors:
        size = tensor.size_bytes()
        count = tensor.rows if tensor.can_be_cut else 0
        row_bytes, source_bytes = (size // count, tensor.source_row_bytes) if count else (0, 0)
        step = max(1, STRETCH_BYTES // max(1, source_bytes))
        if count <= step:
            yield _Stretch(tensor, None, offset, size)
        else:
            for first in range(0, count, step):
                rows = range(first, min(count, first + step))
                yield _Stretch(tensor, rows, offset + first * row_bytes, len(rows) * row_bytes)
        offset += padded(size)


def _write(stretch: _Stretch, target: _Target) -> int:
    at = stretch.offset
    for chunk in stretch.tensor.chunks(rows=stretch.rows):
        if target.stopped.is_set():
            return 0
        at = target.write(chunk.reshape(-1).view(np.uint8).data, at)
    if at - stretch.offset != stretch.size_bytes:
        raise BadFile(
            f"{stretch.tensor.name} came to {at - stretch.offset} bytes, not {stretch.size_bytes}",
            "Fetch the checkpoint again.",
        )
    last = stretch.rows is None or stretch.rows.stop == stretch.tensor.rows
    return padded(at) - stretch.offset if last else stretch.size_bytes
