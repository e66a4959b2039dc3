"""Importance matrices on disk: llama-imatrix's GGUF format, its older `.dat` format for reading, and merging.

An entry holds, for one weight tensor, the sum over tokens of each input column's square, and how many
tokens were summed: one row of sums and one count a matrix (several where a tensor holds experts).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from localknobs.convert.ggml import Floats
from localknobs.convert.gguf_header import RawKey, StoredTensor, header_bytes, number_key, padded, text_key, texts_key
from localknobs.errors import BadFile, BadValue, NotFound
from localknobs.gguf_info import Header, TensorInfo, read_header
from localknobs.jobs import partial_file

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_ENTRIES = 1_048_576


@dataclass(frozen=True, slots=True)
class Entry:
    """What was summed for one tensor.

    Shapes:
        sums: (matrices, columns).  counts: (matrices,).
    """

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    def means(self) -> Floats:
        """Return the mean squares as llama-quantize computes them, one after another; 1 where nothing was counted."""
        counts = self.counts.astype(np.float32)[:, None]
        sums = self.sums.astype(np.float32)
        means: Floats = np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.float32(1))
        return np.ascontiguousarray(means.reshape(-1), np.float32)


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix.

    Args:
        entries: Tensor name to what was summed.
        datasets: Names of the texts it was computed on.
        chunk_count: Chunks of text.
        chunk_size: Tokens of a chunk; 0 where the file does not say.
        extra: Further keys of the file as texts.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)


def read_imatrix(path: Path) -> Imatrix:
    """Read either format.

    Raises:
        NotFound: there is no such file.
        BadFile: it is no importance matrix, or damaged, or has values that are not finite.
    """
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}", "Make one: localknobs imatrix MODEL -o imatrix.gguf") from None
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}", "Name an importance matrix.") from None
    matrix = _read_gguf(read_header(path)) if is_gguf else _read_dat(path)
    for name, entry in matrix.entries.items():
        if not np.isfinite(entry.sums).all():
            raise BadFile(f"{path}: the importance of {name} is not finite", "Make it again: localknobs imatrix")
    return matrix


def write_imatrix(matrix: Imatrix, path: Path) -> None:
    """Write the GGUF format, with tensors and keys in llama-imatrix's order; whole or not at all."""
    keys: list[RawKey] = [
        text_key("general.type", "imatrix"),
        texts_key("imatrix.datasets", matrix.datasets),
        number_key("imatrix.chunk_count", matrix.chunk_count),
        number_key("imatrix.chunk_size", matrix.chunk_size),
        *(text_key(name, value) for name, value in matrix.extra.items()),
    ]
    tensors, data = [], bytearray()
    for name in sorted(matrix.entries):
        entry = matrix.entries[name]
        for suffix, values in ((_SUMS, entry.sums), (_COUNTS, entry.counts[:, None])):
            raw = values.astype("<f4").tobytes()
            tensors.append(StoredTensor(name + suffix, (values.shape[1], values.shape[0]), "F32", len(raw)))
            data += raw + b"\0" * (padded(len(raw)) - len(raw))
    with partial_file(path) as beside:
        beside.write_bytes(header_bytes(keys, tensors) + data)


def merged(matrices: Iterable[Imatrix]) -> Imatrix:
    """Add importance matrices up, as llama-imatrix does with several `--in-file`.

    Raises:
        BadValue: they are of different models.
    """
    matrices = list(matrices)
    sums: dict[str, Entry] = {}
    datasets: list[str] = []
    chunk_size = next((matrix.chunk_size for matrix in matrices if matrix.chunk_size), 0)
    chunks = 0
    for matrix in matrices:
        datasets += [name for name in matrix.datasets if name not in datasets]
        chunks += matrix.chunk_count
        tokens = 1 if matrix.chunk_size else chunk_size or 1  # the old format counts chunks, not tokens
        for name, entry in matrix.entries.items():
            scaled = Entry(entry.sums * tokens, entry.counts * tokens)
            sums[name] = _added(name, sums[name], scaled) if name in sums else scaled
    return Imatrix(sums, tuple(datasets), chunks, chunk_size)


def _added(name: str, one: Entry, other: Entry) -> Entry:
    if one.sums.size != other.sums.size:
        raise BadValue(
            f"The importance matrices do not fit together: {name} has {one.sums.size} and {other.sums.size} values",
            "They are of different models.",
        )
    counts = max(len(one.counts), len(other.counts))  # an old file has one count for all experts
    shape = (counts, one.sums.size // counts)
    return Entry(one.sums.reshape(shape) + other.sums.reshape(shape), one.counts + other.counts)


def _read_gguf(header: Header) -> Imatrix:
    if header.kind != "imatrix":
        raise BadFile(f"{header.path} is no importance matrix", "Make one: localknobs imatrix MODEL -o imatrix.gguf")
    found = {tensor.name: tensor for tensor in header.tensors}
    entries = {}
    for name, tensor in found.items():
        if not name.endswith(_SUMS):
            continue
        counts = found.get(name.removesuffix(_SUMS) + _COUNTS)
        if counts is None or {tensor.type_name, counts.type_name} != {"F32"} or not counts.elements:
            raise BadFile(f"{header.path}: {name} has no counts beside it", "Make it again: localknobs imatrix")
        if tensor.elements % counts.elements:
            raise BadFile(f"{header.path}: {name} and its counts do not fit", "Make it again: localknobs imatrix")
        values = _floats(header, tensor).reshape(counts.elements, -1).astype(np.float64)
        numbers = np.rint(_floats(header, counts)).astype(np.int64)
        entries[name.removesuffix(_SUMS)] = Entry(values, numbers)
    if not entries:
        raise BadFile(f"{header.path} holds no importance", "Make it again: localknobs imatrix")
    datasets = header.metadata.get("imatrix.datasets", ())
    return Imatrix(
        entries,
        tuple(map(str, datasets)) if isinstance(datasets, tuple) else (),
        _count(header, "imatrix.chunk_count"),
        _count(header, "imatrix.chunk_size"),
        {key: str(value) for key, value in header.metadata.items() if key.startswith("localknobs.")},
    )


def _count(header: Header, key: str) -> int:
    value = header.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _floats(header: Header, tensor: TensorInfo) -> Floats:
    place = header.data_start + tensor.offset
    return np.fromfile(header.path, "<f4", tensor.elements, offset=place).astype(np.float32)


def _read_dat(path: Path) -> Imatrix:
    """Read the format before GGUF: entries of name, calls, and means times calls; then chunks and the text's name."""
    data = path.read_bytes()
    damaged = BadFile(f"{path} is no importance matrix", "Make one: localknobs imatrix MODEL -o imatrix.gguf")
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        if count < 0 or place + count > len(data):
            raise damaged
        place += count
        return data[place - count : place]

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    count = number()
    if not 0 < count < _MAX_ENTRIES:
        raise damaged
    entries = {}
    for _ in range(count):
        name = take(number()).decode("utf-8", "replace")
        calls, size = number(), number()
        sums = np.frombuffer(take(4 * size), "<f4").astype(np.float64)
        # A file that counted no calls holds the means themselves.
        entries[name] = Entry(sums[None, :], np.array([calls if calls > 0 else 1]))
    chunks, datasets = 0, tuple[str, ...]()
    if place < len(data):
        chunks = number()
        datasets = (take(number()).decode("utf-8", "replace"),)
    return Imatrix(entries, datasets, chunks)
