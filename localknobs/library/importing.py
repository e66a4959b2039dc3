"""Bring files from anywhere into the library: by naming their place, by links, or by a copy that is whole or not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localknobs import preferences
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound
from localknobs.gguf_info import read_header
from localknobs.hardware import check_disk_space
from localknobs.jobs import Advanced, Job, Started, Wrote, passing_folder
from localknobs.library.entry import Found
from localknobs.library.layouts.folder import read_place
from localknobs.library.removal import remove_empty_folders
from localknobs.library.sources import EXTRA_PLACES, extra_places
from localknobs.library.walk import Report
from localknobs.paths import models_folder

How = Literal["place", "link", "hardlink", "copy"]
_PIECE = 8 * 2**20
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import does.

    Args:
        source: The file or folder.
        how: `place` remembers where it is; `link`, `hardlink` and `copy` put it into the models folder.
        files: Each file with the name it gets; none for `place`.
        models: Names of the models in it.
        size_bytes: Bytes of all files.
    """

    source: Path
    how: How
    files: tuple[tuple[Path, Path], ...]
    models: tuple[str, ...]
    size_bytes: int


def plan_import(source: Path, how: How) -> ImportPlan:
    """Look at what would be imported, and check that it can be; nothing is done.

    Args:
        source: A GGUF file (any shard of a split one), or a folder with models in it.
        how: See `ImportPlan`.

    Raises:
        NotFound: there is nothing.
        BadFile: it holds no model, or a damaged one.
        BadValue: it is in the library already, or a name is taken.
        NotEnough: a copy does not fit on the disk.
    """
    source = Path(os.path.abspath(os.path.expanduser(source)))
    if not os.path.exists(source):
        raise NotFound(
            f"There is no file or folder {source}", "Give the path of a .gguf file or of a folder with some."
        )
    if os.path.isfile(source) and not source.name.lower().endswith(".gguf"):
        read_header(source)  # says what else it is
        raise BadFile(f"{source} does not end in .gguf", "Give it that ending first: programs find models by it.")
    rows = [row for row in read_place(source, "extra", Report()) if row.state != "unfinished"]
    if not rows:
        raise BadFile(f"{source} holds no model", "Give a .gguf file, or a folder with some, or with a checkpoint.")
    _check(rows)
    own = models_folder().absolute()
    if source == own or own in source.parents:
        raise BadValue(f"{source} is in the library already", "`localknobs ls` lists it.")
    if how == "place":
        if source in extra_places():
            raise BadValue(f"{source} is in the library already", "`localknobs ls` lists its models.")
        return ImportPlan(source, how, (), tuple(row.name for row in rows), 0)
    files = tuple(_targets(source, rows, own))
    size = sum(file.stat().st_size for file, _ in files)
    for _, target in files:
        if os.path.lexists(target):
            raise BadValue(f"{target} exists already", "Remove or rename it first; nothing is overwritten.")
    if how == "copy":
        check_disk_space(own, size, source.name)
    return ImportPlan(source, how, files, tuple(row.name for row in rows), size)


def import_models(plan: ImportPlan) -> Job[tuple[Path, ...]]:
    """Do what the plan says; all of it, or nothing.

    Returns:
        The files that are new in the models folder; none for a place.

    Raises:
        NotEnough: the disk is full after all.
        LocalknobsError: a link cannot be made there, or a copy is not what was copied.
    """
    if plan.how == "place":
        preferences.write(**{EXTRA_PLACES: [*_remembered(), str(plan.source)]})
        return ()
    yield Started({"copy": "copying", "link": "linking", "hardlink": "linking"}[plan.how], plan.size_bytes, "bytes")
    made: list[Path] = []
    own = models_folder()
    own.mkdir(parents=True, exist_ok=True)
    try:
        with passing_folder(own / plan.source.name) as staged:
            for number, (file, _) in enumerate(plan.files):
                yield from _bring(file, staged / str(number), plan.how)
            for number, (_, target) in enumerate(plan.files):
                _publish(staged / str(number), target)
                made.append(target)
    except BaseException:
        for target in made:
            target.unlink(missing_ok=True)
        remove_empty_folders(made)
        raise
    for target in made:
        yield Wrote(target)
    return tuple(made)


def forget_place(place: Path) -> Path:
    """Take a file or folder off the list of places; it stays where it is.

    Raises:
        NotFound: it is not on the list; the hint says what is.
    """
    wanted = os.path.abspath(os.path.expanduser(place))
    kept = [each for each in _remembered() if os.path.abspath(os.path.expanduser(each)) != wanted]
    if len(kept) == len(_remembered()):
        known = ", ".join(map(str, extra_places()))
        raise NotFound(
            f"{wanted} is not on the list of places", f"There are: {known}." if known else "The list is empty."
        )
    preferences.write(**{EXTRA_PLACES: kept})
    return Path(wanted)


def _remembered() -> list[str]:
    named = preferences.read().get(EXTRA_PLACES, [])
    return [place for place in named if isinstance(place, str)] if isinstance(named, list) else []


def _check(rows: list[Found]) -> None:
    for row in rows:
        if row.trouble:
            raise BadFile(f"{row.files[0]} cannot be imported", row.trouble)
        if row.kind == "":
            for file in row.files:
                read_header(file)


def _targets(source: Path, rows: list[Found], own: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each file with its place in the models folder: a file's shards at the top, a folder as a folder."""
    base = source.parent
    seen = set()
    for row in rows:
        if row.kind:  # a checkpoint goes with everything beside its weights
            files = [
                file for file in sorted(row.files[0].iterdir()) if file.is_file() and not file.name.startswith(".")
            ]
        else:
            files = [*row.files, *([row.projector] if row.projector else ())]
        for file in files:
            if file not in seen:
                seen.add(file)
                yield file, own / file.relative_to(base)
    if len(seen) > _MOST_FILES:
        raise BadValue(f"{source} holds {len(seen):,} files", f"Give a folder of at most {_MOST_FILES:,}.")


def _bring(file: Path, staged: Path, how: How) -> Job[None]:
    size = file.stat().st_size
    try:
        if how == "link":
            staged.symlink_to(os.path.realpath(file))
        elif how == "hardlink":
            os.link(os.path.realpath(file), staged)
        else:
            yield from _copy(file, staged)
            return
    except OSError as error:
        hint = "Use --link, or --copy." if how == "hardlink" else "Use --copy."
        raise LocalknobsError(f"A link to {file} cannot be made: {error.strerror or error}", hint) from None
    yield Advanced(size)


def _copy(file: Path, staged: Path) -> Job[None]:
    with file.open("rb") as source, staged.open("xb") as out:
        while piece := source.read(_PIECE):
            out.write(piece)
            yield Advanced(len(piece))
        os.fsync(out.fileno())
    shutil.copystat(file, staged)
    if staged.stat().st_size != file.stat().st_size:
        raise LocalknobsError(f"{file} changed while it was copied", "Try again when nothing writes to it.")


def _publish(staged: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        raise BadValue(f"{target} exists by now", "Remove or rename it first; nothing is overwritten.")
    os.rename(staged, target)
