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

from localknobs.errors import LocalknobsError, NotEnough
from localknobs.evaluate.distances import Floats, Logits, Scores, Tokens, blocks, room, shares, surprises_of
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
        # Better asked for before than found out after an hour.
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

    def _room(self, count: int) -> npt.NDArray[np.void]:
        kept = int(self._path.with_suffix(".width").read_text(encoding="ascii"))
        return room("kept", (count,), _kind(kept))

    def write(self, begin: int, logits: Logits, targets: Tokens) -> tuple[Scores, Floats]:
        """Keep some tokens; return how the model fares on them, and the probability of what is not kept of each.

        Shapes:
            logits: (tokens, vocabulary).  targets, result: (tokens,).

        Raises:
            LocalknobsError: the disk refuses.
        """
        rows = self._room(len(logits))
        kept = rows["ids"].shape[1]
        for part in blocks(logits):
            block = logits[part]
            rows["top"][part], largest, weights, sums = shares(block)
            rows["surprise"][part] = surprises_of(block, targets[part], largest, sums)
            rows["ids"][part] = ids = likeliest(block, kept)
            rows["logs"][part], rows["tail"][part] = _logs_at(block, ids, largest, weights, sums)
        # Written and read, not mapped: to touch a page for the first time takes longer than to copy it.
        try:
            with open(self._path, "r+b") as file:
                file.seek(begin * rows.itemsize)
                file.write(rows.data)
        except OSError as error:
            raise LocalknobsError(
                f"The parent's log-probabilities cannot be kept in {self._path.parent}: {error.strerror}",
                "Read fewer chunks (--chunks), or free some space.",
            ) from None
        outside: Floats = np.exp(rows["tail"])
        return Scores(rows["surprise"].copy(), rows["top"].copy()), outside

    def read(self, begin: int, count: int) -> npt.NDArray[np.void]:
        """Return the kept rows of some tokens; what is read next in the same thread takes their memory."""
        rows = self._room(count)
        with open(self._path, "rb") as file:
            file.seek(begin * rows.itemsize)
            file.readinto(rows.view(np.uint8).data)
        return rows


def likeliest(block: Logits, count: int) -> Tokens:
    """Return the numbers of the largest logits of each row, in no order.

    Of a large vocabulary, the largest of some groups are looked at first: what is below the `count`th of those is not
    among the largest of all. Of 150,000 that takes a twentieth of the time of looking for them among all.
    """
    rows, columns = block.shape
    if columns < 32 * count:
        # Finding the least that counts, and then what reaches it, takes half the time of finding both at once.
        ordered = room("ordered", block.shape)
        np.copyto(ordered, block)
        ordered.partition(columns - count, axis=1)
        least = ordered[:, columns - count, None]
        places = np.flatnonzero(np.greater_equal(block, least, out=room("reached", block.shape, np.bool_)))
        if len(places) == rows * count:
            row, found = np.divmod(places.reshape(rows, count), columns)
            if (row == np.arange(rows)[:, None]).all():
                return found.astype(np.int32)
        # Equal ones at the border, or a logit that is no number.
        return np.argpartition(block, -count, axis=1)[:, -count:].astype(np.int32)
    groups = 4 * count
    width = columns // groups
    heads = block[:, : groups * width].reshape(rows, width, groups).max(axis=1)
    least = np.partition(heads, -count, axis=1)[:, -count]
    chosen = np.empty((rows, count), np.int32)
    for at, logits in enumerate(block):
        some = np.flatnonzero(logits >= least[at])
        if len(some) < count:  # a logit that is no number
            some = np.arange(columns)
        chosen[at] = some[np.argpartition(logits[some], -count)[-count:]]
    return chosen


def _logs_at(block: Logits, ids: Tokens, largest: Logits, weights: Logits, sums: Floats) -> tuple[Floats, Floats]:
    """Return the log-probabilities of some tokens of each row, and that of all others together.

    Args:
        block: The logits.
        ids: Which tokens.
        largest: As `shares` returns it.
        weights: As `shares` returns them; those of the tokens are set to 0.
        sums: As `shares` returns them.
    """
    places = ids + block.shape[1] * np.arange(len(block))[:, None]
    logs = block.take(places).astype(np.float64) - largest - np.log(sums)[:, None]
    # The tail is summed itself: 1 minus the rest would be rounding where it is small.
    weights.put(places, 0)
    with np.errstate(divide="ignore"):
        tail = np.log(weights.sum(axis=1) / sums)
    return logs, np.maximum(tail, LEAST_TAIL)


def compare_with_kept(kept: npt.NDArray[np.void], logits: Logits, targets: Tokens) -> Bound:
    """Return how far a model is from what was kept of its parent: a lower bound of each KL divergence.

    Shapes:
        kept: (tokens,).  logits: (tokens, vocabulary).  targets: (tokens,).
    """
    count = len(targets)
    bound = Bound(np.empty(count), np.empty(count), np.empty(count, np.bool_))
    for rows in blocks(logits):
        block = logits[rows]
        tops, largest, weights, sums = shares(block)
        bound.surprises[rows] = surprises_of(block, targets[rows], largest, sums)
        bound.same_top[rows] = tops == kept["top"][rows]
        logs, tail = _logs_at(block, kept["ids"][rows], largest, weights, sums)
        theirs, their_tail = kept["logs"][rows], kept["tail"][rows]
        within = (np.exp(theirs) * (theirs - logs)).sum(axis=1)
        bound.kls[rows] = within + np.exp(their_tail) * (their_tail - tail)
    return bound
