"""Which files of the Hugging Face cache this program fetched, and may therefore remove."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from localknobs.paths import data_folder, written_whole


def _record() -> Path:
    return data_folder() / "fetched.jsonl"


def remember_fetched(blob: Path) -> None:
    """Write down that a file of the cache was fetched by this program; where that fails, it will not remove it."""
    with contextlib.suppress(OSError):
        _record().parent.mkdir(parents=True, exist_ok=True)
        with _record().open("a", encoding="utf-8") as record:
            record.write(json.dumps(os.path.realpath(blob)) + "\n")


def fetched_files() -> frozenset[str]:
    """Return the real paths of the files that this program fetched; lines that are damaged are passed over."""
    known = set()
    try:
        lines = _record().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            path = json.loads(line)
            if isinstance(path, str):
                known.add(path)
    return frozenset(known)


def forget_fetched(files: Iterable[Path]) -> None:
    """Take files off the record: whoever fetches them again is their owner."""
    gone = {os.path.realpath(file) for file in files}
    kept = sorted(fetched_files() - gone)
    with contextlib.suppress(OSError), written_whole(_record()) as beside:
        beside.write_text("".join(json.dumps(path) + "\n" for path in kept), encoding="utf-8")


def removable_files(files: Iterable[Path], beside: Iterable[Path] = ()) -> tuple[list[Path], list[Path]]:
    """Return what goes when files of a cache are removed.

    Args:
        files: Links in a snapshot, all of which this program must have fetched.
        beside: Other links that go where it has fetched them too.

    Returns:
        The links, and those of their blobs to which no other snapshot refers; both empty where a file is not ours.
    """
    known = fetched_files()
    files = list(files)
    if not files or not all(file.is_symlink() and os.path.realpath(file) in known for file in files):
        return [], []
    links = [*files, *(file for file in beside if file.is_symlink() and os.path.realpath(file) in known)]
    snapshots = next((folder for folder in files[0].parents if folder.name == "snapshots"), None)
    others = set()
    if snapshots:
        going = set(links)
        others = {os.path.realpath(each) for each in snapshots.rglob("*") if each.is_symlink() and each not in going}
    blobs = [Path(blob) for blob in dict.fromkeys(map(os.path.realpath, links)) if blob not in others]
    return links, blobs


def tidy_repository(link: Path) -> None:
    """Remove the empty folders of a cached repository, and the repository when nothing of it is left."""
    repository = next((folder for folder in link.parents if folder.name.startswith("models--")), None)
    if repository is None:
        return
    for folder in sorted((each for each in repository.rglob("*") if each.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
    if not (repository / "snapshots").exists() and not (repository / "blobs").exists():
        with contextlib.suppress(OSError):
            for reference in (repository / "refs").glob("*"):
                reference.unlink()
            (repository / "refs").rmdir()
            repository.rmdir()
