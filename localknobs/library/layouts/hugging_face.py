"""The Hugging Face cache: `models--org--name/` with `blobs`, `refs` and `snapshots/<commit>/<path>`.

Source: huggingface_hub, file_download.py. llama.cpp uses the same layout under its own root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from localknobs.library.entry import Found
from localknobs.library.grouping import Group, gguf_files, grouped
from localknobs.library.layouts.folder import checkpoint_kind, row, unfinished_download
from localknobs.library.names import repository_names, unfinished
from localknobs.library.walk import Report, is_file, walk

_SHA256 = re.compile("[0-9a-f]{64}")
_REPOSITORY_DEPTH = 4
_SMALL = 2**20
"""Bytes below which something unfinished is a tokenizer or a card, not a model."""


def read_hugging_face(root: Path, source: str, report: Report) -> Iterator[Found]:
    """Yield the models of a cache, named `org/repo:QUANT`, its checkpoints `org/repo`."""
    try:
        with os.scandir(root) as listing:
            repositories = sorted(entry.name for entry in listing if entry.name.startswith("models--"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        report.add(root, error)
        return
    for name in repositories:
        yield from _read_repository(root / name, name.removeprefix("models--").replace("--", "/"), source, report)


def _read_repository(folder: Path, repository: str, source: str, report: Report) -> Iterator[Found]:
    seen: set[str] = set()
    found: list[tuple[str, Group]] = []
    checkpoint = False
    for commit in _commits(folder):
        for place, files in walk(folder / "snapshots" / commit, report, _REPOSITORY_DEPTH):
            inside = os.path.relpath(place, folder / "snapshots" / commit)
            if inside == "." and not checkpoint and (kind := checkpoint_kind(files)):
                checkpoint = True
                yield Found(repository, source, (Path(place),), kind=kind)
            for group in grouped(gguf_files(place, files), attach=True):
                path = group.name if inside == "." else f"{inside}/{group.name}".replace(os.sep, "/")
                if path not in seen:  # the same file in an older snapshot
                    seen.add(path)
                    found.append((path, group))
    names = repository_names(repository, [path for path, _ in found])
    for (name, aliases), (_, group) in zip(names, found, strict=True):
        yield row(group, name, source, aliases, _hash_of(group.files[0]))
    yield from _unfinished(folder / "blobs", repository, source, report)


def _commits(folder: Path) -> list[str]:
    """Return the snapshots of a repository, that of `main` first, else the newest."""
    try:
        with os.scandir(folder / "snapshots") as listing:
            commits = {entry.name: entry.stat().st_mtime for entry in listing if entry.is_dir()}
    except OSError:
        return []
    try:
        main = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        main = ""
    return sorted(commits, key=lambda commit: (commit != main, -commits[commit], commit))


def _hash_of(file: Path) -> str:
    try:
        name = os.path.basename(os.readlink(file))
    except OSError:  # a real file, where links are off
        return ""
    return name if _SHA256.fullmatch(name) else ""


def _unfinished(blobs: Path, repository: str, source: str, report: Report) -> Iterator[Found]:
    for _, files in walk(blobs, report, 0):
        for name, entry in files.items():
            if (whole := unfinished(name)) and is_file(entry) and entry.stat().st_size >= _SMALL:
                yield unfinished_download(f"{repository}:{whole[:12]}", source, Path(entry.path))
