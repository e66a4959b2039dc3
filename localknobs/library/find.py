"""The model that a name means: a path, a library name, `org/repo:QUANT`, `name:tag`, a file's name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound
from localknobs.library.entry import BUILT_IN, Found, ModelEntry
from localknobs.library.names import DEFAULT_QUANT, quant_in, without_suffix
from localknobs.library.scan import discover, entry_of
from localknobs.paths import built_in_model, models_folder

_HUB_ADDRESS = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/")
_MOST_CHOICES = 12


def find_model(name: str) -> Path:
    """Return the GGUF file of a model.

    Args:
        name: `built-in`, a path, or a name as `localknobs ls` shows it; of a repository with several quantizations,
            `org/repo` alone means Q4_K_M.

    Raises:
        NotFound: there is none; the hint names the nearest.
        BadValue: it means several; the hint lists them.
        BadFile: it is a folder, a checkpoint, or not finished.
    """
    if name == BUILT_IN:
        return built_in_model()
    given = Path(os.path.expanduser(name))
    folder = models_folder()
    for candidate in (given, folder / name, folder / f"{name}.gguf"):
        if name and os.path.isfile(candidate):
            return candidate
    if name and os.path.isdir(given):
        raise _is_folder(name, given)
    found, _ = _matching(name)
    if found.kind in ("checkpoint", "adapter"):
        raise BadFile(
            f"{name} is a checkpoint, not a GGUF file",
            f"Make one of it first: localknobs quantize {found.files[0]} Q4_K_M",
        )
    if found.state != "whole":
        raise BadFile(f"{name} cannot be used", found.trouble)
    return found.files[0]


def find_entry(name: str) -> ModelEntry:
    """Return the row of a model of the library, damaged and unfinished ones and checkpoints too.

    Args:
        name: As for `find_model`; a path must be one of a file in the library.

    Raises:
        NotFound: there is none; the hint names the nearest.
        BadValue: it means several; the hint lists them.
    """
    return entry_of(*_matching(name))


def find_checkpoint(name: str) -> Path | None:
    """Return the folder of a checkpoint.

    Args:
        name: A folder, or a name as `localknobs ls` shows it, such as `org/repo`.

    Returns:
        The folder; None when the name means something else, or nothing.
    """
    given = Path(os.path.expanduser(name))
    if not name or os.path.lexists(given):
        return given if name and os.path.isdir(given) else None
    try:
        found, _ = _matching(name)
    except LocalknobsError:
        return None
    return found.files[0] if found.kind in ("checkpoint", "adapter") else None


def _is_folder(name: str, folder: Path) -> BadFile:
    if any(os.path.isfile(folder / each) for each in ("config.json", "adapter_config.json")):
        hint = f"It is a checkpoint. Make a GGUF of it first: localknobs quantize {name} Q4_K_M"
        return BadFile(f"{name} is a folder, not a GGUF file", hint)
    try:
        inside = sorted(file for file in folder.rglob("*.gguf") if file.is_file())
    except OSError:
        inside = []
    hint = f"Name the file inside it: {inside[0]}" if inside else "There is no .gguf file inside it."
    return BadFile(f"{name} is a folder, not a GGUF file", hint)


def _matching(name: str) -> tuple[Found, tuple[Path, ...]]:
    """Return the one row that a name means, and the other places of its content."""
    everything = discover()[0]
    rows = [row for row, _ in everything]
    place = os.path.abspath(os.path.expanduser(name)) if name else ""
    for row, copies in everything:
        if place and any(str(copy) == place for copy in copies):
            return row, copies
    spec = re.sub("@(?=[^@/]+$)", ":", _HUB_ADDRESS.sub("", name))
    low = spec.lower()
    ways: tuple[Callable[[Found], bool], ...] = (
        lambda row: any(str(file) == place for file in row.files),
        lambda row: name in row.names or spec in row.names,
        lambda row: low in (each.lower() for each in row.names),
        lambda row: (
            low in (each for file in row.files for each in (file.name.lower(), without_suffix(file.name).lower()))
        ),
        lambda row: row.name.lower().startswith((f"{low}:", f"{low}/")) and _is_repository(low),
        lambda row: _quant_matches(row, low),
        lambda row: low in (each.lower().rpartition("/")[2] for each in row.names),
        lambda row: row.name.lower().rpartition("/")[2].startswith(f"{low}:"),
    )
    for way in ways:
        if name and (hits := [row for row in rows if way(row)]):
            chosen = _the_only(name, hits)
            return next(pair for pair in everything if pair[0] is chosen)
    raise _nowhere(name, rows)


def _is_repository(text: str) -> bool:
    return text.count("/") == 1 or ":" not in text


def _quant_matches(row: Found, spec: str) -> bool:
    """Say whether a row is the quantization of the repository that was named."""
    repository, _, quant = spec.rpartition(":")
    own = next((each for each in row.names if each.lower().startswith(repository + "/")), "")
    return bool(repository and own) and quant_in(own).lower() == quant


def _the_only(name: str, hits: Sequence[Found]) -> Found:
    whole = [row for row in hits if row.state == "whole"] or list(hits)
    files = [row for row in whole if row.kind == ""] or whole
    if len(files) > 1 and ":" not in name:
        usual = [row for row in files if quant_in(row.name) == DEFAULT_QUANT]
        files = usual if len(usual) == 1 else files
    if len(files) == 1:
        return files[0]
    names = [row.name for row in files]
    choices = [each if names.count(each) == 1 else str(row.files[0]) for each, row in zip(names, files, strict=True)]
    more = f" and {len(choices) - _MOST_CHOICES} more" if len(choices) > _MOST_CHOICES else ""
    raise BadValue(f"{name} means {len(choices)} models", f"Name one: {', '.join(choices[:_MOST_CHOICES])}{more}.")


def _nowhere(name: str, rows: Sequence[Found]) -> NotFound:
    names = [each for row in rows for each in row.names]
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if not near:
        lowered = {each.lower(): each for each in names}
        near = [lowered[each] for each in get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)]
    hint = f"Did you mean {near[0]}?" if near else "`localknobs ls` lists the models on this machine."
    what = "file" if "/" in name or name.endswith(".gguf") else "model"
    return NotFound(f"There is no {what} {name or '(empty name)'}", hint)
