"""Reports that were made on this machine: each kept as one JSON file, listed, read again, deleted.

Any file that `eval --json` or `eval -o report.json` wrote can be read too.
"""

from __future__ import annotations

import contextlib
import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound
from localknobs.evaluate.results import Report
from localknobs.paths import data_folder, user_path, written_whole

LAST = "last"
"""Names the newest report."""
_LARGEST = 64 * 2**20


@dataclass(frozen=True, slots=True)
class KeptReport:
    """A report in the list.

    Args:
        name: What it is called on the command line.
        path: Its file.
        report: What was measured.
    """

    name: str
    path: Path
    report: Report

    @property
    def title(self) -> str:
        """The models, and their parent."""
        models = [model.label for model in self.report.models if model.label != self.report.base]
        against = f" against {self.report.base}" if self.report.base else ""
        return ", ".join(models or [self.report.base]) + against


def reports_folder() -> Path:
    """Return where reports are kept."""
    return data_folder() / "reports"


def keep_report(report: Report) -> str:
    """Keep a report; return its name.

    Raises:
        LocalknobsError: the disk refuses.
    """
    day = report.made[:19].replace(":", "").replace("T", "-")
    folder = reports_folder()
    data = json.dumps(report.as_mapping(), ensure_ascii=False, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = next(name for name in _names(day) if not (folder / f"{name}.json").exists())
        with written_whole(folder / f"{name}.json") as beside:
            beside.write_text(data, encoding="utf-8")
    except OSError as error:
        raise LocalknobsError(
            f"The report cannot be kept in {folder}: {error.strerror}", "It was printed all the same."
        ) from None
    return name


def _names(day: str) -> Iterator[str]:
    yield day
    yield from (f"{day}-{number}" for number in range(2, 10_000))


def kept_reports() -> list[KeptReport]:
    """Return every report that is kept and can be read, the newest first."""
    return list(_readable())


def _readable(beginning: str = "") -> Iterator[KeptReport]:
    """Yield the reports whose names begin so, the newest first; each is read when it is asked for."""
    files = (file for file in reports_folder().glob("*.json") if file.stem.startswith(beginning))
    for file in sorted(files, key=lambda file: (file.stem[:17], len(file.stem), file.stem), reverse=True):
        with contextlib.suppress(LocalknobsError):
            yield KeptReport(file.stem, file, read_report_file(file))


def find_report(name: str) -> KeptReport:
    """Return a report by its name, `last`, the beginning of a name, or a file.

    Raises:
        NotFound, BadValue: there is none, or several begin so.
        BadFile: the file is no report.
    """
    if name.lower().endswith(".json"):
        file = user_path(name)
        if not file.is_file():
            raise NotFound(f"There is no file {file}", "`localknobs reports` lists what is kept.")
        return KeptReport(file.stem, file, read_report_file(file))
    exact = reports_folder() / f"{name}.json"
    if name and exact.parent == reports_folder() and exact.is_file():
        return KeptReport(name, exact, read_report_file(exact))
    # Only what may be meant is read: there can be thousands.
    found = list(islice(_readable(), 1) if name == LAST else _readable(name) if name else ())
    if not found:
        hint = "`localknobs reports` lists them." if any(_readable()) else "`localknobs eval` makes the first."
        raise NotFound(f"There is no report {name!r}", hint)
    if len(found) > 1:
        raise BadValue(f"{name!r} means several reports", f"Name one of: {', '.join(one.name for one in found[:8])}.")
    return found[0]


def delete_report(kept: KeptReport) -> None:
    """Delete a kept report; one that is gone already is no error.

    Raises:
        LocalknobsError: the disk refuses, or the file is not one of ours.
    """
    if kept.path.parent != reports_folder():
        raise LocalknobsError(f"{kept.path} is not among the kept reports", "Delete the file yourself.")
    try:
        kept.path.unlink(missing_ok=True)
    except OSError as error:
        raise LocalknobsError(f"{kept.path} cannot be deleted: {error.strerror}", "Check its permissions.") from None


def read_report_file(file: Path) -> Report:
    """Return the report in a JSON file.

    Raises:
        BadFile: it cannot be read, or is no report.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        return report_of(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadFile(f"{file} cannot be read: {error.strerror}", "Check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{file} is no report of localknobs eval ({error})", "Measure again.") from None


def report_of(data: Any) -> Report:
    """Return the report that `Report.as_mapping` made plain data of; null where a number is wanted is no number.

    Raises:
        ValueError: it is something else; the message says where.
    """
    made: Report = _made(Report, data, "report")
    if not made.models:
        raise ValueError("it has no models")
    return made


def _made(kind: Any, data: Any, place: str) -> Any:
    """Return data as a value of a type: a frozen record, a tuple, something that may be missing, or a plain value."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        kinds = [one for one in inner if one is not types.NoneType]
        return None if data is None else _made(kinds[0], data, place)
    if is_dataclass(kind):
        return _record(kind, data, place)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{place} is no list")
        kinds = [inner[0]] * len(data) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(data):
            raise ValueError(f"{place} has {len(data)} parts")
        return tuple(_made(one, value, place) for one, value in zip(kinds, data, strict=True))
    if kind is float:
        data = math.nan if data is None else data
        kind = float | int
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ValueError(f"{place} is {data!r}")
    return data


def _record(kind: Any, data: Any, place: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{place} is no object")
    hints = _hints(kind)
    values = {
        field.name: _made(hints[field.name], data[field.name], f"{place}.{field.name}")
        for field in fields(kind)
        if field.name in data
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{place}: {error}") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
