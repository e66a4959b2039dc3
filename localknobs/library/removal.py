"""Remove a model: a plan that says what and how much, then the act.

Only what lies in the own folder is removed, and what this program itself fetched into the Hugging Face cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localknobs.errors import BadValue, LocalknobsError
from localknobs.jobs import remove_file_or_folder
from localknobs.ledger import card_path
from localknobs.library.entry import BUILT_IN, ModelEntry
from localknobs.library.fetched import forget_fetched, removable_files, tidy_repository
from localknobs.library.scan import discover
from localknobs.library.sources import OWN, SOURCES
from localknobs.paths import models_folder


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """What removing a model does.

    Args:
        name: The model.
        paths: Files, links and folders that go: all shards, and a projector that no other model uses.
        freed_bytes: Bytes the disk gets back.
        remarks: What stays, and why, as sentences.
        fetched: Of the paths, the files that this program fetched from the hub.
    """

    name: str
    paths: tuple[Path, ...]
    freed_bytes: int
    remarks: tuple[str, ...] = ()
    fetched: tuple[Path, ...] = ()


def plan_removal(entry: ModelEntry) -> RemovalPlan:
    """Say what removing a model would do; nothing is done.

    Raises:
        BadValue: it is the built-in model, or another program's; the hint says how it is removed there.
    """
    if entry.name == BUILT_IN:
        raise BadValue("The built-in model belongs to the program", "It goes with it: pip uninstall localknobs.")
    if entry.source == "hf" and (plan := _plan_fetched(entry)):
        return plan
    if entry.source != OWN:
        source = SOURCES[entry.source]
        raise BadValue(
            f"{entry.name} lies outside the models folder ({source.label}: {entry.path})",
            source.removal.replace("NAME", entry.name),
        )
    folder = os.path.abspath(models_folder())
    paths = [entry.path] if os.path.isdir(entry.path) else list(entry.files or (entry.path,))
    if entry.projector and not _used_by_others(entry):
        paths.append(entry.projector)
    paths += [card for card in map(card_path, paths) if card.is_file() and card.parent not in paths]
    outside = [path for path in paths if not os.path.abspath(path).startswith(folder + os.sep)]
    if outside:
        raise BadValue(f"{outside[0]} does not lie in {folder}", "Only what lies there is removed.")
    linked = _linked_folder(paths[0], folder)
    if linked:
        raise BadValue(
            f"{entry.path} lies behind the link {linked}, so it is not ours", "Remove the link, or the file, yourself."
        )
    return RemovalPlan(entry.name, tuple(paths), sum(map(_freed, paths)), tuple(_remarks(entry, paths)))


def remove(plan: RemovalPlan) -> None:
    """Do what the plan says, and remove the folders that are empty then.

    Raises:
        LocalknobsError: a file cannot be removed; those before it are gone.
    """
    for path in plan.paths:
        try:
            remove_file_or_folder(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LocalknobsError(
                f"{path} cannot be removed: {error.strerror or error}", "Check its folder's permissions."
            ) from None
    remove_empty_folders(plan.paths)
    if plan.fetched:
        forget_fetched(plan.fetched)
        tidy_repository(plan.paths[0])


def _plan_fetched(entry: ModelEntry) -> RemovalPlan | None:
    """Return the plan for what this program fetched into the Hugging Face cache; None when it did not."""
    beside: list[Path] = []
    if entry.kind == "checkpoint":
        beside = [file for file in entry.path.rglob("*") if file not in entry.files and file.suffix != ".gguf"]
    elif entry.projector and not _used_by_others(entry):
        beside = [entry.projector]
    links, blobs = removable_files(entry.files, beside)
    if not links:
        return None
    shared = len({os.path.realpath(link) for link in links}) - len(blobs)
    remarks = [f"The same content stays at {place}." for place in entry.also_at]
    if shared:
        remarks.append("Another snapshot refers to the same content, which stays.")
    return RemovalPlan(entry.name, (*links, *blobs), sum(map(_freed, blobs)), tuple(remarks), tuple(blobs))


def remove_empty_folders(paths: Iterable[Path]) -> None:
    """Remove the folders of the models folder that held these paths, where they are empty now."""
    top = os.path.abspath(models_folder())
    for path in paths:
        folder = os.path.dirname(os.path.abspath(path))
        while folder.startswith(top + os.sep):
            try:
                os.rmdir(folder)
            except OSError:  # not empty
                break
            folder = os.path.dirname(folder)


def _used_by_others(entry: ModelEntry) -> bool:
    return any(row.projector == entry.projector and row.files[0] != entry.path for row, _ in discover()[0])


def _linked_folder(path: Path, top: str) -> Path | None:
    """Return the link between the own folder and a file through which one comes to others' files, if there is one."""
    for folder in path.parents:
        if os.path.abspath(folder) == top:
            return None
        if folder.is_symlink():
            return folder
    return None


def _freed(path: Path) -> int:
    """Return the bytes that go with a path: none for a link, or for content that has another name."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_freed(each) for each in path.rglob("*") if each.is_symlink() or each.is_file())
        status = path.lstat()
        return 0 if path.is_symlink() or status.st_nlink > 1 else status.st_size
    except OSError:
        return 0


def _remarks(entry: ModelEntry, paths: list[Path]) -> list[str]:
    remarks = []
    links = [path for path in paths if path.is_symlink()]
    if links:
        remarks.append(f"Only the link goes; {os.path.realpath(links[0])} stays.")
    elif any(path.is_file() and path.lstat().st_nlink > 1 for path in paths):
        remarks.append("The content has another name elsewhere, and stays there.")
    remarks += [f"The same content stays at {place}." for place in entry.also_at if place not in paths and not links]
    if entry.projector and entry.projector not in paths:
        remarks.append(f"{entry.projector.name} stays: other models use it.")
    return remarks
