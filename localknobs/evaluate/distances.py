"""From logits to what is kept of a token: its surprise, and how far two models' distributions are apart.

Rows go through in blocks that stay in the processor's cache, so that a vocabulary of 150,000 takes no more memory
than one of 3,000. Plain numpy; only worker processes import this, in a thread beside the next computation.

The divergence of q from p is computed from the differences of the logits, d = x - y: with m the mean of d under p and
t = m - d, KL = log1p(sum of p (exp(t) - 1 - t)). That is the definition sum of p (log p - log q), but nothing cancels:
it is exactly 0 for a model and itself, never below 0, and right to 5 digits where it is 1e-9, all in 32 bits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int32]

BLOCK_VALUES = 2**17
"""Logits in a block: half a megabyte."""

FAR = 20.0
"""Divergence from which on it is computed by the plain definition."""

_rooms = threading.local()

SMALL = 0.25
"""Below this, exp(t) - 1 - t is computed by its Taylor polynomial: the first term left out is 4e-7 of it."""

_TAYLOR = [np.float32(1 / factorial) for factorial in (720, 120, 24, 6, 2)]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one model, one value a token.

    Args:
        surprises: Minus the logarithm of the right token's probability.
        tops: The likeliest token.
    """

    surprises: Floats
    tops: Tokens


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of a model and its parent, one value a token.

    Args:
        surprises: The model's.
        kls: KL divergence from the parent, in nats.
        same_top: Whether the likeliest tokens agree.
    """

    surprises: Floats
    kls: Floats
    same_top: npt.NDArray[np.bool_]


def blocks(logits: Logits) -> Iterator[slice]:
    """Return slices of rows that stay in the cache together."""
    rows, columns = logits.shape
    step = max(1, BLOCK_VALUES // columns)
    return (slice(begin, min(rows, begin + step)) for begin in range(0, rows, step))


def shares(block: Logits, place: str = "weights") -> tuple[Tokens, Logits, Logits, Floats]:
    """Return the likeliest tokens, each row's largest logit, the weights exp(logit - largest), and their sums.

    Args:
        block: The logits.
        place: Name of the room that the weights take.

    Shapes:
        block: (tokens, vocabulary).  result: (tokens,), (tokens, 1), (tokens, vocabulary), (tokens,).
    """
    tops = block.argmax(axis=1)
    largest = np.take_along_axis(block, tops[:, None], axis=1)
    weights = np.subtract(block, largest, out=room(place, block.shape))
    np.exp(weights, out=weights)
    # In 32 bits numpy adds pairwise: right to 7 digits, in half the time of 64 bits.
    return tops.astype(np.int32), largest, weights, weights.sum(axis=1).astype(np.float64)


def surprises_of(block: Logits, targets: Tokens, largest: Logits, sums: Floats) -> Floats:
    """Return minus the logarithms of the right tokens' probabilities, from what `shares` returns."""
    right = np.take_along_axis(block, targets[:, None], axis=1)
    found: Floats = np.log(sums) + (largest.astype(np.float64) - right)[:, 0]
    return found


def room(name: str, shape: tuple[int, ...], kind: Any = np.float32) -> npt.NDArray[Any]:
    """Return memory that this thread uses again whenever it asks by the same name; its values are whatever was there.

    Fresh memory is dearer than what is computed in it: on a virtual machine the first touch of a page can take as long
    as a thousand exponentials.
    """
    kind = np.dtype(kind)
    size = math.prod(shape) * kind.itemsize
    held = _rooms.__dict__.get(name)
    if held is None or len(held) < size:
        held = _rooms.__dict__[name] = np.empty(size, np.uint8)
    found: npt.NDArray[Any] = held[:size].view(kind).reshape(shape)
    return found


def score(logits: Logits, targets: Tokens) -> Scores:
    """Return how a model fares on tokens.

    Shapes:
        logits: (tokens, vocabulary).  targets: (tokens,).
    """
    scores = Scores(np.empty(len(targets)), np.empty(len(targets), np.int32))
    for rows in blocks(logits):
        block = logits[rows]
        scores.tops[rows], largest, _, sums = shares(block)
        scores.surprises[rows] = surprises_of(block, targets[rows], largest, sums)
    return scores


def compare(base: Logits, others: Sequence[Logits], targets: Tokens) -> tuple[Scores, list[Comparison]]:
    """Return how a parent fares on tokens, and how far each of its models is from it.

    Shapes:
        base, others: (tokens, vocabulary).  targets: (tokens,).
    """
    count = len(targets)
    scores = Scores(np.empty(count), np.empty(count, np.int32))
    found = [Comparison(np.empty(count), np.empty(count), np.empty(count, np.bool_)) for _ in others]
    for rows in blocks(base):
        block, right = base[rows], targets[rows]
        scores.tops[rows], largest, weights, sums = shares(block)
        scores.surprises[rows] = surprises_of(block, right, largest, sums)
        for logits, one in zip((other[rows] for other in others), found, strict=True):
            tops, own_largest, own_weights, own_sums = shares(logits, "own weights")
            one.surprises[rows] = surprises_of(logits, right, own_largest, own_sums)
            one.same_top[rows] = tops == scores.tops[rows]
            # Subtracted in 32 bits: exact where they are alike, and elsewhere rounded as the logits themselves are.
            apart = np.subtract(block, logits, out=room("apart", block.shape))
            mean = _row_products(weights, apart) / sums
            shift = own_largest[:, 0] - largest[:, 0] + mean
            # Far away the definition itself is right, and the ratio of the weights beyond what 32 bits hold.
            far = shift + np.log(own_sums / sums)
            with np.errstate(over="ignore", invalid="ignore"):
                ratios = np.exp(shift).astype(np.float32)[:, None]
                np.subtract(mean.astype(np.float32)[:, None], apart, out=apart)
                near = np.log1p(_growth(weights, apart, own_weights, ratios) / sums)
            one.kls[rows] = np.where(far > FAR, far, near)
    return scores, found


def _growth(weights: Logits, apart: Logits, own: Logits, ratios: Logits) -> Floats:
    """Return the sum of w (exp(t) - 1 - t) of each row, without an exponential: w exp(t) is the other's weight, scaled.

    Where t is small that would cancel, and a polynomial stands for it.

    Args:
        weights: w.
        apart: t.
        own: The other model's weights, which are overwritten.
        ratios: What those are multiplied with, one a row.
    """
    powers, other = room("powers", apart.shape), room("products", apart.shape)
    large = np.greater(np.abs(apart, out=powers), SMALL, out=room("large", apart.shape, np.bool_))
    np.multiply(apart, _TAYLOR[0], out=powers)
    for factor in _TAYLOR[1:]:
        powers += factor
        powers *= apart
    np.multiply(weights, apart, out=other)
    powers *= other
    if large.any():
        own *= ratios
        own -= weights
        own -= other
        # Multiplied with 1 and 0: chosen one by one they would take ten times as long.
        chosen = other
        np.copyto(chosen, large)
        own *= chosen
        np.copyto(chosen, np.logical_not(large, out=large))
        powers *= chosen
        powers += own
    found: Floats = powers.sum(axis=1).astype(np.float64)
    return found


def _row_products(one: Logits, other: Logits) -> Floats:
    """Return the sum of the products of each two rows; by BLAS, which a measuring process keeps to one thread."""
    found: Floats = np.matmul(one[:, None, :], other[:, :, None])[:, 0, 0].astype(np.float64)
    return found
