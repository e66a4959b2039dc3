"""Folders as other programs lay them out, made of small real files. `from library_trees import hugging_face`."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

from gguf_files import TEXT, gguf_bytes, gguf_key, small_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"


def put(file: Path, data: bytes | None = None) -> Path:
    """Write a file with its folders; a small model unless told."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(small_gguf(file.stem) if data is None else data)
    return file


def shard(number: int, count: int, name: str = "Big") -> bytes:
    """Return one file of a split model."""
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("general.name", TEXT, f"{name} {number}"),
        gguf_key("split.count", 2, count),
    ]
    return gguf_bytes(keys, {f"part{number}.weight": ((32, 8), 0, 0)}, data=b"\0" * 1024)


def projector() -> bytes:
    """Return an image projector."""
    return gguf_bytes([gguf_key("general.architecture", TEXT, "clip")], {"v": ((32,), 0, 0)}, data=b"\0" * 128)


def safetensors(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16", width: int = 2) -> bytes:
    """Return a safetensors file with zeros in it."""
    head, end = {}, 0
    for name, shape in shapes.items():
        size = width
        for each in shape:
            size *= each
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * end


def hugging_face(root: Path, repository: str, files: Mapping[str, bytes], commit: str = COMMIT) -> Path:
    """Lay out a repository as the hub's cache does; return its folder."""
    folder = root / ("models--" + repository.replace("/", "--"))
    for path, data in files.items():
        blob = put(folder / "blobs" / hashlib.sha256(data).hexdigest(), data)
        named = folder / "snapshots" / commit / path
        named.parent.mkdir(parents=True, exist_ok=True)
        named.symlink_to(Path(*[".."] * (2 + path.count("/")), "..", "blobs", blob.name).relative_to(".."))
    put(folder / "refs" / "main", COMMIT.encode())
    return folder


def ollama(root: Path, name: str, layers: Mapping[str, bytes], host: str = "registry.ollama.ai/library") -> Path:
    """Lay out a model as Ollama does, `name` being `model:tag`; return its manifest."""
    listed = []
    for kind, data in layers.items():
        sha256 = hashlib.sha256(data).hexdigest()
        put(root / "blobs" / f"sha256-{sha256}", data)
        media = f"application/vnd.ollama.image.{kind}"
        listed.append({"mediaType": media, "digest": f"sha256:{sha256}", "size": len(data)})
    model, tag = name.split(":")
    document = {"schemaVersion": 2, "config": {"digest": "sha256:" + "0" * 64, "size": 1}, "layers": listed}
    return put(root / "manifests" / host / model / tag, json.dumps(document).encode())
