"""Candidates on their way through a chain of samplers, kept in an order in which llama.cpp's samplers are quick.

Most samplers look at the candidates from the best to the worst, and sort them first: 10 ms for 150,000 tokens, at every
stage, every time. Here the order of a place's scores is found once; a stage's candidates are brought into it by
looking numbers up, and llama.cpp is told that they are sorted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from localknobs.engine.binding import lib
from localknobs.engine.chain import NOTHING

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data of llama.h
Numbers = NDArray[Any]


class Path:
    """Candidates, with the probability that they go this way.

    Args:
        buffer: Room of type `TOKEN_DATA` for all candidates, in which llama.cpp works; all paths share it.
        tokens: Their vocabulary numbers (intp).
        scores: Their scores so far (float32). Neither array is written to: other paths may share them.
        weight: Probability that the candidates go this way, 0 to 1.
        in_order: Whether they are sorted by score, the best first.
    """

    __slots__ = ("_buffer", "in_order", "scores", "tokens", "weight")

    def __init__(
        self, buffer: Numbers, tokens: Numbers, scores: Numbers, weight: float = 1.0, *, in_order: bool = False
    ) -> None:
        self._buffer, self.tokens, self.scores, self.weight, self.in_order = buffer, tokens, scores, weight, in_order

    def copy(self, weight: float) -> Path:
        """Return the same candidates with another weight."""
        return Path(self._buffer, self.tokens, self.scores, weight, in_order=self.in_order)

    def apply(self, sampler: Any) -> None:
        """Apply one of llama.cpp's samplers to all candidates."""
        self.tokens, self.scores, self.in_order = self._applied(sampler, self.tokens, self.scores, self.in_order)

    def apply_to(self, sampler: Any, some: Numbers, size: int) -> None:
        """Apply a sampler that changes the scores of some tokens, and none for the sake of another.

        Args:
            sampler: The sampler.
            some: The tokens it may change.
            size: Tokens of the vocabulary.
        """
        meant = np.zeros(size, bool)
        meant[some] = True
        places = np.flatnonzero(meant[self.tokens])
        _, changed, _ = self._applied(sampler, self.tokens[places], self.scores[places], False)
        self.change(places, changed)

    def change(self, places: Numbers, scores: Numbers) -> None:
        """Give the candidates at these places other scores."""
        self.scores, self.in_order = self.scores.copy(), False
        self.scores[places] = scores

    def _applied(self, sampler: Any, tokens: Numbers, scores: Numbers, in_order: bool) -> tuple[Numbers, Numbers, bool]:
        data = self._buffer[: len(tokens)]
        data["id"], data["logit"] = tokens, scores
        array = lib.llama_token_data_array(data.ctypes.data_as(lib.llama_token_data_p), len(data), -1, in_order)
        if len(data):
            lib.llama_sampler_apply(sampler, ctypes.byref(array))
        # XTC takes candidates off the front by moving the pointer.
        first = (ctypes.addressof(array.data[0]) - data.ctypes.data) // TOKEN_DATA.itemsize
        left = data[first : first + array.size]
        return left["id"].astype(np.intp), left["logit"].copy(), bool(array.sorted)

    def sort(self, order: Numbers) -> None:
        """Sort by score.

        Args:
            order: All tokens in an order that is nearly right already: by the scores before any sampler.
        """
        if self.in_order:
            return
        place = np.full(len(order), -1, np.intp)
        place[self.tokens] = np.arange(len(self.tokens))
        place = place[order]
        place = place[place >= 0]
        # Barred candidates are spread over the whole list.
        barred = self.scores[place] == -np.inf
        if barred.any():
            place = np.concatenate((place[~barred], place[barred]))
        scores = self.scores[place]
        if (scores[1:] > scores[:-1]).any():  # penalties moved a few: a merge sort has little left to do
            again = np.argsort(-scores, kind="stable")
            place, scores = place[again], scores[again]
        self.tokens, self.scores, self.in_order = self.tokens[place], scores, True

    def keep_typical(self, share: float) -> None:
        """Keep the locally typical candidates of a sorted list, as the chain's sampler does.

        llama.cpp sorts by the distance from the entropy, which takes it 35 ms for 150,000 tokens. Down a sorted list
        that distance falls and then rises, so that one merge does it. All sums are made in llama.cpp's order and
        precision, so that the same tokens stay, but for one or two at the edge (its expf rounds otherwise).

        Args:
            share: Probability to keep, 0 to 1.

        Source: llama-sampler.cpp, llama_sampler_typical_apply; Meister 2022, arXiv:2202.00666.
        """
        seen = int(np.searchsorted(-self.scores, -(self.scores[0] + np.float32(np.log(NOTHING))), side="right"))
        tokens, scores = self.tokens[:seen], self.scores[:seen]
        powers = np.exp(scores - scores[0])
        own = powers / np.add.accumulate(powers)[-1]
        surprise = -np.log(own)
        entropy = np.add.accumulate(own * surprise)[-1]
        distance = np.abs(surprise - entropy)
        middle = int(np.searchsorted(surprise, entropy))
        nearest = np.concatenate((np.arange(middle)[::-1], np.arange(middle, len(own))))
        nearest = nearest[np.argsort(distance[nearest], kind="stable")]
        count = int(np.searchsorted(np.add.accumulate(own[nearest]), np.float32(share), side="right")) + 1
        kept = np.zeros(len(own), bool)
        kept[nearest[:count]] = True
        self.tokens, self.scores = tokens[kept], scores[kept]

    def probabilities(self) -> Numbers:
        """Return the probability of each candidate, in the order of `tokens`."""
        best = self.scores.max() if len(self.scores) else -np.inf
        if not np.isfinite(best):
            return np.zeros(len(self.scores), np.float32)  # every token is barred
        powers = np.exp(self.scores - best)
        powers /= powers.sum()
        return cast(Numbers, powers)

    def possible(self) -> Numbers:
        """Return for each candidate whether it can be drawn: some samplers remove, others score with -infinity."""
        return np.isfinite(self.scores)


def spread(paths: Sequence[Path], size: int) -> tuple[Numbers, int]:
    """Return the probability of every token of the vocabulary, and how many can be drawn.

    Args:
        paths: The ways there are, whose weights are 1 together.
        size: Tokens of the vocabulary.
    """
    dense = np.zeros(size, np.float32)
    if len(paths) == 1:
        dense[paths[0].tokens] = paths[0].probabilities()
        return dense, int(np.count_nonzero(paths[0].possible()))
    some = np.zeros(size, bool)
    for path in paths:
        dense[path.tokens] += np.float32(path.weight) * path.probabilities()
        some[path.tokens[path.possible()]] = True
    return dense, int(np.count_nonzero(some))


def difference(before: Numbers, after: Numbers) -> tuple[float, float]:
    """Return how much probability was removed, and how much lies elsewhere."""
    removed = float((before * (after == 0)).sum())
    return removed, float(np.abs(after - before).sum()) / 2


def largest(numbers: Numbers, count: int) -> Numbers:
    """Return the places of the largest numbers, in no order."""
    if count >= len(numbers):
        return np.arange(len(numbers))
    places = None
    if len(numbers) > (least := 64 * max(count, 64)):
        # The best of each block: so many of them are that good at least, which leaves few others to look at.
        whole = len(numbers) // 64 * 64
        best = numbers[:whole].reshape(-1, 64).max(axis=1)
        places = np.flatnonzero(numbers >= np.partition(best, -count)[-count])
        if not count <= len(places) <= least:
            places = None  # many are equal
    if places is None:
        return np.argpartition(numbers, -count)[-count:]
    return cast(Numbers, places[np.argpartition(numbers[places], -count)[-count:]])
