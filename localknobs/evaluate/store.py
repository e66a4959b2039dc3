"""What was measured, kept record by record, so that a stopped run goes on where it was.

One journal holds one measurement of one model: its name is a digest of everything that shapes the numbers (weights
by size and time, settings, text, parent, version of llama.cpp). Journals lie in the cache: they can be made again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.errors import LocalknobsError, NotFound
from localknobs.journal import Journal
from localknobs.paths import cache_folder

MOST_FILES = 400
"""Journals that are kept; the oldest go first."""
MOST_KEPT = 4
"""Files of kept log-probabilities: a text of a million tokens makes one of 1.5 GB."""


def evaluations_folder() -> Path:
    """Return where journals and kept log-probabilities lie."""
    return cache_folder() / "evaluations"


def digest(what: Mapping[str, Any]) -> str:
    """Return a short name of what shapes a measurement."""
    plain = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:20]


def file_mark(path: Path) -> str:
    """Return what tells a weights file from another: reading gigabytes for a digest would be slow."""
    status = os.stat(path)
    return f"{path.name}|{status.st_size}|{status.st_mtime_ns}"


def pack(values: npt.NDArray[Any]) -> str:
    """Return numbers as text for a JSON line, to the last bit."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def unpack(text: str, kind: Any = np.float64) -> npt.NDArray[Any]:
    """Return the numbers of a packed text."""
    return np.frombuffer(base64.b64decode(text), kind)


class Records:
    """The records of one measurement, by the unit of work each belongs to.

    Args:
        what: Everything that shapes the numbers.
        unit: The key of a record that names its unit, such as `chunk`.
        restart: Forget what is there.
    """

    def __init__(self, what: Mapping[str, Any], unit: str, *, restart: bool = False) -> None:
        self._unit = unit
        self._what = dict(what)
        self._journal = Journal(evaluations_folder() / f"{digest(what)}.jsonl", "measurement")
        self.found: dict[Any, dict[str, Any]] = {}
        if restart:
            self._journal.delete()
            return
        with contextlib.suppress(NotFound):
            for record in self._journal.read():
                if unit in record:
                    self.found[record[unit]] = record
        with contextlib.suppress(OSError):
            os.utime(self._journal.path)

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record; it has reached the file when this returns."""
        self.found[record[self._unit]] = record
        self._journal.append([record], first={"what": {key: str(value) for key, value in self._what.items()}})

    def forget(self) -> None:
        """Throw away what was measured."""
        self._journal.close()
        self._journal.delete()
        self._journal = Journal(self._journal.path, "measurement")
        self.found = {}

    def close(self) -> None:
        """Let others write."""
        self._journal.close()


class RecordsOfModels:
    """The records of several models; those of the same measurement, such as a parent named twice, are opened once.

    Args:
        unit: As of `Records`.
        restart: Forget what is there.
    """

    def __init__(self, unit: str, *, restart: bool = False) -> None:
        self._unit, self._restart = unit, restart
        self._opened: dict[str, Records] = {}

    def open(self, what: Mapping[str, Any]) -> Records:
        """Return the records of one measurement."""
        name = digest(what)
        if name not in self._opened:
            self._opened[name] = Records(what, self._unit, restart=self._restart)
        return self._opened[name]

    def close(self) -> None:
        """Let others write."""
        for records in self._opened.values():
            records.close()


def remove_oldest() -> None:
    """Keep the folder from growing without end."""
    with contextlib.suppress(OSError, LocalknobsError):
        for ending, most in (("jsonl", MOST_FILES), ("kept", MOST_KEPT)):
            files = sorted(evaluations_folder().glob(f"*.{ending}"), key=lambda file: file.stat().st_mtime)
            for file in files[: max(0, len(files) - most)]:
                file.unlink(missing_ok=True)
