"""llama.cpp's own account of a context's memory: weights, cache and compute buffers, buffer type by buffer type.

`llama_get_memory_breakdown` returns a C++ map by value; its red-black tree is walked here (the node layout is the
same in libstdc++ and libc++). Where that is not to be had, `read_breakdown` says so and the log must do.
Only worker processes import this.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from localknobs.engine.binding import lib, libggml

llama_library: Any = lib._lib
"""The shared library, for what the binding has no name for."""
_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_LEFT, _RIGHT, _KEY, _VALUES = (0, 8, 32, 40) if sys.platform == "darwin" else (16, 24, 32, 40)
_ROOT, _SIZE = (8, 16) if sys.platform == "darwin" else (16, 40)
_MOST = 64
"""Buffer types beyond which the map is taken for misread."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one buffer type holds, in bytes.

    Args:
        buffer: Its name, such as `CPU` or `CUDA0`.
        host: Whether it lies in the machine's main memory.
        weights, cache, compute: Bytes.
    """

    buffer: str
    host: bool
    weights: int
    cache: int
    compute: int


def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml's backend interface, found in whichever of the binding's libraries has it."""
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def read_breakdown(context: Any) -> tuple[Share, ...] | None:
    """Return the account of a context, None where this build's cannot be read."""
    function = getattr(llama_library, _BREAKDOWN, None)
    if function is None:
        return None
    # A type that is not trivially copied is returned into memory whose address is the first argument (Itanium ABI).
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p]
    buffer = ctypes.create_string_buffer(64)
    base = ctypes.addressof(buffer)
    function(base, context)
    count = ctypes.c_size_t.from_address(base + _SIZE).value
    if not 0 < count <= _MOST:
        return None
    # The map is never freed: a few hundred bytes a call, and no destructor is exported.
    shares = tuple(_walk(ctypes.c_void_p.from_address(base + _ROOT).value, 0))
    return shares if len(shares) == count else None


def _walk(node: int | None, depth: int) -> Iterator[Share]:
    if not node or depth > _MOST:
        return
    yield from _walk(ctypes.c_void_p.from_address(node + _LEFT).value, depth + 1)
    key = ctypes.c_void_p.from_address(node + _KEY).value
    weights, cache, compute = (ctypes.c_size_t.from_address(node + _VALUES + 8 * at).value for at in range(3))
    name = ggml_function("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)(key)
    host = ggml_function("ggml_backend_buft_is_host", ctypes.c_bool, ctypes.c_void_p)(key)
    yield Share(name.decode("utf-8", "replace"), bool(host), weights, cache, compute)
    yield from _walk(ctypes.c_void_p.from_address(node + _RIGHT).value, depth + 1)
