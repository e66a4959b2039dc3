"""The model that another was made from: as its ledger card says, else the largest file of its family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from localknobs.errors import LocalknobsError
from localknobs.ledger import read_card
from localknobs.library.entry import ModelEntry
from localknobs.library.names import without_quant


def propose_parent(model: Path, entries: Sequence[ModelEntry]) -> tuple[ModelEntry, str] | None:
    """Return the parent of a model among others, and why it is taken for it; None where none can be.

    Args:
        model: A GGUF file.
        entries: Of the library, the model among them or not.
    """
    usable = [entry for entry in entries if entry.usable and not _same(entry, model)]
    made_from = _made_from(model)
    for entry in usable:
        if any(_same(entry, source) for source in made_from):
            return entry, "its card says so"
    own = next((entry for entry in entries if _same(entry, model)), None)
    if own is None or not own.parameters:
        return None
    family = [
        entry
        for entry in usable
        if _family(entry) == _family(own) and entry.size_bytes > own.size_bytes and entry.parameters == own.parameters
    ]
    best = max(family, key=lambda entry: entry.size_bytes, default=None)
    return (best, "the largest file of its family") if best else None


def _made_from(model: Path) -> set[Path]:
    try:
        return {Path(source.path) for source in read_card(model).sources}
    except LocalknobsError:
        return set()


def _same(entry: ModelEntry, model: Path) -> bool:
    return entry.path == model or model in entry.also_at


def _family(entry: ModelEntry) -> tuple[str, str]:
    """Return what the quants of one model have in common."""
    return entry.architecture, without_quant(entry.path.name).lower()
