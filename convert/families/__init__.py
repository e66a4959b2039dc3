"""One file a family of models: what its tensors and its numbers are called in a GGUF file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from localknobs.convert.families.base import FAMILIES, Family

__all__ = ["Family", "architecture_of", "families", "family_for"]


@cache
def families() -> Mapping[str, type[Family]]:
    """Return all families by the names of architectures in `config.json`."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(FAMILIES)


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the name of the architecture that a configuration gives, empty when it gives none."""
    inner = config.get("text_config")
    for given in ((inner or {}).get("architectures") if isinstance(inner, dict) else None, config.get("architectures")):
        if isinstance(given, list) and given and isinstance(given[0], str):
            return given[0]
    return ""


def family_for(config: Mapping[str, Any]) -> type[Family] | None:
    """Return the family of a configuration, None when this program has none for it."""
    return families().get(architecture_of(config))
