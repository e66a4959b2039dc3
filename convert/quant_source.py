"""Where the weights to be quantized come from: a GGUF file, whole or in shards, read by rows into float32.

Reads with positioned reads into a buffer of the caller, not by a map: memory stays at what is asked for,
and a file that is cut short under us is an error and no bus fault.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from localknobs.convert.ggml import Bytes, Floats, row_bytes, to_floats
from localknobs.convert.gguf_header import RawKey, raw_keys
from localknobs.errors import BadFile
from localknobs.gguf_info import Header, read_headers

PORTION_VALUES = 262_144
"""Values that a thread takes at once: 1 MiB as float32, which stays in its cache between reading and quantizing."""


class Rows(Protocol):
    """Some rows of a tensor, read when they are asked for, by any thread."""

    @property
    def count(self) -> int:
        """How many rows."""

    def values(self) -> Floats:
        """Return them as float32, in memory that the same thread's next call takes again.

        Shapes:
            (rows, columns).
        """

    def stored(self) -> Bytes:
        """Return their bytes in the source's type, in memory of their own."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of the source.

    Args:
        name: Its name in a GGUF file.
        shape: Sizes, the fastest first.
        type_name: Type in which the source has it, and in which it stays where it is not quantized.
        where: The file it comes from, for messages.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    where: Path

    @property
    def columns(self) -> int:
        """Values of a row."""
        return self.shape[0] if self.shape else 1

    @property
    def rows(self) -> int:
        """Rows of all matrices in it."""
        rows = 1
        for size in self.shape[1:]:
            rows *= size
        return rows

    @property
    def rows_of_expert(self) -> int:
        """Rows that share one importance: those of one matrix."""
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def size_bytes(self) -> int:
        """Bytes it takes in the source's type."""
        return self.rows * row_bytes(self.type_name, self.columns)


class Source(Protocol):
    """A model whose tensors can be read one after another."""

    @property
    def keys(self) -> Sequence[RawKey]:
        """The header's keys."""

    @property
    def tensors(self) -> Sequence[SourceTensor]:
        """All tensors, in any order."""

    @property
    def block_count(self) -> int:
        """Layers."""

    @property
    def files(self) -> Sequence[Path]:
        """Files that are read."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about the source."""

    def header_file(self) -> contextlib.AbstractContextManager[Path]:
        """Return a GGUF file with this header for a dry run; its data may be a hole."""

    def open(self) -> contextlib.AbstractContextManager[Callable[[SourceTensor], Iterator[Rows]]]:
        """Begin to read; inside, what is returned gives a tensor's rows in order, in portions."""


class GgufSource:
    """A GGUF file with its further shards."""

    def __init__(self, path: Path) -> None:
        headers = read_headers(path)
        self._places: dict[str, tuple[Header, int]] = {}
        self.tensors: list[SourceTensor] = []
        for header in headers:
            for tensor in header.tensors:
                if tensor.name in self._places:
                    raise BadFile(f"{header.path} has the tensor {tensor.name} twice", "Convert the model again.")
                self._places[tensor.name] = header, header.data_start + tensor.offset
                self.tensors.append(SourceTensor(tensor.name, tensor.shape, tensor.type_name, header.path))
        self.path, self.notes = path, tuple[str, ...]()
        self.files = tuple(header.path for header in headers)
        self.keys = raw_keys(headers[0])
        self.block_count = headers[0].number("block_count")

    @contextlib.contextmanager
    def header_file(self) -> Iterator[Path]:
        """Return the file itself: a dry run reads no data."""
        yield self.path

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[SourceTensor], Iterator[Rows]]]:
        """Begin to read."""
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(PositionedFile(path)) for path in self.files}

            def rows_of(tensor: SourceTensor) -> Iterator[Rows]:
                header, start = self._places[tensor.name]
                width = row_bytes(tensor.type_name, tensor.columns)
                step = max(1, PORTION_VALUES // max(1, tensor.columns))
                for row in range(0, tensor.rows, step):
                    count = min(step, tensor.rows - row)
                    yield _GgufRows(files[header.path], tensor, start + row * width, count)

            yield rows_of


_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class _GgufRows:
    file: PositionedFile
    tensor: SourceTensor
    start: int
    count: int

    @property
    def size_bytes(self) -> int:
        return self.count * row_bytes(self.tensor.type_name, self.tensor.columns)

    def stored(self) -> Bytes:
        out = np.empty(self.size_bytes, np.uint8)
        self.file.read_into(self.start, out)
        return out

    def values(self) -> Floats:
        flat: Floats = _room("floats", self.count * self.tensor.columns, np.float32)
        if self.tensor.type_name == "F32":
            self.file.read_into(self.start, flat.view(np.uint8))
        else:
            stored = _room("stored", self.size_bytes, np.uint8)
            self.file.read_into(self.start, stored)
            to_floats(self.tensor.type_name, stored, flat)
        rows: Floats = flat.reshape(self.count, self.tensor.columns)
        return rows


def _room(name: str, size: int, kind: type[np.generic]) -> Any:
    """Return memory of this thread, which is taken again and again."""
    room = getattr(_scratch, name, None)
    if room is None or room.size < size:
        room = np.empty(size, kind)
        setattr(_scratch, name, room)
    return room[:size]


class PositionedFile:
    """A file that several threads read at places of their own."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._lock = path, path.open("rb", buffering=0), threading.Lock()

    def __enter__(self) -> PositionedFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def read_into(self, place: int, out: Bytes) -> None:
        """Fill a buffer with the bytes from `place` on.

        Raises:
            BadFile: the file ends before, or the disk cannot be read.
        """
        rest = out.data
        try:
            while rest:
                count = self._read(place, rest)
                if not count:
                    raise BadFile(f"{self._path} is cut short: nothing at byte {place:,}", "Fetch or make it again.")
                rest, place = rest[count:], place + count
        except OSError as error:
            if isinstance(error, BadFile):
                raise
            raise BadFile(f"{self._path} cannot be read: {error.strerror}", "Check the disk.") from None

    def _read(self, place: int, out: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [out], place)
        with self._lock:
            self._file.seek(place)
            return self._file.readinto(out) or 0
