"""A file of JSON records that only grows: one object a line, written at once, readable after any crash.

A torn last line, the mark of a crash, is skipped when reading and ended before the next record. One
process writes at a time. Knows nothing of what the records mean.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from localknobs.errors import BadFile, LocalknobsError, NotFound


class Journal:
    """A journal; its file appears with its first record.

    Args:
        path: Its file.
        what: What it holds, for messages: `conversation`.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._file: int | None = None
        self._size = 0  # bytes it had when last seen by this object: a change since then is another's

    def read(self) -> list[dict[str, Any]]:
        """Return all records, leaving out torn and damaged lines.

        Raises:
            NotFound: there is no such file.
            BadFile: it cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"There is no {self.what} {self.path}", "It may have been deleted.") from None
        except OSError as error:
            raise BadFile(f"{self.path} cannot be read: {error.strerror}", "Check its permissions.") from None
        self._size = len(data)
        return list(_records(data))

    def append(self, records: Sequence[Mapping[str, Any]], first: Mapping[str, Any] | None = None) -> None:
        """Write records, all or none of them; they have reached the file when this returns.

        Args:
            records: What to write.
            first: Record to write before them when the file is new.

        Raises:
            LocalknobsError: another process has it open or has written to it, it was deleted, or the disk refuses.
        """
        try:
            if self._file is None:
                self._file = self._opened()
            now = os.fstat(self._file)
            if now.st_nlink == 0:
                raise self._deleted()
            lines = records if first is None or now.st_size else [first, *records]
            self._write(self._file, now.st_size, b"".join(_line(one) for one in lines))
        except OSError as error:
            raise LocalknobsError(
                f"The {self.what} cannot be saved: {error.strerror}", f"Free some space, or check {self.path.parent}."
            ) from None

    def sync(self) -> None:
        """Wait until all records have reached the disk, so that they survive a power cut."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file and let others write; a later record opens it again."""
        if self._file is not None:
            self._size = os.fstat(self._file).st_size
            os.close(self._file)
            self._file = None

    def delete(self) -> None:
        """Delete the file; one that is gone already is no error.

        Raises:
            LocalknobsError: it is open in another window, or in this one and not closed; or the disk refuses.
        """
        file = None
        try:
            if os.name == "posix":  # Windows keeps a file that is open by itself
                # Who may not write to it cannot have it open for that either: then there is no lock to ask for.
                with contextlib.suppress(PermissionError):
                    file = os.open(self.path, os.O_RDWR)
                    self._lock(file, "Close it there first.")
            self.path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise LocalknobsError(
                f"{self.path} cannot be deleted: {error.strerror}", "Check its permissions."
            ) from None
        finally:
            if file is not None:
                os.close(file)

    def _deleted(self) -> LocalknobsError:
        return LocalknobsError(f"The {self.what} was deleted meanwhile", "Begin a new one.")

    def _opened(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        create = 0 if self._size else os.O_CREAT
        try:
            # Private: what is written here is nobody else's business on a shared machine.
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | create, 0o600)
        except FileNotFoundError:
            raise self._deleted() from None
        try:
            self._lock(file, "Close it there, or begin a new one.")
            if os.fstat(file).st_size != self._size:
                raise LocalknobsError(f"The {self.what} was changed in another window", "Open it again.")
            if self._size and os.pread(file, 1, self._size - 1) != b"\n":
                os.write(file, b"\n")
        except BaseException:
            os.close(file)
            raise
        return file

    def _lock(self, file: int, hint: str) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalknobsError(f"This {self.what} is open in another window", hint) from None
        except OSError:
            pass  # a file system without locks

    def _write(self, file: int, start: int, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(file, data[written:])
        except BaseException:
            # A full disk takes a part of a line, and Ctrl+C may leave one: the next record would be lost with it.
            with contextlib.suppress(OSError):
                os.ftruncate(file, start)
            raise


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _records(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        if line:
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line.decode("utf-8", "surrogatepass"))
                if isinstance(record, dict):
                    yield record
