"""Own leftovers: what killed jobs and downloads left behind; nothing that a running process may still want."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localknobs.errors import LocalknobsError
from localknobs.jobs import leftovers, remove_file_or_folder
from localknobs.library.sources import SOURCES
from localknobs.library.walk import Report, bytes_on_disk, walk
from localknobs.paths import cache_folder, config_folder, data_folder, models_folder
from localknobs.storing import cut_off_files

DOWNLOAD_DAYS = 7
"""Days without a new byte after which an unfinished download counts as given up."""
_OWN_DOWNLOAD = (".localknobs.incomplete", ".localknobs-journal.incomplete")


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that can go.

    Args:
        path: File or folder.
        size_bytes: What it takes.
        reason: What it is, as a phrase.
    """

    path: Path
    size_bytes: int
    reason: str


def plan_pruning(download_days: float = DOWNLOAD_DAYS) -> tuple[Leftover, ...]:
    """Return what can go, by path; nothing is removed.

    Args:
        download_days: Days without a new byte after which an unfinished download of ours counts as given up.
    """
    found = [*_dead_jobs(), *_given_up_downloads(download_days)]
    unique = {leftover.path: leftover for leftover in found}
    return tuple(unique[path] for path in sorted(unique))


def prune(plan: Iterable[Leftover]) -> None:
    """Remove what the plan names; what is gone already, or lives again, is passed over.

    Raises:
        LocalknobsError: something cannot be removed; what came before it is gone.
    """
    for leftover in plan:
        try:
            remove_file_or_folder(leftover.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LocalknobsError(
                f"{leftover.path} cannot be removed: {error.strerror or error}", "Check its folder's permissions."
            ) from None


def _dead_jobs() -> Iterator[Leftover]:
    for top in (models_folder(), data_folder(), config_folder(), cache_folder()):
        for folder, _ in walk(top, Report()):
            for path in leftovers(Path(folder)):
                yield Leftover(path, _size(path), "written by a process that is gone")
            for path in cut_off_files(Path(folder)):
                yield Leftover(path, _size(path), "not stored whole before the machine stopped")


def _given_up_downloads(days: float) -> Iterator[Leftover]:
    now = time.time()
    for root in SOURCES["hf"].roots():
        with contextlib.suppress(OSError):
            for repository in sorted(root.glob("models--*")):
                yield from _of_repository(repository / "blobs", now - days * 86_400)


def _of_repository(blobs: Path, before: float) -> Iterator[Leftover]:
    for _, files in walk(blobs, Report(), 0):
        ours = {name: entry for name, entry in files.items() if name.endswith(_OWN_DOWNLOAD)}
        for name, entry in ours.items():
            # A download and its journal are one: the younger of both counts.
            stem = name.partition(".localknobs")[0]
            youngest = max(each.stat().st_mtime for other, each in ours.items() if other.startswith(stem))
            if youngest < before and not _is_locked(blobs, stem):
                yield Leftover(Path(entry.path), _size(Path(entry.path)), "a download that was given up")


def _is_locked(blobs: Path, etag: str) -> bool:
    """Say whether a process holds the lock under which a file is fetched; see `CachedRepository.locked` of the hub."""
    import filelock

    lock_file = blobs.parent.parent / ".locks" / blobs.parent.name / f"{etag}.lock"
    if not lock_file.exists():
        return False
    try:
        with filelock.FileLock(lock_file, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _size(path: Path) -> int:
    """Return the bytes that a file or folder takes on disk."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_size(each) for each in path.rglob("*") if each.is_file() and not each.is_symlink())
        return bytes_on_disk(path.lstat())
    except OSError:
        return 0
