"""The adapters and control vectors of this machine, each with whether it belongs to a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localknobs.engine.adapter_files import KNOB_OF, AdapterKind, check_adapters, read_adapters, text_of
from localknobs.engine.adapter_rack import AdapterRack
from localknobs.engine.settings import LoadSettings
from localknobs.errors import LocalknobsError
from localknobs.gguf_info import Header, read_header
from localknobs.library import list_models

_MOST_HERE = 200
"""Files of the present folder that are looked at: it may be anything."""


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """An adapter or a control vector.

    Args:
        kind: Which of the two.
        path: Its GGUF file, or the folder of peft that one can be made of.
        trouble: Why it cannot be used with the model; empty when it can.
    """

    kind: AdapterKind
    path: Path
    trouble: str = ""


def found_adapters(model: Header) -> list[FoundAdapter]:
    """Return what the library and the present folder hold: first what belongs to a model, then the rest.

    Args:
        model: Header of the model that is in use.
    """
    seen: dict[Path, FoundAdapter] = {}
    for kind, path in (*_of_library(), *_of_folder(Path())):
        place = path.resolve()
        if place not in seen:
            seen[place] = FoundAdapter(kind, path, _trouble(kind, path, model))
    # A folder that holds its GGUF form is the same adapter as that.
    inside = {place.parent for place in seen if place.is_file()}
    found = [one for place, one in seen.items() if place not in inside]
    return sorted(found, key=lambda one: (bool(one.trouble), one.path.name.lower()))


def _of_library() -> Iterator[tuple[AdapterKind, Path]]:
    for entry in list_models().entries:
        if entry.kind in KNOB_OF and entry.state == "whole" and not entry.trouble:
            yield entry.kind, entry.path


def _of_folder(folder: Path) -> Iterator[tuple[AdapterKind, Path]]:
    """Yield what lies in a folder, or in a folder of it, as `localknobs finetune` writes it."""
    files = [path for pattern in ("*.gguf", "*/*.gguf") for path in folder.glob(pattern)]
    for path in sorted(files)[:_MOST_HERE]:
        try:
            kind = read_header(path, skim=True).kind
        except LocalknobsError:
            continue
        if kind in KNOB_OF:
            yield kind, path.absolute()
    for config in sorted(folder.glob("*/adapter_config.json"))[:_MOST_HERE]:
        yield "adapter", config.parent.absolute()


def _trouble(kind: AdapterKind, path: Path, model: Header) -> str:
    # A folder is looked at when its GGUF form is made.
    return "" if path.is_dir() else _misfit(kind, str(path), model, "off")


def fitting(rack: AdapterRack, model: Header, any_base: str) -> tuple[AdapterRack, tuple[str, ...]]:
    """Return a rack with those rows that a model takes, and why each other one is left out.

    Args:
        rack: What was on another model.
        model: Header of the model that is to be used.
        any_base: The knob `lora_any_base`.
    """
    misfits = [_misfit(row.kind, text_of(row.name, row.scale), model, any_base) for row in rack.rows]
    rows = tuple(row for row, trouble in zip(rack.rows, misfits, strict=True) if not trouble)
    return replace(rack, rows=rows), tuple(filter(None, misfits))


def _misfit(kind: AdapterKind, text: str, model: Header, any_base: str) -> str:
    """Return why a file cannot be used with a model, empty when it can."""
    named: dict[str, Any] = {KNOB_OF[kind]: (text,)}
    settings = LoadSettings(model=model.path, lora_any_base=any_base, **named)
    try:
        check_adapters(read_adapters(settings), model, settings)
    except LocalknobsError as error:
        return error.message
    return ""
