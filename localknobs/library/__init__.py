"""The models on this machine: the built-in one, ours, and those of other programs, which are never written to.

`list_models` reads; `plan_removal`, `plan_import` and `plan_pruning` say what would be done, and what does it takes
the plan. Nothing here prints or asks.
"""

from localknobs.library.entry import ModelEntry
from localknobs.library.find import find_entry, find_model
from localknobs.library.scan import BUILT_IN, Listing, installed_models, list_models
from localknobs.library.sources import OWN, SOURCES, Source

__all__ = [
    "BUILT_IN", "OWN", "SOURCES", "Listing", "ModelEntry", "Source", "find_entry", "find_model", "installed_models",
    "list_models",
]  # fmt: skip
