"""The mark that all quantizations of a model share: by it an adapter knows the base it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from localknobs.errors import BadFile
from localknobs.gguf_info.checks import shard_paths
from localknobs.gguf_info.header import Header
from localknobs.gguf_info.reader import read_header

BASE_MARK = "localknobs.base.norms"
"""Key under which an adapter's file keeps the `norms_mark` of the model it was trained on."""


def is_norm(name: str, dimensions: int) -> bool:
    """Return whether a tensor is the weight of a norm, which every quantization keeps in 32 bits."""
    return dimensions == 1 and name.endswith("norm.weight")


def norms_mark(header: Header) -> str:
    """Return the mark of a model that all its quantizations share, and no other model: a hash of all its norms.

    Another training of all weights changes it, as does a quantization that moves scales into the norms (AWQ), for
    which an adapter would be wrong too. A merged LoRA, which leaves norms alone, does not.

    Args:
        header: Of the model; of a split one, of the first shard.

    Returns:
        32 hexadecimal digits; empty where the model has no norms in 32 bits.

    Raises:
        BadFile: the file is shorter than its header says.
    """
    places: dict[str, tuple[Path, int, int]] = {}
    for shard in shard_paths(header):
        one = header if shard == header.path else read_header(shard)
        for tensor in one.tensors:
            if is_norm(tensor.name, len(tensor.shape)) and tensor.type_name == "F32":
                places[tensor.name] = shard, one.data_start + tensor.offset, tensor.size_bytes
    return mark_of_norms((name, _read(*place)) for name, place in places.items())


def mark_of_norms(norms: Iterable[tuple[str, bytes]]) -> str:
    """Return the mark of norms, given as llama.cpp's name of each and its values as little-endian float32."""
    digest = hashlib.blake2b(digest_size=16)
    found = sorted(norms)
    for name, data in found:
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest() if found else ""


def _read(path: Path, begin: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(size)
    if len(data) != size:
        raise BadFile(f"{path} is cut short", "Download it again.")
    return data
