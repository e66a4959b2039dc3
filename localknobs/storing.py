"""Files that get their name before the disk has their bytes, as those of `cp` do; stored by a process left behind.

To wait for the disk can take longer than all the work. Should the machine stop before it is done, such a file has
holes, or an end that is missing. So a record lies beside it until it is stored: `.NAME.unstored`, which is on the disk
before the name is given, and holds the number of the machine's run and that of the file. One of an earlier run makes
its file suspect.
Linux only: elsewhere nobody tells one run of the machine from the next, and the disk is waited for.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

PARTIAL = ".partial"
"""How the names of files and folders end that are not complete yet."""
RECORD = ".unstored"
WAITED_BYTES = 64 << 20
"""Up to this size a file is waited for: that is shorter than a blink on any disk."""
_FAILED = "failed"
_RUN_FILE = Path("/proc/sys/kernel/random/boot_id")
WAIT_S = 1.0
"""Until a file is begun to be stored: small files that follow, such as its card, would wait behind it for seconds."""
_STORE = f"""
import os, sys, time
time.sleep({WAIT_S})
try:
    os.fsync(int(sys.argv[1]))
except OSError:
    with open(sys.argv[2], "w") as record:
        record.write(f"{_FAILED} {{os.fstat(int(sys.argv[1])).st_ino}}")
else:
    os.unlink(sys.argv[2])
"""


def record_of(file: Path) -> Path:
    """Return where the record of a file is, or would be."""
    return file.with_name(f".{file.name}{RECORD}")


def present_run() -> str:
    """Return the number of this run of the machine, empty where it has none (random(4), boot_id)."""
    try:
        return _RUN_FILE.read_text().strip()
    except OSError:
        return ""


def name_and_store(beside: Path, target: Path) -> None:
    """Give a file its name, and have it stored.

    A large file gets a new name at once, and a process stores it while this one goes on or ends. A name that another
    file has is given when this one is stored: or both could be lost. So is one in a folder whose own name comes later.

    Args:
        beside: The complete file, in the folder of its name.
        target: The name.

    Raises:
        OSError: the disk refuses; a file under that name is still the old one.
    """
    waits = target.exists() or target.parent.suffix == PARTIAL or beside.stat().st_size <= WAITED_BYTES
    record = record_of(target)
    if waits or not (run := present_run()):
        with open(beside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(beside, target)
        record.unlink(missing_ok=True)  # of one that had this name
        return
    with open(beside, "rb+") as handle:
        try:
            with open(record, "w") as note:
                note.write(f"{run} {os.fstat(handle.fileno()).st_ino}")
                note.flush()
                os.fsync(note.fileno())
            os.replace(beside, target)
        except BaseException:
            record.unlink(missing_ok=True)
            raise
        _store_behind(handle.fileno(), record)


def _store_behind(descriptor: int, record: Path) -> None:
    """Leave a process behind that stores an open file and then removes its record; without one, wait."""
    try:
        child = subprocess.Popen(
            (sys.executable, "-I", "-S", "-c", _STORE, str(descriptor), str(record.absolute())),
            pass_fds=(descriptor,), start_new_session=True, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        os.fsync(descriptor)
        record.unlink(missing_ok=True)
        return
    threading.Thread(target=child.wait, daemon=True).start()  # so that it is no zombie of a program that stays open


def was_cut_off(file: Path) -> bool:
    """Return whether a file was never stored whole: the machine stopped too early, or the disk refused.

    A record that turns out to be needless, or to have lost its file, is removed.
    """
    record = record_of(file)
    try:
        run, _, number = record.read_text().strip().partition(" ")
    except OSError:
        return False
    try:
        same = str(file.stat().st_ino) == number
    except OSError:
        same = run == present_run()  # its name is about to be given
    if same and run == present_run():
        return False
    if same and (run == _FAILED or _has_holes(file)):
        return True
    with contextlib.suppress(OSError):
        record.unlink()
    return False


def cut_off_files(folder: Path) -> list[Path]:
    """Return the files of a folder that `was_cut_off` is true of, each with its record."""
    records = folder.glob(f".*{RECORD}")
    files = ((record.with_name(record.name[1 : -len(RECORD)]), record) for record in records)
    return [path for file, record in files if was_cut_off(file) for path in (file, record)]


def _has_holes(file: Path) -> bool:
    """Whether a part of a file was never written: its place was reserved, or its end put further, and no more."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            return size == 0 or os.lseek(handle.fileno(), 0, os.SEEK_HOLE) < size
    except (OSError, AttributeError):  # a system that does not know
        return False
