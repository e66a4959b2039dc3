"""From logits to what is kept of a token: its surprise, and how far two models' distributions are apart.

Rows go through in blocks that stay in the processor's cache, so that a vocabulary of 150,000 takes no more memory
than one of 3,000. Plain numpy; only worker processes import this, in a thread beside the next computation.

The divergence of q from p is computed from the differences of the logits, d = x - y: with m the mean of d under p,
KL = log1p(sum of p (exp(m - d) - 1 - (m - d))). That is the definition sum of p (log p - log q), but nothing cancels:
it is exactly 0 for a model and itself, never below 0, and right to 7 digits where it is 1e-9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int32]

BLOCK_VALUES = 2**17
"""Logits in a block: half a megabyte in 32 bits, a megabyte in 64."""


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


def _shares(block: Logits, room: Logits) -> tuple[Tokens, Logits, Logits]:
    """Return the likeliest tokens, each row's largest logit, and exp(logit - largest), which takes `room`."""
    tops = block.argmax(axis=1)
    largest = np.take_along_axis(block, tops[:, None], axis=1)
    weights = np.subtract(block, largest, out=room[: len(block)])
    return tops.astype(np.int32), largest, np.exp(weights, out=weights)


def _surprises(block: Logits, targets: Tokens, largest: Logits, sums: Floats) -> Floats:
    right = np.take_along_axis(block, targets[:, None], axis=1)
    found: Floats = np.log(sums) + (largest.astype(np.float64) - right)[:, 0]
    return found


def _room(logits: Logits) -> tuple[int, int]:
    """Return the shape of the largest block: memory that is used again for each stays in the cache."""
    return min(len(logits), max(1, BLOCK_VALUES // logits.shape[1])), logits.shape[1]


def score(logits: Logits, targets: Tokens) -> Scores:
    """Return how a model fares on tokens.

    Shapes:
        logits: (tokens, vocabulary).  targets: (tokens,).
    """
    surprises, tops = np.empty(len(targets)), np.empty(len(targets), np.int32)
    room = np.empty(_room(logits), np.float32)
    for rows in blocks(logits):
        block = logits[rows]
        tops[rows], largest, weights = _shares(block, room)
        surprises[rows] = _surprises(block, targets[rows], largest, weights.sum(axis=1, dtype=np.float64))
    return Scores(surprises, tops)


def compare(base: Logits, others: Sequence[Logits], targets: Tokens) -> tuple[Scores, list[Comparison]]:
    """Return how a parent fares on tokens, and how far each of its models is from it.

    Shapes:
        base, others: (tokens, vocabulary).  targets: (tokens,).
    """
    count = len(targets)
    scores = Scores(np.empty(count), np.empty(count, np.int32))
    found = [Comparison(np.empty(count), np.empty(count), np.empty(count, np.bool_)) for _ in others]
    room = np.empty(_room(base), np.float32)
    all_weights, all_apart, all_growth = (np.empty(room.shape) for _ in range(3))
    for rows in blocks(base):
        block, right = base[rows], targets[rows]
        scores.tops[rows], largest, narrow = _shares(block, room)
        weights, apart, growth = (each[: len(block)] for each in (all_weights, all_apart, all_growth))
        np.copyto(weights, narrow)
        sums = weights.sum(axis=1)
        scores.surprises[rows] = _surprises(block, right, largest, sums)
        for logits, one in zip((other[rows] for other in others), found, strict=True):
            tops, largest, narrow = _shares(logits, room)
            own_sums = narrow.sum(axis=1, dtype=np.float64)
            one.surprises[rows] = _surprises(logits, right, largest, own_sums)
            one.same_top[rows] = tops == scores.tops[rows]
            # Subtracted in 32 bits: exact where they are alike, and elsewhere rounded as the logits themselves are.
            np.copyto(apart, np.subtract(block, logits, out=room[: len(block)]))
            mean = _row_products(weights, apart) / sums
            np.subtract(mean[:, None], apart, out=apart)
            np.exp(apart, out=growth)
            growth -= 1
            growth -= apart
            one.kls[rows] = np.log1p(_row_products(weights, growth) / sums)
    return scores, found


def _row_products(one: Floats, other: Floats) -> Floats:
    """Return the sum of the products of each two rows; by BLAS, which a measuring process keeps to one thread."""
    found: Floats = np.matmul(one[:, None, :], other[:, :, None])[:, 0, 0]
    return found
