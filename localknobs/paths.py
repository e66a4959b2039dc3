"""Where localknobs keeps its own files. Standard library only; nothing is created until asked for.

`LOCALKNOBS_HOME` puts everything under one folder; otherwise each kind has the place its operating
system gives it. `LOCALKNOBS_MODELS` moves the model folder alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """Return a path with `~` and `~user` put in; unlike `Path.expanduser`, a user there is not is no error."""
    return Path(os.path.expanduser(text))


def _home(kind: str, environment: str, default: str) -> Path:
    own = os.environ.get("LOCALKNOBS_HOME")
    if own:
        return user_path(own) / kind
    if sys.platform == "darwin":
        folder = "Caches" if kind == "cache" else "Application Support"
        return Path.home() / "Library" / folder / "localknobs"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(base) / "localknobs" / kind
    base = os.environ.get(environment) or str(Path.home() / default)
    return Path(base) / "localknobs"


def config_folder() -> Path:
    """Settings and presets the user may edit by hand."""
    return _home("config", "XDG_CONFIG_HOME", ".config")


def data_folder() -> Path:
    """Conversations and other things the user made and would miss."""
    return _home("data", "XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path:
    """What can be made again: measured speeds, header caches, probe results."""
    return _home("cache", "XDG_CACHE_HOME", ".cache")


def models_folder() -> Path:
    """The user's own model folder."""
    own = os.environ.get("LOCALKNOBS_MODELS")
    return user_path(own) if own else data_folder() / "models"


def presets_folder() -> Path:
    """Sampler presets, one TOML file each."""
    return config_folder() / "presets"


def conversations_folder() -> Path:
    """Saved chats, one file each."""
    return data_folder() / "conversations"


def votes_file() -> Path:
    """Which of two answers was better, vote by vote."""
    return data_folder() / "votes.jsonl"


def parked_cache_file(conversation: str) -> Path:
    """Where the key-value cache of a conversation is put aside; the name from outside becomes no path."""
    import hashlib  # not needed by --help

    name = hashlib.blake2b(conversation.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return cache_folder() / "conversations" / f"{name}.cache"


def built_in_model() -> Path:
    """The model shipped with the program."""
    from importlib.resources import files  # a few ms; not needed by --help

    return Path(str(files("localknobs.models").joinpath("built-in.gguf")))


def built_in_checkpoint() -> Path:
    """The checkpoint that the built-in model was made of; it is in the repository, not in what is installed."""
    return built_in_model().parent / "checkpoint"


@contextlib.contextmanager
def written_whole(target: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Yields:
        A path beside `target` to write to. Leaving the block normally flushes it to disk and
        renames it over `target`; leaving by an exception removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}{suffix}")
    try:
        yield beside
        with open(beside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
