"""The parent model's likeliest tokens, kept in a file of bounded size: for where two models do not fit into memory.

Of each token the 256 likeliest followers are kept with their log-probabilities, and how much probability all others
have together. From them the KL divergence of another model follows up to what happens within the tail: the others
count as one, which gives a lower bound (log sum inequality). It is 0 for a model and itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from localknobs.errors import NotEnough
from localknobs.evaluate.distances import Floats, Logits, Scores, Tokens, blocks, score
from localknobs.hardware import free_disk_bytes
from localknobs.units import size_text

KEPT_TOKENS = 256
LEAST_TAIL = -690.0
"""Logarithm that stands for no tail at all: a vocabulary no larger than what is kept, or a tail below 1e-300."""


def _kind(kept: int) -> np.dtype[np.void]:
    return np.dtype([("ids", "<i4", kept), ("logs", "<f8", kept), ("tail", "<f8"), ("surprise", "<f8"), ("top", "<i4")])


@dataclass(frozen=True, slots=True)
class Bound:
    """Of a model compared with kept tokens, one value a token; names as in `Comparison`."""

    surprises: Floats
    kls: Floats
    same_top: npt.NDArray[np.bool_]


class KeptLogits:
    """A file of kept tokens, of one run of tokens; rows may be written and read in any order, from any thread.

    Args:
        path: Its file; its size says how many tokens of how large a vocabulary it has room for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @staticmethod
    def create(path: Path, tokens: int, vocabulary: int) -> bool:
        """Make a file with room for tokens; return False where it is there already, which is left as it is.

        Raises:
            NotEnough: the disk has no room for it.
        """
        kept = min(KEPT_TOKENS, vocabulary)
        size = tokens * _kind(kept).itemsize
        if path.exists() and path.stat().st_size == size:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # A mapped file that finds no room ends the process that writes to it: asked for before.
        free = free_disk_bytes(path.parent)
        if free and size > 0.95 * free:
            raise NotEnough(
                f"The parent's log-probabilities take {size_text(size)}, and {size_text(free)} of the disk are free",
                "Read fewer chunks (--chunks), or free some space.",
                needed_bytes=size,
                available_bytes=free,
            )
        with open(path, "wb") as file:
            file.truncate(size)
        path.with_suffix(".width").write_text(str(kept), encoding="ascii")
        return True

    def _rows(self, mode: str) -> npt.NDArray[np.void]:
        kept = int(self._path.with_suffix(".width").read_text(encoding="ascii"))
        return np.memmap(self._path, _kind(kept), mode)  # type: ignore[call-overload, no-any-return]

    def write(self, begin: int, logits: Logits, scores: Scores) -> Floats:
        """Keep some tokens; return the probability of what is not kept of each."""
        rows = self._rows("r+")[begin : begin + len(logits)]
        kept = rows["ids"].shape[1]
        for part in blocks(logits):
            block = logits[part]
            ids = likeliest(block, kept)
            logs, tail = _logs_at(block, ids)
            rows["ids"][part], rows["logs"][part], rows["tail"][part] = ids, logs, tail
        rows["surprise"], rows["top"] = scores.surprises, scores.tops
        outside: Floats = np.exp(rows["tail"])
        return outside

    def read(self, begin: int, count: int) -> npt.NDArray[np.void]:
        """Return the kept rows of some tokens."""
        return self._rows("r")[begin : begin + count]


def likeliest(block: Logits, count: int) -> Tokens:
    """Return the numbers of the largest logits of each row, in no order.

    The largest of some groups are looked at first: what is below the `count`th of those is not among the largest of
    all. Of a vocabulary of 150,000 that takes a twentieth of the time of looking for them among all.
    """
    columns = block.shape[1]
    groups = min(4 * count, columns // 4)
    if groups < 2 * count:
        return np.argpartition(block, -count, axis=1)[:, -count:].astype(np.int32)
    width = columns // groups
    heads = block[:, : groups * width].reshape(len(block), width, groups).max(axis=1)
    least = np.partition(heads, -count, axis=1)[:, -count]
    found = np.empty((len(block), count), np.int32)
    for row, logits in enumerate(block):
        some = np.flatnonzero(logits >= least[row])
        if len(some) < count:  # a logit that is no number
            some = np.arange(columns)
        found[row] = some[np.argpartition(logits[some], -count)[-count:]]
    return found


def _logs_at(block: Logits, ids: Tokens) -> tuple[Floats, Floats]:
    """Return the log-probabilities of some tokens of each row, and that of all others together."""
    largest = block.max(axis=1, keepdims=True)
    weights = np.exp(block - largest)
    whole = weights.sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(block, ids, axis=1)
    logs = chosen.astype(np.float64) - largest - np.log(whole)[:, None]
    # The tail is summed itself: 1 minus the rest would be rounding where it is small.
    np.put_along_axis(weights, ids, 0, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(weights.sum(axis=1, dtype=np.float64) / whole)
    return logs, np.maximum(tail, LEAST_TAIL)


def compare_with_kept(kept: npt.NDArray[np.void], logits: Logits, targets: Tokens) -> Bound:
    """Return how far a model is from what was kept of its parent: a lower bound of each KL divergence.

    Shapes:
        kept: (tokens,).  logits: (tokens, vocabulary).  targets: (tokens,).
    """
    scores = score(logits, targets)
    kls = np.empty(len(targets))
    for rows in blocks(logits):
        logs, tail = _logs_at(logits[rows], kept["ids"][rows])
        theirs, their_tail = kept["logs"][rows], kept["tail"][rows]
        within = (np.exp(theirs) * (theirs - logs)).sum(axis=1)
        kls[rows] = within + np.exp(their_tail) * (their_tail - tail)
    return Bound(scores.surprises, kls, scores.tops == kept["top"])
