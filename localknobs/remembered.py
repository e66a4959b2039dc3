"""Small files of JSON lines, one record a line: of each case the newest is remembered.

A line that is broken or from another version is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from localknobs.paths import written_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def read_records(file: Path, made: Callable[[Any], Record | None]) -> list[Record]:
    """Return the records of a file, the oldest first; none when there is none or it cannot be read.

    Args:
        file: Where they are.
        made: Makes a record of what a line says. Where it is none, None, or any error of wrong data.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    return [record for line in lines if (record := _made(line, made)) is not None]


def _made(line: str, made: Callable[[Any], Record | None]) -> Record | None:
    try:
        return made(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def keep_newest(file: Path, records: Iterable[Record], case: Callable[[Record], Hashable], most: int) -> None:
    """Write records, each in place of those of its case before it.

    Args:
        file: Where to.
        records: The oldest first.
        case: Tells what a record is of.
        most: Records that are kept; the oldest go first.

    Raises:
        OSError: the file cannot be written.
    """
    newest: dict[Hashable, Record] = {}
    for record in records:
        newest.pop(case(record), None)  # the newest stand last
        newest[case(record)] = record
    with written_whole(file) as beside:
        kept = list(newest.values())[-most:]
        beside.write_text("".join(json.dumps(asdict(record)) + "\n" for record in kept), encoding="utf-8")
