"""What the Tune screen offers as bases and as data: (key, name, detail) of each."""

from __future__ import annotations

import contextlib
from pathlib import Path

from localknobs.library import BUILT_IN, list_models
from localknobs.paths import built_in_checkpoint
from localknobs.tune.examples import SHIPPED
from localknobs.units import count_text, size_text

_ENDINGS = (".jsonl", ".ndjson", ".txt")
_MOST_FILES = 200


def checkpoint_of(base: str) -> str:
    """Return the checkpoint that an adapter of a base is merged into."""
    return str(built_in_checkpoint()) if base == BUILT_IN else base


def bases() -> list[tuple[str, str, str]]:
    """Return the checkpoints of this machine that could be trained, and the files that can be trained over (QLoRA)."""
    found = []
    if built_in_checkpoint().is_dir():
        found.append((BUILT_IN, BUILT_IN, "the model that comes with the program; small, to try things on"))
    for entry in list_models().entries:
        if entry.kind == "checkpoint" and not entry.trouble:
            about = f"{entry.architecture} · {count_text(entry.parameters)} parameters · {size_text(entry.size_bytes)}"
            found.append((str(entry.path), entry.name, about))
    files = [(key, name, f"{about} · a file, trained over as it is (QLoRA)") for key, name, about in model_files()]
    return found + [one for one in files if one[0] != BUILT_IN]


def model_files() -> list[tuple[str, str, str]]:
    """Return the model files of this machine: one of them may be a base's."""
    return [
        (entry.argument, entry.name, f"{entry.architecture} · {entry.quant}")
        for entry in list_models().entries
        if entry.usable
    ]


def data_sets() -> list[tuple[str, str, str]]:
    """Return the sets that are shipped, and the files in this folder that look like examples."""
    found = [(name, name, what) for name, what in SHIPPED.items()]
    with contextlib.suppress(OSError):
        files = sorted(file for file in Path.cwd().iterdir() if file.suffix.lower() in _ENDINGS and file.is_file())
        for file in files[:_MOST_FILES]:
            found.append((str(file), file.name, size_text(file.stat().st_size)))
    return found
