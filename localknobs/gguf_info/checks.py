"""Whether llama.cpp could load what a header describes, and which files belong to it."""

from __future__ import annotations

import re
from pathlib import Path

from localknobs.errors import BadFile, Unsupported
from localknobs.gguf_info.header import Header
from localknobs.gguf_info.reader import read_header

ROPE_SCALING_TYPES = ("none", "linear", "yarn", "longrope")  # llama-model.cpp; others abort the process
NOT_A_MODEL = {
    "adapter": "a LoRA adapter", "control vector": "a control vector", "projector": "an image projector",
    "imatrix": "an importance matrix",
}  # fmt: skip
"""What files of other kinds are."""
_SHARD_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def check_is_model(header: Header) -> None:
    """Refuse what llama.cpp would crash on or could not chat with.

    Raises:
        BadFile: an adapter, a control vector, a projector, an importance matrix, a later shard, or a missing one.
        Unsupported: a RoPE scaling that llama.cpp does not know, on which it aborts.
    """
    check_can_load(header)
    if (part := _part(header)) > 1:
        raise BadFile(
            f"{header.path} is file {part} of {header.shards} of a split model, and only the first can be opened",
            f"Name the one that ends in -00001-of-{header.shards:05d}.gguf: it finds the others beside it.",
        )
    _check_shards(header)


def check_can_load(header: Header) -> None:
    """Do as `check_is_model`, but look at this one file alone, not at its other shards."""
    what = NOT_A_MODEL.get(header.kind)
    if what:
        raise BadFile(f"{header.path} is {what}, not a model", "Give the model's own GGUF file.")
    if _part(header) > 1:
        return  # the first one's header speaks for it
    if not header.architecture:
        raise BadFile(f"{header.path} names no architecture", "It is not a whole model. Download it again.")
    scaling = header.text(f"{header.architecture}.rope.scaling.type")
    if scaling and scaling not in ROPE_SCALING_TYPES:
        raise Unsupported(
            f"{header.path} asks for the RoPE scaling {scaling!r}", f"llama.cpp knows {', '.join(ROPE_SCALING_TYPES)}."
        )


def _part(header: Header) -> int:
    """Return which of a split model's files this is, from 1."""
    number = header.metadata.get("split.no")
    return number + 1 if header.shards > 1 and isinstance(number, int) else 1


def _check_shards(header: Header) -> None:
    for shard in shard_paths(header):
        if not shard.is_file():
            raise BadFile(
                f"{header.path} is split into {header.shards} files, and {shard.name} is missing",
                "Put all of them into one folder.",
            )


def read_headers(path: Path) -> tuple[Header, ...]:
    """Return the headers of all files of a model, the first one's first.

    Raises:
        BadFile, NotFound, Unsupported: it is no model, or not whole.
    """
    named = read_header(path)
    check_is_model(named)
    return tuple(named if shard == named.path else read_header(shard) for shard in shard_paths(named))


def shard_paths(header: Header) -> tuple[Path, ...]:
    """Return the files of a model, the first shard first; one when it is not split."""
    named = _SHARD_NAME.fullmatch(header.path.name)
    if header.shards == 1 or not named:
        return (header.path,)
    return tuple(
        header.path.with_name(f"{named[1]}-{number:05d}-of-{header.shards:05d}.gguf")
        for number in range(1, header.shards + 1)
    )
