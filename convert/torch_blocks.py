"""ggml's blocks turned into numbers in torch, on whatever device they lie: the bytes of a GGUF file as they are.

On a processor ggml's own code does it, 3 to 90 times as fast as torch's small steps. Elsewhere torch computes what
gguf.quants does, operation by operation, so that the numbers are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localknobs.convert.ggml import TYPE_NUMBERS, to_floats
from localknobs.errors import Unsupported
from localknobs.ggml_library import library
from localknobs.ggml_types import GGML_TYPES

Tensor = Any
"""A torch tensor; torch is not imported before one is made."""


def values_of(type_name: str, blocks: Tensor, room: Tensor | None = None) -> Tensor:
    """Return the values of whole blocks, as float32, on the device where they lie; see `dequantize`.

    Args:
        type_name: ggml's name of their type.
        blocks: Their bytes.
        room: Memory that the result may lie in, flat float32; None for new memory.
    """
    import torch

    if blocks.device.type != "cpu" or type_name in FLOATS:
        return dequantize(type_name, blocks)
    shape = (len(blocks), block_shape(type_name)[0])
    out = torch.empty(shape) if room is None else room[: shape[0] * shape[1]].view(shape)
    to_floats(type_name, blocks.contiguous().numpy(), out.numpy())
    return out


def check_readable(type_name: str, *, on_processor: bool, where: str) -> None:
    """Refuse a type whose values cannot be had on a device.

    Args:
        type_name: ggml's name.
        on_processor: Whether the values will be asked for there.
        where: The file and the tensor, for the message.

    Raises:
        Unsupported: no code reads it there.
    """
    if type_name in READABLE:
        return
    if on_processor and type_name in TYPE_NUMBERS:
        if library().ggml_get_type_traits(TYPE_NUMBERS[type_name]).contents.to_float:
            return
    raise Unsupported(
        f"{where} is of the type {type_name}, which cannot be read for training here",
        f"Take a file of these types: {', '.join(READABLE)}.",
    )


def dequantize(type_name: str, blocks: Tensor) -> Tensor:
    """Return the values of whole blocks, as float32, by torch alone.

    Args:
        type_name: ggml's name of their type, one of `READABLE`.
        blocks: Their bytes, uint8.

    Shapes:
        blocks: (count, bytes of a block).  result: (count, values of a block).
    """
    import torch

    if type_name == "F32":
        return blocks.view(torch.float32)
    if type_name == "F16":
        return blocks.view(torch.float16).float()
    if type_name == "BF16":
        return blocks.view(torch.bfloat16).float()
    return _READERS[type_name](blocks)


def block_shape(type_name: str) -> tuple[int, int]:
    """Return how many values a block has, and how many bytes."""
    _, values, size = GGML_TYPES[TYPE_NUMBERS[type_name]]
    return values, size


def _half(blocks: Tensor, at: int) -> Tensor:
    import torch

    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _shifted(packed: Tensor, bits: tuple[int, ...], mask: int) -> Tensor:
    """Return the numbers that lie in the same bytes, one after the other: (count, bytes) to (count, shifts, bytes)."""
    import torch

    shifts = torch.tensor(bits, dtype=torch.uint8, device=packed.device)
    return (packed.unsqueeze(-2) >> shifts[:, None]) & mask


def _nibbles(packed: Tensor) -> Tensor:
    return _shifted(packed, (0, 4), 15).flatten(1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Return bit after bit of four bytes: (count, 4) to (count, 32)."""
    import torch

    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(1)


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 6:]) | (_fifth_bits(blocks[:, 2:6]) << 4)
    return _half(blocks, 0) * (numbers.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 8:]) | (_fifth_bits(blocks[:, 4:8]) << 4)
    return _half(blocks, 0) * numbers.float() + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    import torch

    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks, 0)


def _q2_k(blocks: Tensor) -> Tensor:
    scales, packed, d, least = blocks[:, :16], blocks[:, 16:80], _half(blocks, 80), _half(blocks, 82)
    steps = (d * (scales & 15).float()).unsqueeze(-1)
    offsets = (least * (scales >> 4).float()).unsqueeze(-1)
    numbers = _shifted(packed.reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16).float()
    return (steps * numbers - offsets).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    high, packed, scales, d = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:108], _half(blocks, 108)
    low_scales = _shifted(scales[:, :8], (0, 4), 15).flatten(1)
    high_scales = _shifted(scales[:, 8:], (0, 2, 4, 6), 3).flatten(1)
    steps = (d * ((low_scales | (high_scales << 4)).float() - 32)).unsqueeze(-1)
    low = _shifted(packed.reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16)
    absent = _shifted(high, tuple(range(8)), 1).reshape(-1, 16, 16) ^ 1  # the offset counts where the bit is 0
    return (steps * (low.float() - 4 * absent.float())).flatten(1)


def _scales_and_offsets(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eight scales and offsets of a Q4_K or Q5_K block, of six bits each: the bytes 4 to 15."""
    import torch

    first, second, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, (mixed & 15) | ((first >> 2) & 48)], -1).float()
    offsets = torch.cat([second & 63, (mixed >> 4) | ((second >> 2) & 48)], -1).float()
    return (_half(blocks, 0) * scales).unsqueeze(-1), (_half(blocks, 2) * offsets).unsqueeze(-1)


def _q4_k(blocks: Tensor) -> Tensor:
    steps, offsets = _scales_and_offsets(blocks)
    numbers = _shifted(blocks[:, 16:].reshape(-1, 4, 32), (0, 4), 15).reshape(-1, 8, 32).float()
    return (steps * numbers - offsets).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    steps, offsets = _scales_and_offsets(blocks)
    low = _shifted(blocks[:, 48:].reshape(-1, 4, 32), (0, 4), 15).reshape(-1, 8, 32)
    high = _shifted(blocks[:, 16:48], tuple(range(8)), 1)
    return (steps * (low | (high << 4)).float() - offsets).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    import torch

    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    steps = (_half(blocks, 208) * scales).unsqueeze(-1)
    low = _shifted(blocks[:, :128].reshape(-1, 2, 64), (0, 4), 15).reshape(-1, 8, 32)
    high = _shifted(blocks[:, 128:192].reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 8, 32)
    numbers = (low | (high << 4)).float() - 32
    return (steps * numbers.reshape(-1, 16, 16)).flatten(1)


_READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
READABLE = (*FLOATS, *_READERS)
"""Types that torch turns into numbers; on a processor ggml knows more."""
