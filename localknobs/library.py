"""The models on this machine: the built-in one and the GGUF files of the models folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from localknobs.errors import LocalknobsError, NotFound
from localknobs.gguf_info import Header, read_header, shard_paths
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
        kind: `model`, `adapter`, `projector`, `imatrix`; `broken` when the file cannot be read.
        parameters: Values in the first file.
        trouble: Why it is broken.
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
    """
    if name == BUILT_IN:
        return built_in_model()
    given = Path(name).expanduser()
    if given.exists():
        return given
    folder = models_folder()
    for candidate in (folder / name, folder / f"{name}.gguf"):
        if candidate.is_file():
            return candidate
    names = [BUILT_IN, *(_name(file, folder) for file in _files(folder))]
    same = [known for known in names if known.lower() == name.lower()]
    if same:
        return find_model(same[0])
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "`localknobs ls` lists the models on this machine."
    what = "file" if "/" in name or name.endswith(".gguf") else "model"
    raise NotFound(f"There is no {what} {name}", hint)


def installed_models() -> list[ModelEntry]:
    """Return the built-in model and those of the models folder, sorted by name; broken files are listed as such."""
    folder = models_folder()
    found = [_entry(BUILT_IN, built_in_model())] if built_in_model().is_file() else []
    return found + [_entry(_name(file, folder), file) for file in _files(folder)]


def _files(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder and its folders; of a split model only the first shard."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.rglob("*.gguf") if not file.name.startswith(".") and file.is_file())
    return sorted(file for file in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", file.name))


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _entry(name: str, file: Path) -> ModelEntry:
    try:
        header = read_header(file)
        size = sum(shard.stat().st_size for shard in shard_paths(header) if shard.is_file())
    except LocalknobsError as error:
        return ModelEntry(name, file, file.stat().st_size if file.exists() else 0, kind="broken", trouble=error.message)
    return _described(name, file, size, header)


def _described(name: str, file: Path, size: int, header: Header) -> ModelEntry:
    return ModelEntry(
        name, file, size, header.quant, header.context_trained, header.architecture, header.kind, header.parameters
    )
