"""Write a GGUF file with other keys and the same tensors: a clone where the file system can share blocks."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localknobs.convert.gguf_header import PADDING_KEY, RawKey, header_with_keys, raw_keys, replaced
from localknobs.errors import BadFile, BadValue, LocalknobsError, Unsupported
from localknobs.gguf_info import Header, read_header
from localknobs.hardware import check_disk_space
from localknobs.jobs import Advanced, Job, Started, Wrote, partial_file, refuse_same_file
from localknobs.storing import was_cut_off

BLOCK = 4096
"""What file systems share blocks by."""
PIECE = 8 * 2**20
"""Bytes copied between two events."""
_SAMPLE = 2**16
_FICLONERANGE = 0x4020940D  # linux/fs.h


@dataclass(frozen=True, slots=True)
class KeysWritten:
    """What came of it.

    Args:
        path: The new file.
        cloned: Whether the weights are shared with the source on disk instead of copied.
    """

    path: Path
    cloned: bool


def write_with_keys(
    header: Header, new: Sequence[RawKey], without: Sequence[str], output: Path, *, overwrite: bool = False
) -> Job[KeysWritten]:
    """Write a file whose header differs in some keys; whole or not at all, and proven by reading it back.

    Args:
        header: Of the source.
        new: Keys that are added or take the place of those of the same name.
        without: Names of keys that are left out.
        output: Where to.
        overwrite: Whether an existing file may be replaced.

    Raises:
        BadValue: the output exists, or is the source.
        Unsupported: the model is split into several files.
        NotEnough: the disk has no room for a copy, and cannot clone.
        BadFile: the source changed meanwhile.
    """
    if header.shards > 1:
        raise Unsupported(
            f"{header.path} is split into {header.shards} files", "Join them first: llama-gguf-split --merge."
        )
    refuse_same_file(header.path, output)
    if output.exists() and not overwrite and not was_cut_off(output):
        raise BadValue(f"{output} exists already", "Choose another name with -o; nothing is overwritten.")
    keys = replaced(raw_keys(header), new, (*without, PADDING_KEY))
    head = header_with_keys(header, keys, BLOCK)
    size = header.path.stat().st_size - header.data_start
    yield Started(f"writing {output.name}", size, "bytes")
    with header.path.open("rb") as source, partial_file(output) as beside:
        with beside.open("xb") as target:
            target.write(head)
            cloned = _clone(source, header.data_start, target, len(head), size)
            if cloned:
                yield Advanced(size)
            else:
                check_disk_space(output.parent, size, output.name)
                source.seek(header.data_start)
                while data := source.read(PIECE):
                    target.write(data)
                    yield Advanced(len(data))
        _prove(header, keys, beside)
    yield Wrote(output)
    return KeysWritten(output, cloned)


def _clone(source: BinaryIO, source_start: int, target: BinaryIO, target_start: int, size: int) -> bool:
    """Share the weights' blocks with the source; False where the system or the file system cannot."""
    first = min(size, -source_start % BLOCK)  # up to the first whole block: copied
    if (source_start - target_start) % BLOCK or size == first:
        return False
    try:
        import fcntl  # not on Windows
    except ImportError:
        return False
    source.seek(source_start)
    target.write(source.read(first))
    target.flush()
    request = struct.pack("<qQQQ", source.fileno(), source_start + first, 0, target_start + first)  # 0: to the end
    with contextlib.suppress(OSError):
        fcntl.ioctl(target.fileno(), _FICLONERANGE, request)
        return os.fstat(target.fileno()).st_size == target_start + size
    target.seek(target_start)
    target.truncate()
    return False


def _prove(header: Header, keys: Sequence[RawKey], written: Path) -> None:
    """Read the new file back: every key as wished, every tensor where it was."""
    again = read_header(written)
    wished = {key.name for key in keys} | {PADDING_KEY}
    if set(again.metadata) != wished or [key.data for key in raw_keys(again) if key.name != PADDING_KEY] != [
        key.data for key in keys
    ]:
        raise LocalknobsError("The new file's keys are not those that were written", "Please report this.")
    before, after = header.path.stat().st_size - header.data_start, written.stat().st_size - again.data_start
    if again.tensors != header.tensors or before != after:
        raise BadFile(f"{header.path} has changed while it was read", "Try again when nothing writes to it.")
    with header.path.open("rb") as old, written.open("rb") as new:
        for at in sorted({0, max(0, before // 2 - _SAMPLE), max(0, before - _SAMPLE)}):
            old.seek(header.data_start + at)
            new.seek(again.data_start + at)
            if old.read(_SAMPLE) != new.read(_SAMPLE):
                raise BadFile(f"{header.path} has changed while it was read", "Try again when nothing writes to it.")
