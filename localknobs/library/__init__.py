"""The models on this machine: the built-in one, ours, and those of other programs, which are never written to.

`list_models` reads; `plan_removal`, `plan_import` and `plan_pruning` say what would be done, and what does it takes
the plan. Nothing here prints or asks.
"""

from localknobs.library.entry import ModelEntry
from localknobs.library.find import find_entry, find_model
from localknobs.library.importing import ImportPlan, forget_place, import_models, plan_import
from localknobs.library.pruning import Leftover, plan_pruning, prune
from localknobs.library.removal import RemovalPlan, plan_removal, remove
from localknobs.library.scan import BUILT_IN, Listing, installed_models, list_models
from localknobs.library.sources import OWN, SOURCES, Source, extra_places

__all__ = [
    "BUILT_IN", "OWN", "SOURCES", "ImportPlan", "Leftover", "Listing", "ModelEntry", "RemovalPlan", "Source",
    "extra_places", "find_entry", "find_model", "forget_place", "import_models", "installed_models", "list_models",
    "plan_import", "plan_pruning", "plan_removal", "prune", "remove",
]  # fmt: skip
