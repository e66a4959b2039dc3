"""The models on this machine: the built-in one, ours, and those of other programs, which are never written to.

Here is what lists, finds and removes them; `importing` and `pruning` are imported by who needs them. What changes
something is a plan, and an act that takes it. Nothing in this package prints or asks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localknobs.library.entry import BUILT_IN, ModelEntry
    from localknobs.library.find import find_checkpoint, find_entry, find_model
    from localknobs.library.removal import RemovalPlan, plan_removal, remove
    from localknobs.library.scan import Listing, installed_models, list_models
    from localknobs.library.sources import OWN, SOURCES, Source, extra_places

__all__ = [
    "BUILT_IN", "OWN", "SOURCES", "Listing", "ModelEntry", "RemovalPlan", "Source", "extra_places", "find_checkpoint",
    "find_entry", "find_model", "installed_models", "list_models", "plan_removal", "remove",
]  # fmt: skip

_HOMES = {
    "entry": ("BUILT_IN", "ModelEntry"),
    "find": ("find_checkpoint", "find_entry", "find_model"),
    "removal": ("RemovalPlan", "plan_removal", "remove"),
    "scan": ("Listing", "installed_models", "list_models"),
    "sources": ("OWN", "SOURCES", "Source", "extra_places"),
}
"""Imported when they are asked for: all of them take 50 ms, and many a verb needs only a part, such as `names`."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
