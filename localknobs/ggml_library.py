"""ggml itself, called by ctypes out of the installed llama-cpp-python: its library, and a look into its tensors.

Loads `libggml-base` alone, without importing llama_cpp; a process that has both sees the same library.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.errors import MissingExtra, Unsupported
from localknobs.ggml_types import GGML_TYPES


class _TypeTraits(ctypes.Structure):
    """`ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


class Tensor(ctypes.Structure):
    """`ggml_tensor` of ggml.h, to look into a computation; `check_layout` first."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


@cache
def library() -> Any:
    """Load the library and check that its types are laid out as this program knows them.

    Raises:
        MissingExtra: llama-cpp-python is not installed, or without its libraries.
        Unsupported: its types are others.
    """
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"):
            if (file := Path(folder) / "lib" / name).is_file():
                return _prepared(ctypes.CDLL(str(file)))
    raise MissingExtra("llama.cpp's quantizers are not installed", "Install llama-cpp-python: make setup")


def _prepared(ggml: Any) -> Any:
    pointer, size, number, count = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_quantize_chunk", size, (number, pointer, pointer, count, count, count, pointer)),
        ("ggml_validate_row_data", ctypes.c_bool, (number, pointer, size)),
        ("ggml_get_type_traits", ctypes.POINTER(_TypeTraits), (number,)),
        ("ggml_get_name", ctypes.c_char_p, (pointer,)),
        ("ggml_nelements", count, (pointer,)),
        ("ggml_op_name", ctypes.c_char_p, (number,)),
        ("ggml_backend_tensor_get", None, (pointer, pointer, size, size)),
        ("ggml_backend_buffer_is_host", ctypes.c_bool, (pointer,)),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    for number_, (name, block, block_bytes) in GGML_TYPES.items():
        traits = ggml.ggml_get_type_traits(number_).contents
        found = ((traits.type_name or b"").decode().upper(), traits.blck_size, traits.type_size)
        if found != (name.upper(), block, block_bytes):
            raise Unsupported(
                f"This llama.cpp has the type {found} where {(name, block, block_bytes)} is known",
                "Install the llama-cpp-python that constraints.txt names.",
            )
    return ggml


def check_layout(pointer: int) -> None:
    """Compare our view of a tensor with ggml's own words about it.

    Raises:
        Unsupported: they differ, so nothing that is read through it can be believed.
    """
    ggml, seen = library(), Tensor.from_address(pointer)
    sizes = int(np.prod([int(size) for size in seen.ne]))
    if ggml.ggml_get_name(pointer) != seen.name or ggml.ggml_nelements(pointer) != sizes:
        raise Unsupported(
            "This llama.cpp lays out its tensors in another way", "Install the version that constraints.txt names."
        )


@cache
def operation(name: str) -> int:
    """Return ggml's number of an operation, such as `MUL_MAT`."""
    ggml = library()
    return next(number for number in range(128) if ggml.ggml_op_name(number) == name.encode())


def tensor_values(tensor: Tensor, kind: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """Return a tensor's values with the slowest dimension first; a copy where they lie on another device."""
    shape, steps = [int(size) for size in reversed(tensor.ne)], [int(step) for step in reversed(tensor.nb)]
    span = sum((size - 1) * step for size, step in zip(shape, steps, strict=True)) + kind.itemsize
    memory = ctypes.c_char * span
    ggml = library()
    if ggml.ggml_backend_buffer_is_host(tensor.buffer):
        buffer = memory.from_address(tensor.data)
    else:
        buffer = memory()
        ggml.ggml_backend_tensor_get(ctypes.addressof(tensor), ctypes.addressof(buffer), 0, span)
    return np.ndarray(shape, kind, memoryview(buffer), strides=steps)
