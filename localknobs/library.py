"""The models on this machine: the built-in one and the GGUF files of the models folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from localknobs.errors import BadFile, LocalknobsError, NotFound
from localknobs.gguf_info import check_is_model, read_header, shard_paths
from localknobs.paths import built_in_model, models_folder

BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the library.

    Args:
        name: What the user types to name it.
        path: Its GGUF file, the first shard when it is split.
        size_bytes: Bytes on disk, of all shards.
        quant: Quantization, such as `Q4_K_M`.
        context: Tokens of context it was trained with, 0 when unknown.
        architecture: llama.cpp's name.
        kind: `model`, `adapter`, `projector`, `imatrix`; `broken` when it cannot be used.
        parameters: Values in the first file.
        trouble: Why it is broken, and what to do.
    """

    name: str
    path: Path
    size_bytes: int
    quant: str = ""
    context: int = 0
    architecture: str = ""
    kind: str = "model"
    parameters: int = 0
    trouble: str = ""


def find_model(name: str) -> Path:
    """Return the file of a model named by `built-in`, a path, or a name in the models folder.

    Raises:
        NotFound: there is none; the hint names the nearest.
        BadFile: it is a folder.
    """
    if name == BUILT_IN:
        return built_in_model()
    given = Path(os.path.expanduser(name))
    folder = models_folder()
    for candidate in (given, folder / name, folder / f"{name}.gguf"):
        if name and _is_file(candidate):
            return candidate
    if name and os.path.isdir(given):
        inside = _files(given)
        raise BadFile(
            f"{name} is a folder, not a GGUF file",
            f"Name the file inside it: {inside[0]}" if inside else "There is no .gguf file inside it.",
        )
    files = {_name(file, folder): file for file in _files(folder)}
    for known, file in files.items():
        if known.lower() == name.lower():
            return file
    names = [BUILT_IN, *files]
    near = get_close_matches(name, names, n=1, cutoff=0.5) or get_close_matches(
        name.lower(), [known for known in names if known.lower() == known], n=1, cutoff=0.5
    )
    hint = f"Did you mean {near[0]}?" if near else "`localknobs ls` lists the models on this machine."
    what = "file" if "/" in name or name.endswith(".gguf") else "model"
    raise NotFound(f"There is no {what} {name or '(empty name)'}", hint)


def installed_models() -> list[ModelEntry]:
    """Return the built-in model and those of the models folder, sorted by name; broken files are listed as such."""
    folder = models_folder()
    found = [_entry(BUILT_IN, built_in_model())] if built_in_model().is_file() else []
    return found + [_entry(_name(file, folder), file) for file in _files(folder)]


def _is_file(path: Path) -> bool:
    # os.path's answers "no" also where a name is too long or a folder is closed to us; pathlib's raises.
    return os.path.isfile(path)


def _files(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder and its folders; of a split model only the first shard."""
    if not os.path.isdir(folder):
        return []
    files = (file for file in folder.rglob("*.gguf") if not file.name.startswith(".") and _is_file(file))
    return sorted(file for file in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", file.name))


def _name(file: Path, folder: Path) -> str:
    name = file.relative_to(folder).with_suffix("").as_posix()
    return file.name if name == BUILT_IN else name  # with its suffix, so that it does not hide behind the shipped one


def _entry(name: str, file: Path) -> ModelEntry:
    try:
        header = read_header(file)
        size = sum(shard.stat().st_size for shard in shard_paths(header) if _is_file(shard))
        if header.kind == "model":
            check_is_model(header)
    except LocalknobsError as error:
        size = os.path.getsize(file) if _is_file(file) else 0
        return ModelEntry(name, file, size, kind="broken", trouble=str(error))
    return ModelEntry(
        name, file, size, header.quant, header.context_trained, header.architecture, header.kind, header.parameters
    )
