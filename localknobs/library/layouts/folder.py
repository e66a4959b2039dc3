"""A plain folder of GGUF files and checkpoints, with folders in it: ours, GPT4All's, LM Studio's, a user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from localknobs.library.entry import Found, State
from localknobs.library.grouping import Group, gguf_files, grouped
from localknobs.library.names import repository_names, unfinished, without_suffix
from localknobs.library.walk import Report, bytes_on_disk, is_file, walk
from localknobs.units import size_text


def read_folder(
    root: Path, source: str, report: Report, *, repositories: bool = False, checkpoints: bool = True
) -> Iterator[Found]:
    """Yield the models of a folder, named by their place in it.

    Args:
        root: The folder.
        source: Key of the source.
        report: Told what cannot be looked into.
        repositories: Whether it holds `publisher/repo/file` as LM Studio does; then named `publisher/repo:QUANT`.
        checkpoints: Whether folders with config and safetensors are of use.
    """
    for folder, files in walk(root, report):
        inside = os.path.relpath(folder, root)
        place = "" if inside == "." else f"{inside}/".replace(os.sep, "/")
        if checkpoints and (kind := checkpoint_kind(files)):
            yield Found(place.rstrip("/") or root.name, source, (Path(folder),), kind=kind)
        groups = grouped(gguf_files(folder, files), attach=inside != ".")
        names: list[tuple[str, tuple[str, ...]]] = [(place + group.name, ()) for group in groups]
        if repositories and place.count("/") == 2:
            names = repository_names(place.rstrip("/"), [group.name for group in groups])
        for group, (name, aliases) in zip(groups, names, strict=True):
            yield row(group, name, source, aliases)
        yield from _unfinished(files, place, source)


def row(group: Group, name: str, source: str, aliases: tuple[str, ...] = (), sha256: str = "") -> Found:
    """Return the row of a group of files."""
    state: State = "damaged" if group.trouble else "whole"
    return Found(
        name, source, group.files, aliases=aliases, sha256=sha256, projector=group.projector, state=state,
        trouble=group.trouble,
    )  # fmt: skip


def read_place(place: Path, source: str, report: Report) -> Iterator[Found]:
    """Yield the models of a folder, or the one model that a file is part of."""
    if not os.path.isfile(place):
        if not os.path.isdir(place):
            report.add(place, "it is not there")
        yield from read_folder(place, source, report)
        return
    for folder, files in walk(place.parent, report, 0):
        for group in grouped(gguf_files(folder, files), attach=False):
            if place in group.files:
                yield row(group, group.name, source)


def checkpoint_kind(files: dict[str, os.DirEntry[str]]) -> str:
    """Return `checkpoint` or `adapter` for a folder that holds one as transformers or peft write it, else nothing."""
    weights = [name for name in files if name.endswith(".safetensors") and is_file(files[name])]
    if weights and "adapter_config.json" in files:
        return "adapter"
    return "checkpoint" if weights and "config.json" in files else ""


def _unfinished(files: dict[str, os.DirEntry[str]], place: str, source: str) -> Iterator[Found]:
    for name, entry in files.items():
        if (whole := unfinished(name)) and is_file(entry):
            yield unfinished_download(place + without_suffix(whole), source, Path(entry.path))


def unfinished_download(name: str, source: str, file: Path) -> Found:
    """Return the row of a file that is not whole."""
    try:
        so_far = size_text(bytes_on_disk(file.stat()))
    except OSError:
        so_far = "nothing"
    trouble = f"It is not finished: {so_far} so far, in {file}"
    return Found(name, source, (file,), kind="unknown", state="unfinished", trouble=trouble)
