"""The arithmetic of LoRA and DoRA on one weight, in float32.

With torch where it is installed, so that every bit is the one peft computes on the same machine: the sums
of a matrix product depend on the library that makes them. Without torch, numpy gives the same to float32's
precision.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from localknobs.convert.float_types import Floats

_ROWS = 256
"""Rows whose length is summed at once in float64."""


@cache
def _torch() -> Any:
    """Return torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def product(a: Floats, b: Floats, scaling: float, *, transposed: bool) -> Floats:
    """Return `scaling * B @ A`, or its transpose as a view.

    Shapes:
        a: (rank, in).  b: (out, rank).  result: (out, in).
    """
    if torch := _torch():
        delta = torch.from_numpy(b) @ torch.from_numpy(a)
        delta *= scaling
        values: Floats = delta.numpy()
    else:
        values = b @ a
        values *= np.float32(scaling)
    return values.T if transposed else values


def add_low_rank(weight: Floats, delta: Floats) -> None:
    """Add a product to a weight, in place."""
    weight += delta


def add_dora(weight: Floats, delta: Floats, unmerged: Floats, magnitude: Floats, *, transposed: bool) -> None:
    """Add a product to a weight and give its rows DoRA's lengths, in place.

    Args:
        weight: Changed; may hold other adapters already.
        delta: What `product` returned.
        unmerged: The base's weight; DoRA's lengths are meant relative to it.
        magnitude: Length of every output of the weight.
        transposed: Outputs are columns of the weight, not rows.
    Source:
        DoRA, arXiv:2402.09353, equation 5.
    """
    factor = magnitude / _output_lengths(unmerged, delta, transposed)
    weight += delta
    weight *= factor[None, :] if transposed else factor[:, None]


def _output_lengths(weight: Floats, delta: Floats, transposed: bool) -> Floats:
    """Return the lengths of the outputs of `weight + delta`."""
    if torch := _torch():
        base, change = torch.from_numpy(weight), torch.from_numpy(delta)
        summed = base.T + change.T if transposed else base + change  # rows are outputs, in memory as they lie
        lengths: Floats = torch.linalg.norm(summed, dim=1).numpy()
        return lengths
    rows, change_rows = (weight.T, delta.T) if transposed else (weight, delta)
    out = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _ROWS):
        part = rows[at : at + _ROWS] + change_rows[at : at + _ROWS]
        out[at : at + _ROWS] = np.sqrt(np.square(part, dtype=np.float64).sum(axis=1))
    return out
