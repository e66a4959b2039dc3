"""GGUF files written by hand, so that tests can also write wrong ones. `from gguf_files import small_gguf`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

U32, F32, BOOL, TEXT, ARRAY, U64 = 4, 6, 7, 8, 9, 10
_PACK = {0: "<B", 1: "<b", 2: "<H", 3: "<h", U32: "<I", 5: "<i", F32: "<f", BOOL: "<?", U64: "<Q", 11: "<q", 12: "<d"}


def gguf_text(text: str | bytes) -> bytes:
    """Return a text as GGUF stores it."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_key(name: str, kind: int, value: Any, element: int = U32) -> bytes:
    """Return one key with its value; `element` is the type of an array's elements."""
    return gguf_text(name) + struct.pack("<I", kind) + _value(kind, value, element)


def _value(kind: int, value: Any, element: int) -> bytes:
    if kind == TEXT:
        return gguf_text(value)
    if kind == ARRAY:
        return struct.pack("<IQ", element, len(value)) + b"".join(_value(element, item, element) for item in value)
    return struct.pack(_PACK[kind], value)


def gguf_bytes(
    keys: Sequence[bytes] = (),
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]] | None = None,
    *,
    version: int = 3,
    data: bytes = b"",
    alignment: int = 32,
) -> bytes:
    """Return a GGUF file.

    Args:
        keys: What `gguf_key` returned.
        tensors: Name to (shape, type number, offset).
        version: GGUF version.
        data: Bytes of all tensors.
        alignment: Padding before the data.
    """
    tensors = tensors or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    for name, (shape, kind, offset) in tensors.items():
        head += gguf_text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", kind, offset)
    return head + b"\0" * (-len(head) % alignment) + data


def small_gguf(name: str = "Small") -> bytes:
    """Return a whole small GGUF file of architecture `llama`, with two tensors; too small for llama.cpp to run."""
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("general.name", TEXT, name),
        gguf_key("llama.block_count", U32, 1),
        gguf_key("llama.context_length", U32, 128),
        gguf_key("llama.embedding_length", U32, 32),
        gguf_key("llama.attention.head_count", U32, 4),
    ]
    tensors = {"token_embd.weight": ((32, 4), 0, 0), "output_norm.weight": ((32,), 0, 512)}
    return gguf_bytes(keys, tensors, data=b"\0" * 640)
