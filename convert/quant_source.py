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
from typing import Protocol

import numpy as np

from localknobs.convert.ggml import Bytes, Floats, row_bytes, to_floats
from localknobs.convert.gguf_header import RawKey, raw_keys
from localknobs.errors import BadFile
from localknobs.gguf_info import Header, check_is_model, read_header, shard_paths


class TensorReader(Protocol):
    """Reads rows of one tensor; may be called from several threads."""

    def read_bytes(self, row: int, out: Bytes) -> None:
        """Fill a buffer with the stored bytes from a row on."""

    def read_rows(self, row: int, out: Floats) -> None:
        """Fill a buffer of (rows, columns) with the rows from one on."""


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

    def header_file(self) -> contextlib.AbstractContextManager[Path]:
        """Return a GGUF file with this header for a dry run; its data may be a hole."""

    def open(self) -> contextlib.AbstractContextManager[Callable[[SourceTensor], TensorReader]]:
        """Begin to read; inside, what is returned gives a reader of each tensor."""


class GgufSource:
    """A GGUF file with its further shards."""

    def __init__(self, path: Path) -> None:
        first = read_header(path)
        check_is_model(first)
        headers = [first, *(read_header(shard) for shard in shard_paths(first)[1:])]
        self._places: dict[str, tuple[Header, int]] = {}
        self.tensors: list[SourceTensor] = []
        for header in headers:
            for tensor in header.tensors:
                if tensor.name in self._places:
                    raise BadFile(f"{header.path} has the tensor {tensor.name} twice", "Convert the model again.")
                self._places[tensor.name] = header, header.data_start + tensor.offset
                self.tensors.append(SourceTensor(tensor.name, tensor.shape, tensor.type_name, header.path))
        self.path = path
        self.files = tuple(header.path for header in headers)
        self.keys = raw_keys(first)
        self.block_count = first.number("block_count")

    @contextlib.contextmanager
    def header_file(self) -> Iterator[Path]:
        """Return the file itself: a dry run reads no data."""
        yield self.path

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[SourceTensor], TensorReader]]:
        """Begin to read."""
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(PositionedFile(path)) for path in self.files}

            def reader(tensor: SourceTensor) -> TensorReader:
                header, start = self._places[tensor.name]
                return _GgufReader(files[header.path], tensor, start)

            yield reader


_scratch = threading.local()


class _GgufReader:
    """Reads one tensor of a GGUF file."""

    def __init__(self, file: PositionedFile, tensor: SourceTensor, start: int) -> None:
        self._file, self._type_name, self._start = file, tensor.type_name, start
        self._width = row_bytes(tensor.type_name, tensor.columns)

    def read_bytes(self, row: int, out: Bytes) -> None:
        self._file.read_into(self._start + row * self._width, out)

    def read_rows(self, row: int, out: Floats) -> None:
        flat = out.reshape(-1)
        if self._type_name == "F32":
            self.read_bytes(row, flat.view(np.uint8))
            return
        size = len(out) * self._width
        stored: Bytes | None = getattr(_scratch, "stored", None)
        if stored is None or stored.size < size:
            stored = _scratch.stored = np.empty(size, np.uint8)
        self.read_bytes(row, stored[:size])
        to_floats(self._type_name, stored[:size], flat)


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
        rest = memoryview(out)
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
