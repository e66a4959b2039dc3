"""Write a GGUF header whose keys come from another file byte for byte; nothing is decoded that is only carried over.

Knows no weights: a writer puts the header first and the tensors after it, in the order given here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localknobs.convert.ggml import TYPE_NUMBERS
from localknobs.errors import BadFile

if TYPE_CHECKING:
    from localknobs.gguf_info import Header

_FIRST_KEY = 24  # after magic, version, and the counts of tensors and keys
_U32, _F32, _BOOL, _TEXT, _ARRAY = 4, 6, 7, 8, 9
DEFAULT_ALIGNMENT = 32
PADDING_KEY = "localknobs.padding"
"""Holds blanks, so that the data of a file whose keys were changed begins where blocks can be shared."""


@dataclass(frozen=True, slots=True)
class RawKey:
    """A key with its value as the file stores both."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it will stand in a file.

    Args:
        name: Its name.
        shape: Sizes, the fastest first.
        type_name: ggml's name of its type.
        size_bytes: Without padding.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    size_bytes: int


def raw_keys(header: Header) -> list[RawKey]:
    """Read the keys of a file whose header was checked.

    Raises:
        BadFile: the file is not the one whose header this is.
    """
    keys, end = [], header.key_ends[-1] if header.key_ends else _FIRST_KEY
    with header.path.open("rb") as file:
        data = file.read(end)
    starts = (_FIRST_KEY, *header.key_ends)
    for start, stop in zip(starts, header.key_ends, strict=False):
        (length,) = struct.unpack_from("<Q", data, start)
        name = data[start + 8 : start + 8 + length].decode("utf-8", "replace")
        keys.append(RawKey(name, data[start:stop]))
    if len(data) != end or any(key.name not in header.metadata for key in keys):
        raise BadFile(f"{header.path} has changed while it was read", "Try again when nothing writes to it.")
    return keys


def text_key(name: str, value: str) -> RawKey:
    """Return a key whose value is a text."""
    return RawKey(name, _text(name) + struct.pack("<I", _TEXT) + _text(value))


def number_key(name: str, value: int) -> RawKey:
    """Return a key whose value is an unsigned 32-bit number."""
    return RawKey(name, _text(name) + struct.pack("<II", _U32, value))


def float_key(name: str, value: float) -> RawKey:
    """Return a key whose value is a 32-bit float."""
    return RawKey(name, _text(name) + struct.pack("<If", _F32, value))


def texts_key(name: str, values: Sequence[str]) -> RawKey:
    """Return a key whose value is a list of texts."""
    texts = [value.encode("utf-8", "surrogateescape") for value in values]
    lengths = struct.pack(f"<{len(texts)}Q", *map(len, texts))
    pieces = [b""] * (2 * len(texts))
    pieces[::2] = [lengths[at : at + 8] for at in range(0, len(lengths), 8)]
    pieces[1::2] = texts
    return RawKey(name, _text(name) + struct.pack("<IIQ", _ARRAY, _TEXT, len(texts)) + b"".join(pieces))


def replaced(keys: Iterable[RawKey], new: Iterable[RawKey], without: Iterable[str] = ()) -> list[RawKey]:
    """Return keys with new ones at the end, in place of those of the same name, and without some."""
    added = {key.name: key for key in new}
    gone = {*without, *added}
    return [*(key for key in keys if key.name not in gone), *added.values()]


def header_with_keys(header: Header, keys: Sequence[RawKey], step: int) -> bytes:
    """Return the whole header of a file with other keys, tensors where they were; the data may follow as it is.

    A key of padding makes the data begin as far into a block of `step` bytes as in the file itself, so that a
    file system which shares blocks between files can share these.

    Args:
        header: Of the file.
        keys: What `replaced` made of its keys; `PADDING_KEY` must not be among them.
        step: A block of the file system, a power of two.
    """
    begin = header.key_ends[-1] if header.key_ends else _FIRST_KEY
    with header.path.open("rb") as file:
        file.seek(begin)
        infos = _tensor_infos(file.read(header.data_start - begin), len(header.tensors))
    known = b"".join(key.data for key in keys)
    alignment = header.metadata.get("general.alignment")
    step = max(step, alignment if isinstance(alignment, int) else DEFAULT_ALIGNMENT)
    least = _FIRST_KEY + len(known) + len(text_key(PADDING_KEY, "").data) + len(infos)
    padding = (header.data_start - least) % step
    counts = struct.pack("<IQQ", header.version, len(header.tensors), len(keys) + 1)
    return b"GGUF" + counts + known + text_key(PADDING_KEY, " " * padding).data + infos


def _tensor_infos(data: bytes, count: int) -> bytes:
    """Return the bytes that describe the tensors, without the padding behind them."""
    at = 0
    for _ in range(count):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 4 + 8
    return data[:at]


def header_bytes(keys: Sequence[RawKey], tensors: Sequence[StoredTensor], alignment: int = DEFAULT_ALIGNMENT) -> bytes:
    """Return a whole header, padded, after which the tensors follow in order, each padded too."""
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
    for key in keys:
        head += key.data
    offset = 0
    for tensor in tensors:
        head += _text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", TYPE_NUMBERS[tensor.type_name], offset)
        offset += padded(tensor.size_bytes, alignment)
    return bytes(head) + b"\0" * (-len(head) % alignment)


def padded(size: int, alignment: int = DEFAULT_ALIGNMENT) -> int:
    """Return a size rounded up to the alignment."""
    return (size + alignment - 1) // alignment * alignment


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data
