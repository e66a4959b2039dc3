"""Read the pieces of a SentencePiece model (`tokenizer.model`): a protocol buffer, of which three fields are needed.

Source: sentencepiece_model.proto (ModelProto.pieces, trainer_spec.model_type, normalizer_spec).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localknobs.errors import BadFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of pieces; GGUF has the same numbers for them."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Piece:
    """One token.

    Args:
        text: Its text, with `▁` for a space.
        score: The higher, the earlier it is merged.
        kind: One of the kinds above.
    """

    text: str
    score: float
    kind: int


def read_pieces(file: Path) -> list[Piece]:
    """Return all pieces in the order of their numbers.

    Raises:
        BadFile: the file is no SentencePiece model.
    """
    try:
        pieces = [_piece(value) for number, value in _fields(file.read_bytes()) if number == 1]
    except (ValueError, IndexError, struct.error, AttributeError, TypeError):
        pieces = []
    if not pieces:
        raise BadFile(f"{file} is no SentencePiece model", "Fetch it again.")
    return pieces


def _piece(data: bytes | int) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(bytes(data) if isinstance(data, bytes) else b"\xff"):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number and the value of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, form = tag >> 3, tag & 7
        value: bytes | int
        if form == _VARINT:
            value, at = _varint(data, at)
        else:
            if form == _BYTES:
                size, at = _varint(data, at)
            elif form in (_FIXED32, _FIXED64):
                size = 4 if form == _FIXED32 else 8
            else:
                raise ValueError("no protocol buffer")
            value = data[at : at + size]
            if len(value) != size:
                raise ValueError("the buffer ends within a field")
            at += size
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
