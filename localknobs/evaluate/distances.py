"""From logits to what is kept of a token: its surprise, and how far two models' distributions are apart.

Rows go through in blocks that stay in the processor's cache, so that a vocabulary of 150,000 takes no more memory
than one of 3,000. Plain numpy; only worker processes import this, in a thread beside the next computation.

The divergence of q from p is computed from the differences of the logits, d = x - y: with m the mean of d under p,
KL = log1p(sum of p (exp(m - d) - 1 - (m - d))). That is the definition sum of p (log p - log q), but nothing cancels:
it is exactly 0 for a model and itself, never below 0, and right to 7 digits where it is 1e-9.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        base_surprises: The parent's.
        kls: KL divergence from the parent, in nats.
        same_top: Whether the likeliest tokens agree.
    """

    surprises: Floats
    base_surprises: Floats
    kls: Floats
    same_top: npt.NDArray[np.bool_]


def blocks(logits: Logits) -> Iterator[slice]:
    """Return slices of rows that stay in the cache together."""
    rows, columns = logits.shape
    step = max(1, BLOCK_VALUES // columns)
    return (slice(begin, min(rows, begin + step)) for begin in range(0, rows, step))


def _shares(block: Logits) -> tuple[Tokens, Logits, Floats]:
    """Return the likeliest tokens, each row's largest logit, and the sum of exp(logit - largest)."""
    tops = block.argmax(axis=1)
    largest = np.take_along_axis(block, tops[:, None], axis=1)
    weights = np.exp(block - largest)
    return tops.astype(np.int32), largest, weights.sum(axis=1, dtype=np.float64)


def score(logits: Logits, targets: Tokens) -> Scores:
    """Return how a model fares on tokens.

    Shapes:
        logits: (tokens, vocabulary).  targets: (tokens,).
    """
    surprises, tops = np.empty(len(targets)), np.empty(len(targets), np.int32)
    for rows in blocks(logits):
        block = logits[rows]
        tops[rows], largest, sums = _shares(block)
        right = np.take_along_axis(block, targets[rows, None], axis=1)
        surprises[rows] = np.log(sums) + (largest.astype(np.float64) - right)[:, 0]
    return Scores(surprises, tops)


def compare(base: Logits, logits: Logits, base_scores: Scores, targets: Tokens) -> Comparison:
    """Return how far a model is from its parent.

    Shapes:
        base, logits: (tokens, vocabulary).  targets: (tokens,).
    """
    kls = np.empty(len(targets))
    scores = score(logits, targets)
    for rows in blocks(logits):
        block = base[rows]
        largest = np.take_along_axis(block, base_scores.tops[rows, None], axis=1)
        weights = np.exp(block - largest)
        sums = weights.sum(axis=1, dtype=np.float64)
        apart = np.subtract(block, logits[rows], dtype=np.float64)
        mean = np.einsum("ij,ij->i", weights, apart, dtype=np.float64) / sums
        np.subtract(mean[:, None], apart, out=apart)
        growth = np.exp(apart)
        growth -= 1
        growth -= apart
        kls[rows] = np.log1p(np.einsum("ij,ij->i", weights, growth, dtype=np.float64) / sums)
    return Comparison(scores.surprises, base_scores.surprises, kls, scores.tops == base_scores.tops)
