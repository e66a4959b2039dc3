"""Where models lie on a machine: one row a program, with its folders, its reader, and how it removes a model.

Only what lies in the own folder is ours; every other folder is read and never written to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from localknobs import preferences
from localknobs.library.entry import Found
from localknobs.library.layouts.folder import read_folder, read_place
from localknobs.library.layouts.hugging_face import read_hugging_face
from localknobs.library.layouts.jan import read_jan
from localknobs.library.layouts.ollama import read_ollama
from localknobs.library.walk import Report
from localknobs.paths import models_folder

OWN = "own"
EXTRA_PLACES = "model_places"
"""Preference: files and folders that the user named, see `localknobs import`."""
SYSTEM_OLLAMA = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models")
"""Where Ollama's Linux service keeps its models."""

Reader = Callable[[Path, str, Report], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Source:
    """A program that keeps models.

    Args:
        key: What is typed to name it: `--source ollama`.
        label: Its name.
        roots: Returns its folders on this machine; they need not exist.
        read: Yields the models of a folder.
        removal: How a model of it is removed, as a sentence.
    """

    key: str
    label: str
    roots: Callable[[], list[Path]]
    read: Reader
    removal: str = ""


def _expanded(text: str) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(text)))


def _first_given(*names: str) -> list[Path]:
    return [_expanded(os.environ[name]) for name in names if os.environ.get(name)]


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable)
    return _expanded(given) if given else _expanded(default)


def _program_data(linux: str, mac: str, windows: str, *, roaming: bool = False) -> Path:
    """Return the data folder of a program by the customs of this system."""
    if sys.platform == "darwin":
        return _expanded("~/Library/Application Support") / mac
    if sys.platform == "win32":
        default = "~/AppData/Roaming" if roaming else "~/AppData/Local"
        return _base("APPDATA" if roaming else "LOCALAPPDATA", default) / windows
    return _base("XDG_DATA_HOME", "~/.local/share") / linux


def _hugging_face() -> list[Path]:
    homes = [folder / "hub" for folder in _first_given("HF_HOME")]
    caches = [_base("XDG_CACHE_HOME", "~/.cache"), _expanded("~/.cache")]
    usual = [cache / "huggingface" / "hub" for cache in caches]
    return [*_first_given("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"), *homes, *usual]


def _llama_cpp() -> list[Path]:
    if sys.platform == "darwin":
        usual = _expanded("~/Library/Caches")
    elif sys.platform == "win32":
        usual = _base("LOCALAPPDATA", "~/AppData/Local")
    else:
        usual = _base("XDG_CACHE_HOME", "~/.cache")
    return [*_first_given("LLAMA_CACHE"), usual / "llama.cpp"]


def _read_llama_cpp(root: Path, source: str, report: Report) -> Iterator[Found]:
    """Read both of its layouts: the hub's under its own root, and flat files."""
    yield from read_hugging_face(root, source, report)
    for found in read_folder(root, source, report):
        if not any(part.startswith("models--") for part in found.files[0].parts):
            yield found


def _lm_studio() -> list[Path]:
    home = _expanded("~/.cache/lm-studio")
    try:
        home = Path(_expanded("~/.lmstudio-home-pointer").read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        home = home if home.is_dir() else _expanded("~/.lmstudio")
    return [*_folder_in_settings(home / "settings.json", "downloadsFolder"), home / "models"]


def _folder_in_settings(file: Path, key: str) -> list[Path]:
    """Return the folder that a program's settings name; none when they do not, or cannot be read."""
    try:
        folder = json.loads(file.read_text(encoding="utf-8"))[key]
        return [Path(folder)] if folder and isinstance(folder, str) else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _ollama() -> list[Path]:
    system = SYSTEM_OLLAMA if sys.platform.startswith("linux") else ()
    return [*_first_given("OLLAMA_MODELS"), _expanded("~/.ollama/models"), *map(Path, system)]


def _jan() -> list[Path]:
    program = _program_data("Jan", "Jan", "Jan", roaming=True)
    settings = [program / "settings.json", _base("XDG_CONFIG_HOME", "~/.config") / "Jan" / "settings.json"]
    moved = [folder for file in settings for folder in _folder_in_settings(file, "data_folder")]
    return [*moved, program / "data"]


def extra_places() -> list[Path]:
    """Return the files and folders that the user named, in the preferences."""
    named = preferences.read().get(EXTRA_PLACES, [])
    return [_expanded(place) for place in named if isinstance(place, str)] if isinstance(named, list) else []


_repositories = partial(read_folder, repositories=True, checkpoints=False)  # its checkpoints are in Apple's MLX form
_OTHERS = "Delete the file yourself."

SOURCES = {
    source.key: source
    for source in (
        Source(OWN, "localknobs", lambda: [models_folder()], read_folder),
        Source(
            "hf", "Hugging Face cache", _hugging_face, read_hugging_face,
            "localknobs pull did not fetch it. Remove it with the cache's own tool: hf cache rm model/ORG/REPO.",
        ),
        Source("llama.cpp", "llama.cpp", _llama_cpp, _read_llama_cpp, _OTHERS),
        Source("lmstudio", "LM Studio", _lm_studio, _repositories, "Remove it in LM Studio, under My Models."),
        Source("ollama", "Ollama", _ollama, read_ollama, "Remove it with: ollama rm NAME."),
        Source("jan", "Jan", _jan, read_jan, "Remove it in Jan, under Settings, Model Providers, Llama.cpp."),
        Source(
            "gpt4all", "GPT4All",
            lambda: [_program_data("nomic.ai/GPT4All", "nomic.ai/GPT4All", "nomic.ai/GPT4All")],
            partial(read_folder, checkpoints=False), "Remove it in GPT4All, under Models.",
        ),
        Source(
            "llmfit", "llmfit", lambda: [_base("LLMFIT_MODELS_DIR", "~/.cache/llmfit/models")], read_folder, _OTHERS
        ),
        Source("home", "~/models", lambda: [_expanded("~/models"), _expanded("~/Models")], read_folder, _OTHERS),
        Source(
            "extra", "your places", extra_places, read_place,
            "It stays where it is; `localknobs import --forget PATH` takes its place off the list.",
        ),
    )
}  # fmt: skip
"""Every program, the own one first: where two have the same file, the first is named."""
