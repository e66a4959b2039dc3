"""ggml's own quantizers and dequantizers, called by ctypes: the bytes are llama.cpp's because the code is.

Every function here releases Python's lock while it works, so plain threads use all cores.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from localknobs.errors import Unsupported
from localknobs.ggml_library import library
from localknobs.ggml_types import GGML_TYPES

TYPE_NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}
"""ggml's type name, such as `Q4_K`, to its number."""
FLOAT_TYPES = frozenset({"F32", "F16", "BF16"})
NEEDS_IMATRIX = frozenset({"IQ2_XXS", "IQ2_XS", "IQ1_S"})
"""Types on which `ggml_quantize_chunk` ends the process when it is given no importance (ggml.c)."""

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def row_bytes(type_name: str, columns: int) -> int:
    """Return the bytes a row takes; `columns` must divide by the type's block."""
    _, block, block_bytes = GGML_TYPES[TYPE_NUMBERS[type_name]]
    return columns // block * block_bytes


def block_size(type_name: str) -> int:
    """Return how many values of a row are stored together."""
    return GGML_TYPES[TYPE_NUMBERS[type_name]][1]


def bits(type_name: str) -> float:
    """Return the bits one value takes."""
    _, block, block_bytes = GGML_TYPES[TYPE_NUMBERS[type_name]]
    return 8 * block_bytes / block


def to_floats(type_name: str, data: Bytes, out: Floats) -> None:
    """Widen stored values to float32, as llama.cpp does before it quantizes them again.

    Args:
        type_name: Type of `data`.
        data: Whole blocks, contiguous.
        out: Filled; its size is the number of values.

    Raises:
        Unsupported: ggml cannot read this type back.
    """
    if type_name == "F32":
        out.view(np.uint8)[:] = data
        return
    convert = library().ggml_get_type_traits(TYPE_NUMBERS[type_name]).contents.to_float
    if not convert:
        raise Unsupported(f"{type_name} cannot be turned into numbers again", "Begin from a float model.")
    convert(data.ctypes.data, out.ctypes.data, out.size)


def quantize_rows(type_name: str, values: Floats, out: Bytes, importance: Floats | None) -> bool:
    """Quantize whole rows with ggml's own code.

    Args:
        type_name: Wanted type; the row length must divide by its block.
        values: Contiguous, finite.
        out: Filled; exactly the bytes these rows take.
        importance: One weight a column, or None. Required by the types in `NEEDS_IMATRIX`.

    Returns:
        False when the result is no valid data, such as a scale beyond what 16 bits hold.

    Shapes:
        values: (rows, columns).  importance: (columns,).
    """
    number = TYPE_NUMBERS[type_name]
    rows, columns = values.shape
    weights = importance.ctypes.data if importance is not None else None
    ggml = library()
    ggml.ggml_quantize_chunk(number, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
    return bool(ggml.ggml_validate_row_data(number, out.ctypes.data, out.size))
