"""The floating-point types of checkpoints, widened to float32 and rounded back, with numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[np.uint8]

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
"""Types that are floating-point numbers, by their names in safetensors files, and the bytes of one value."""
ITEM_BYTES = {**FLOAT_BYTES, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""All types a checkpoint can have, and the bytes of one value."""
LARGEST = {"F16": 65504.0, "BF16": float(np.uint32(0x7F7F0000).view(np.float32))}
_PART = 1 << 20
"""Values handled at once where scratch memory is needed."""


def to_float32(dtype: str, stored: Stored, out: Floats) -> None:
    """Widen stored values; each float32 is exactly the stored number (float64 is rounded).

    Args:
        dtype: A key of `FLOAT_BYTES`.
        stored: The bytes, little-endian.
        out: Filled, flat; as many values as are stored.
    """
    if dtype == "BF16":
        np.left_shift(stored.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32)
    elif dtype in ("F16", "F32", "F64"):
        with np.errstate(over="ignore"):  # a float64 out of range becomes infinite, which the reader reports
            out[:] = stored.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])
    else:
        np.take(_byte_table(dtype), stored, out=out)


def from_float32(dtype: str, values: Floats) -> Stored:
    """Round to the nearest number of a type, ties to the even one, as torch does; return the bytes.

    Args:
        dtype: F64, F32, F16 or BF16.
        values: Contiguous. What is too large for the type becomes infinite: check with `LARGEST` first.
    """
    flat = values.reshape(-1)
    if dtype == "BF16":
        rounded = np.empty(flat.size, np.uint16)
        for at in range(0, flat.size, _PART):
            bits = flat[at : at + _PART].view(np.uint32)
            nearest = (bits >> 16) & 1
            nearest += 0x7FFF
            nearest += bits
            nearest >>= 16
            rounded[at : at + _PART] = nearest
        return rounded.view(np.uint8)
    with np.errstate(over="ignore"):
        return flat.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype], copy=False).view(np.uint8)


def first_not_finite(values: Floats) -> int | None:
    """Return where the first infinite value or not-a-number is, None when there is none."""
    flat = values.reshape(-1)
    for at in range(0, flat.size, _PART):
        part = flat[at : at + _PART]
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(part.sum()):  # one pass over the values, where a look at each takes three
                continue
        finite = np.isfinite(part)
        if not finite.all():
            return at + int(np.argmin(finite))
    return None


@cache
def _byte_table(dtype: str) -> Floats:
    """Return the value of each of the 256 bytes of an 8-bit type."""
    value: Callable[[int], float] = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2, "F8_E8M0": _e8m0}[dtype]
    return np.array([value(byte) for byte in range(256)], np.float32)


def _e4m3(byte: int) -> float:
    """Return a byte's value: 4 bits exponent, 3 bits mantissa, no infinities (the OCP type, torch's float8_e4m3fn)."""
    sign, exponent, mantissa = -1.0 if byte & 0x80 else 1.0, (byte >> 3) & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return sign * size


def _e5m2(byte: int) -> float:
    """Return a byte's value: the upper half of a float16."""
    return float(np.uint16(byte << 8).view(np.float16))


def _e8m0(byte: int) -> float:
    """Return a byte's value: a power of two."""
    return float("nan") if byte == 255 else 2.0 ** (byte - 127)
