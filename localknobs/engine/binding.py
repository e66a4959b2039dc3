"""llama-cpp-python's plain binding of llama.h, without its own chat formats, templates and downloads.

Importing the package loads all of those too, which no process here uses: 0.2 seconds of computing at every start of a
model, against 0.04 for the binding. A later `import llama_cpp` gets the whole package, over the same library.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

_PACKAGE = "llama_cpp"
_turn = threading.Lock()


def _load(name: str) -> Any:
    """Import a module of the package without the package's own code.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    full_name = f"{_PACKAGE}.{name}"
    with _turn:
        if _PACKAGE in sys.modules:
            return importlib.import_module(full_name)
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.submodule_search_locations is None:
            return importlib.import_module(full_name)  # fails with the reason that is told
        package = ModuleType(_PACKAGE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_PACKAGE] = package
        try:
            return importlib.import_module(full_name)
        finally:
            del sys.modules[_PACKAGE]


if TYPE_CHECKING:
    from llama_cpp import llama_cpp as lib
    from llama_cpp._ggml import libggml
else:
    lib = _load("llama_cpp")
    libggml = _load("_ggml").libggml

__all__ = ["lib", "libggml"]
