"""A model file with a hole where the weights were: what llama.cpp needs to plan memory, from a header alone.

The vocabulary is left out too (its size stays), so that llama.cpp opens the file in milliseconds. Works for a
header that was fetched from a hub; the files of a split model become one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from localknobs.errors import BadFile
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info import ArrayInfo, Header, Scalar, TensorInfo

_FIRST_KEY = 24
"""Byte where the first key of a GGUF file begins (ggml/docs/gguf.md)."""
_ALIGNMENT = 32
_NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}
_U32, _I32, _F32, _BOOL, _TEXT, _ARRAY, _U64 = 4, 5, 6, 7, 8, 9, 10
_LEFT_OUT = ("tokenizer.", "split.", "general.alignment")


def write_hollow(headers: Sequence[Header], path: Path) -> Path:
    """Write the hollow file; return its path.

    Args:
        headers: Of all files of a model, the first one's first. The keys are copied from the first one's file,
            which need hold no more than its header; where it is not here, they are made anew.
        path: Where to. Its length is that of the model; it takes a few kilobytes of disk.

    Raises:
        BadFile: the first file no longer holds the header that was read from it.
        OSError: the disk or the file system cannot hold it.
    """
    first = headers[0]
    tensors = [tensor for header in headers for tensor in header.tensors]
    vocabulary_key = f"{first.architecture}.vocab_size"
    keys = [raw for name, raw in _raw_keys(first) if not name.startswith(_LEFT_OUT) and name != vocabulary_key]
    keys.append(_text("tokenizer.ggml.model") + struct.pack("<I", _TEXT) + _text("none"))
    keys.append(_text(vocabulary_key) + struct.pack("<II", _U32, vocabulary_size(first, tensors)))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    offset = 0
    for tensor in tensors:
        head += _text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", _NUMBERS[tensor.type_name], offset)
        offset += _aligned(tensor.size_bytes)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(_aligned(len(head)) + offset)
    return path


def vocabulary_size(header: Header, tensors: Sequence[TensorInfo] = ()) -> int:
    """Return how many tokens a model knows: of its list, or else the rows of its embedding; 0 when neither is there."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayInfo):
        return tokens.count
    if isinstance(tokens, tuple):
        return len(tokens)
    rows = [tensor.shape[1] for tensor in tensors or header.tensors if tensor.name == "token_embd.weight"]
    return header.number("vocab_size") or (rows[0] if rows else 0)


def _raw_keys(header: Header) -> Iterator[tuple[str, bytes]]:
    """Yield each key's name and its bytes as they lie in the file, so that no type is changed."""
    if not header.path.is_file():
        yield from _made_keys(header)
        return
    begin = _FIRST_KEY
    with header.path.open("rb") as file:
        for name, end in zip(header.metadata, header.key_ends, strict=True):
            if not name.startswith(_LEFT_OUT):
                file.seek(begin)
                raw = file.read(end - begin)
                if raw[8 : 8 + len(name.encode())] != name.encode():
                    raise BadFile(f"{header.path} has changed since its header was read", "Try again.")
                yield name, raw
            begin = end


def _made_keys(header: Header) -> Iterator[tuple[str, bytes]]:
    """Yield keys made anew of what was read from a file that is not here, in the types that llama.cpp expects."""
    for name, value in header.metadata.items():
        if isinstance(value, ArrayInfo) or name.startswith(_LEFT_OUT):
            continue  # long arrays are the vocabulary's
        if isinstance(value, tuple):
            if value:
                kind = _kind_of(
                    max(value) if isinstance(value[0], int) and not isinstance(value[0], bool) else value[0]
                )
                head = struct.pack("<IIQ", _ARRAY, kind, len(value))
                yield name, _text(name) + head + b"".join(_packed(kind, item) for item in value)
            continue
        kind = _kind_of(value)
        yield name, _text(name) + struct.pack("<I", kind) + _packed(kind, value)


def _kind_of(value: Scalar) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _I32 if value < 0 else _U32 if value < 2**32 else _U64
    return _F32 if isinstance(value, float) else _TEXT


def _packed(kind: int, value: Scalar) -> bytes:
    if kind == _TEXT:
        return _text(str(value))
    if kind == _U32 and isinstance(value, int) and value < 0:
        return struct.pack("<i", value)  # among others that are not: the same bytes as llama.cpp reads them
    return struct.pack({_U32: "<I", _I32: "<i", _F32: "<f", _BOOL: "<?", _U64: "<Q"}[kind], value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(count: int) -> int:
    return (count + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
