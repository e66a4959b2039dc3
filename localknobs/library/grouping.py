"""Files of a folder become models: shards together, projectors beside the models they belong to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localknobs.library.names import SHARD, is_projector, without_suffix
from localknobs.library.walk import is_file

_MOST_SHARDS = 1000


@dataclass(frozen=True, slots=True)
class Group:
    """The files of one model.

    Args:
        name: The file's name without `.gguf` and the shard's number.
        files: The first shard first.
        trouble: Which shards are missing, or where a link leads to nothing.
        projector: The image projector that belongs to it.
    """

    name: str
    files: tuple[Path, ...]
    trouble: str = ""
    projector: Path | None = None


def gguf_files(folder: str, entries: Mapping[str, os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """Return the GGUF files among a folder's entries, links to nothing included."""
    named = [entry for name, entry in entries.items() if name.lower().endswith(".gguf") and not name.startswith(".")]
    return [entry for entry in named if is_file(entry) or entry.is_symlink()]


def grouped(entries: Iterable[os.DirEntry[str]], *, attach: bool) -> list[Group]:
    """Return the models that the GGUF files of one folder are.

    Args:
        entries: The files.
        attach: Whether projectors belong to every model of the folder, as they do in a folder for one model.
    """
    together: dict[tuple[str, int], dict[int, os.DirEntry[str]]] = {}
    for entry in entries:
        shard = SHARD.fullmatch(entry.name)
        if shard and 0 < int(shard[2]) <= int(shard[3]) <= _MOST_SHARDS:
            together.setdefault((shard[1], int(shard[3])), {})[int(shard[2])] = entry
        else:
            together[entry.name, 0] = {1: entry}
    groups = [_group(count, shards) for (_, count), shards in together.items()]
    projectors = [group for group in groups if is_projector(group.name)]
    models = [group for group in groups if not is_projector(group.name)]
    if not attach or not projectors or not models:
        return groups
    best = min(projectors, key=lambda group: (("f16" not in group.name.lower().replace("bf16", "")), group.name))
    return [Group(model.name, model.files, model.trouble, best.files[0]) for model in models]


def _group(count: int, shards: Mapping[int, os.DirEntry[str]]) -> Group:
    entries = [shards[number] for number in sorted(shards)]
    name = without_suffix(entries[0].name)
    trouble = ""
    missing = [number for number in range(1, count + 1) if number not in shards]
    if missing:
        named = [f"{name}-{number:05}-of-{count:05}.gguf" for number in missing[:8]]
        listed = ", ".join(named) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        trouble = f"It is split into {count} files; missing: {listed}. Put all of them into one folder."
    for entry in entries:
        if not is_file(entry):
            trouble = f"{entry.path} is a link to {os.readlink(entry.path)}, where there is nothing. Remove it."
    return Group(name, tuple(Path(entry.path) for entry in entries), trouble)
