"""Looking through folders that others made: bounded, without loops, and a closed folder is a remark, not an end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_DEPTH, MAX_ENTRIES = 8, 50_000


@dataclass
class Report:
    """What the looking came upon that the user should know.

    Args:
        unreadable: Folders that could not be looked into, with the reason.
    """

    unreadable: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, folder: Path | str, error: OSError | str) -> None:
        """Remark on a folder."""
        reason = error if isinstance(error, str) else error.strerror or str(error)
        self.unreadable.append((Path(folder), reason))


def walk(root: Path, report: Report, depth: int = MAX_DEPTH) -> Iterator[tuple[str, dict[str, os.DirEntry[str]]]]:
    """Yield each folder with its files by name, sorted, links to nothing included; links are followed, loops are not.

    Args:
        root: Where to begin; one that does not exist has no folders.
        report: Told what cannot be looked into.
        depth: Folders below `root` that are entered at most.
    """
    seen: set[tuple[int, int]] = set()
    left = MAX_ENTRIES
    waiting = [(str(root), 0)]
    while waiting:
        folder, level = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            report.add(folder, error if isinstance(error, OSError) else str(error))
            continue
        left -= len(entries)
        if left < 0:
            report.add(root, f"more than {MAX_ENTRIES:,} entries: the rest was not looked at")
            return
        files, folders = {}, []
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith("."):
                    folders.append((entry.path, level + 1))
            else:
                files[entry.name] = entry
        if level < depth:
            waiting += reversed(folders)
        yield folder, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def bytes_on_disk(status: os.stat_result) -> int:
    """Return what a file takes on disk: less than its length when it has holes, as an unfinished download has."""
    return min(status.st_size, 512 * getattr(status, "st_blocks", status.st_size))


def is_file(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is an ordinary file, or leads to one."""
    try:
        return entry.is_file()
    except OSError:
        return False
