"""How fast this machine reads its memory and its disk: measured once, remembered for this machine.

Writing a token reads every weight once, so the memory's speed is the model's; the disk's is that of loading.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from localknobs.hardware import (
    available_memory_bytes,
    free_disk_bytes,
    physical_cores,
    processor_name,
    total_memory_bytes,
)
from localknobs.paths import cache_folder, written_whole

_BLOCK = 64 * 2**20
"""Bytes each thread reads: beyond any cache."""
_ROUNDS = 4
_DISK_BLOCK, _DISK_BYTES = 4 * 2**20, 64 * 2**20


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Measured speeds, bytes a second; 0 where one could not be measured.

    Args:
        memory: Reading, by all physical cores at once.
        disk: Reading a file that is not in memory, where the cache folder lies.
    """

    memory: float
    disk: float


def bandwidth(again: bool = False) -> Bandwidth:
    """Return this machine's speeds; the first time, or when asked again, they are measured, in a second or two."""
    known = _remembered()
    if not again and _machine() in known:
        return known[_machine()]
    measured = Bandwidth(measure_memory(), measure_disk())
    known[_machine()] = measured
    with contextlib.suppress(OSError), written_whole(_file()) as beside:
        beside.write_text(json.dumps({key: asdict(value) for key, value in known.items()}), encoding="utf-8")
    return measured


def measure_memory() -> float:
    """Return the bytes a second that all physical cores together read from memory; 0 when there is too little free."""
    threads = physical_cores()
    free = available_memory_bytes()
    while threads > 1 and free and threads * _BLOCK > free // 4:
        threads //= 2
    if free and _BLOCK > free // 2:
        return 0.0
    # memchr looks for a byte that is not there: it only reads, as fast as the core can, and without Python's lock.
    search = ctypes.CDLL(None).memchr
    search.restype, search.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    blocks = [bytearray(_BLOCK) for _ in range(threads)]
    for block in blocks:
        block[::4096] = b"\1" * (_BLOCK // 4096)  # else all pages are the one page of zeros
    views = [(ctypes.c_char * _BLOCK).from_buffer(block) for block in blocks]

    def read(view: ctypes.Array[ctypes.c_char]) -> None:
        search(ctypes.addressof(view), 2, _BLOCK)

    with ThreadPoolExecutor(threads) as pool:
        best = float("inf")
        for _ in range(_ROUNDS):
            began = perf_counter()
            list(pool.map(read, views))
            best = min(best, perf_counter() - began)
    return threads * _BLOCK / best


def measure_disk() -> float:
    """Return the bytes a second that are read from disk, from a file written for it; 0 where that is not possible."""
    folder = cache_folder()
    if free_disk_bytes(folder) < 4 * _DISK_BYTES:
        return 0.0
    file = folder / f".disk-speed.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _read_back(file)
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def _read_back(file: Path) -> float:
    with file.open("wb") as handle:
        for _ in range(_DISK_BYTES // _DISK_BLOCK):
            handle.write(os.urandom(_DISK_BLOCK))  # some file systems keep zeros for free
        handle.flush()
        os.fsync(handle.fileno())
    with file.open("rb", buffering=0) as handle:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:  # macOS
            import fcntl

            fcntl.fcntl(handle.fileno(), getattr(fcntl, "F_NOCACHE", 48), 1)
        began = perf_counter()
        while handle.read(_DISK_BLOCK):
            pass
        return _DISK_BYTES / (perf_counter() - began)


def _machine() -> str:
    """Return a key of this machine: its cores, its memory, its name."""
    what = f"{platform.node()} {processor_name()} {physical_cores()} {total_memory_bytes() >> 28}"
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _file() -> Path:
    return cache_folder() / "bandwidth.json"


def _remembered() -> dict[str, Bandwidth]:
    return dict(_read())


def _read() -> Iterator[tuple[str, Bandwidth]]:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        for key, value in json.loads(_file().read_text(encoding="utf-8")).items():
            yield str(key), Bandwidth(float(value["memory"]), float(value["disk"]))
