"""Look through every source; fold what is there twice; read the headers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from localknobs.errors import BadValue
from localknobs.library.checkpoints import summarize_checkpoint, weight_files
from localknobs.library.entry import BUILT_IN, Found, ModelEntry
from localknobs.library.sources import OWN, SOURCES
from localknobs.library.summaries import Summaries, Summary
from localknobs.library.walk import Report, bytes_on_disk
from localknobs.paths import built_in_model


@dataclass(frozen=True, slots=True)
class Listing:
    """The models of this machine.

    Args:
        entries: One row a model: the built-in one, then source by source, by name.
        unreadable: Folders that could not be looked into, with the reason.
    """

    entries: tuple[ModelEntry, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()


def list_models(sources: Iterable[str] = ()) -> Listing:
    """Return every model on this machine, each once.

    Args:
        sources: Keys of the sources whose rows are wanted; all when empty.

    Raises:
        BadValue: there is no such source.
    """
    wanted = set(sources)
    if unknown := wanted - set(SOURCES):
        raise BadValue(f"There is no source {sorted(unknown)[0]!r}", f"There are: {', '.join(SOURCES)}.")
    found, report = discover()
    summaries = Summaries()
    entries = [_entry(each, also_at, summaries) for each, also_at in found]
    summaries.keep()
    chosen = tuple(entry for entry in entries if not wanted or entry.source in wanted)
    return Listing(chosen, tuple(report.unreadable))


def installed_models() -> list[ModelEntry]:
    """Return every model on this machine, see `list_models`."""
    return list(list_models().entries)


def entry_of(found: Found, also_at: tuple[Path, ...]) -> ModelEntry:
    """Return the row of one model; what the cache remembers of the others is left as it is."""
    return _entry(found, also_at, Summaries())


def discover() -> tuple[list[tuple[Found, tuple[Path, ...]]], Report]:
    """Return what every source holds without reading a header, each file once, with the places it also lies at."""
    report = Report()
    rows: list[Found] = [Found(BUILT_IN, OWN, (built_in_model(),))] if built_in_model().is_file() else []
    roots: set[tuple[int, int]] = set()
    for source in SOURCES.values():
        of_source: list[Found] = []
        for root in source.roots():
            try:
                status = os.stat(root)
            except FileNotFoundError:
                if source.key != "extra":
                    continue
            except (OSError, ValueError) as error:
                report.add(root, error if isinstance(error, OSError) else str(error))
                continue
            else:
                if (status.st_dev, status.st_ino) in roots:
                    continue
                roots.add((status.st_dev, status.st_ino))
            of_source += source.read(root, source.key, report)
        rows += sorted(map(_not_built_in, of_source), key=lambda each: each.name)
    return _folded(rows), report


def _not_built_in(row: Found) -> Found:
    """Give a file of that name its ending, so that it does not hide behind the shipped model."""
    return replace(row, name=row.files[0].name) if row.name == BUILT_IN else row


def _folded(rows: Iterable[Found]) -> list[tuple[Found, tuple[Path, ...]]]:
    """Fold rows of the same file, by inode, and of the same content, by hash, into the first of them."""
    kept: list[tuple[Found, list[Path]]] = []
    known: dict[object, int] = {}
    for row in rows:
        try:
            status = os.stat(row.files[0])
            marks: list[object] = [(status.st_dev, status.st_ino), *([row.sha256] if row.sha256 else [])]
        except OSError:
            marks = []
        place = next((known[mark] for mark in marks if mark in known), None)
        if place is None:
            place = len(kept)
            kept.append((row, []))
        else:
            first, also_at = kept[place]
            names = tuple(name for name in row.names if name not in first.names)
            projector = first.projector or row.projector
            kept[place] = (
                replace(first, aliases=(*first.aliases, *names), projector=projector),
                [*also_at, row.files[0]],
            )
        for mark in marks:
            known.setdefault(mark, place)
    return [(row, tuple(also_at)) for row, also_at in kept]


def _entry(found: Found, also_at: tuple[Path, ...], summaries: Summaries) -> ModelEntry:
    files = found.files
    if found.state == "unfinished":
        summary = Summary()
    elif found.kind in ("checkpoint", "adapter"):
        summary = summarize_checkpoint(files[0], found.kind, summaries)
        files = weight_files(files[0])
    else:
        each = [summaries.of(file) for file in files if not found.trouble or file.exists()]
        summary = replace(each[0], parameters=sum(one.parameters for one in each)) if each else Summary()
        worse = next((one for one in each[1:] if one.damaged), None)
        if worse and not summary.trouble:
            summary = replace(summary, trouble=worse.trouble, damaged=True)
    shards_missing = summary.shards > len(files) and found.kind == "" and not found.trouble
    if shards_missing and not summary.trouble:
        trouble = f"It is split into {summary.shards} files. Put all of them into one folder, under their own names."
        summary = replace(summary, trouble=trouble, damaged=True)
    projectors = (found.projector,) if found.projector else ()
    return ModelEntry(
        name=found.name, path=found.files[0],
        size_bytes=_size((*files, *projectors), on_disk=found.state == "unfinished"),
        quant=summary.quant, context=summary.context, architecture=summary.architecture, kind=summary.kind,
        parameters=summary.parameters, trouble=found.trouble or summary.trouble, source=found.source,
        state="damaged" if summary.damaged and found.state == "whole" else found.state,
        files=files, projector=found.projector, aliases=found.aliases, also_at=also_at, title=summary.title,
    )  # fmt: skip


def _size(files: Iterable[Path], *, on_disk: bool) -> int:
    total = 0
    for file in files:
        try:
            total += bytes_on_disk(file.stat()) if on_disk else file.stat().st_size
        except OSError:
            continue
    return total
