"""Runs the real samplers one after the other on a copy of kept scores, and measures what each of them did.

No token is computed anew: this takes milliseconds, so that a view can follow a slider that moves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from localknobs.engine.chain import Link, links
from localknobs.engine.llama import LoadedModel
from localknobs.engine.view import Candidate, SamplerView, Stage
from localknobs.knobs import Value

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data of llama.h
Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Place:
    """One token of an answer, with what is needed to look at it.

    Args:
        index: Which token of the answer, from 0.
        token: The one that was drawn; None when none was yet.
        tokens: The vocabulary numbers whose scores were kept; None for all of them, in order.
        scores: The kept scores.
        log_total: Logarithm of the sum of the exponentials of all scores, also those not kept.
        values: The sampling values in force.
        memories: Copies of the samplers that learn, as they were before the draw, by the key of their link.
        history: Every token before this one, prompt included.
        allowed: Returns for each token of the vocabulary whether the grammar allows it here; None for no grammar.
    """

    index: int
    token: int | None
    tokens: Numbers | None
    scores: Numbers
    log_total: float
    values: Mapping[str, Value]
    memories: Mapping[tuple[Any, ...], Any]
    history: Sequence[int]
    allowed: Callable[[], Numbers] | None


class _Path:
    """Candidates on their way through the chain, with the probability that they go this way."""

    def __init__(self, data: Numbers, weight: float = 1.0) -> None:
        self.data, self.weight, self.sorted = data, weight, False

    def copy(self, weight: float) -> _Path:
        other = _Path(self.data.copy(), weight)
        other.sorted = self.sorted
        return other

    def apply(self, sampler: Any) -> None:
        array = lib.llama_token_data_array(
            self.data.ctypes.data_as(lib.llama_token_data_p), len(self.data), -1, self.sorted
        )
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        self.data, self.sorted = self.data[: array.size], bool(array.sorted)

    def probabilities(self) -> Numbers:
        """Return the probability of each candidate, in the order of `data`."""
        scores = self.data["logit"]
        best = scores.max() if len(scores) else -np.inf
        if not np.isfinite(best):
            return np.zeros(len(scores), np.float32)  # every token is barred
        powers = np.exp(scores - best)
        return cast(Numbers, powers / powers.sum(dtype=np.float64))

    def alive(self) -> Numbers:
        """Return the tokens that can still be drawn: some samplers remove, others score with minus infinity."""
        return cast(Numbers, self.data["id"][np.isfinite(self.data["logit"])])


def look(model: LoadedModel, place: Place, values: Mapping[str, Value], top: int, places: tuple[int, int]) -> SamplerView:
    """Return what these values make of the scores at a place.

    A stage that acts by chance (XTC) sends the candidates two ways, and what follows is the average of both: the
    last probabilities are those with which the token is really drawn. So are they with a grammar, which is asked, as
    llama.cpp does, after the draw; only when it refuses that token, the chain runs again over what it allows. (That
    mirostat's aim has moved a little by then is left out.)

    Args:
        model: Whose vocabulary counts.
        place: Where to look.
        values: Complete sampling values.
        top: How many of the likeliest before, and how many of the likeliest after, are described.
        places: Passed on.

    Raises:
        BadValue: the logit bias is wrong for this model.
    """
    runner = _Runner(model, place, values)
    stages, dense = runner.run(runner.start())
    if place.allowed is not None:
        stages, dense = runner.with_grammar(stages, dense, place.allowed())
    own = np.exp(place.scores - np.float32(place.log_total))
    own_dense = own if place.tokens is None else np.zeros(model.vocabulary_size, np.float32)
    if place.tokens is not None:
        own_dense[place.tokens] = own
    dense[0] = own_dense
    shown = _shown(own_dense, dense[-1], top, place.token)
    scores = place.scores if place.tokens is None else _spread(place, model.vocabulary_size)
    best = shown[0] if place.token is None else place.token
    return SamplerView(
        place=place.index,
        drawn=place.token,
        exact=place.tokens is None,
        seen=min(1.0, float(own.sum(dtype=np.float64))) if place.tokens is not None else 1.0,
        entropy=_entropy(own),
        confidence=float(own_dense[best]),
        stages=tuple(stages),
        candidates=tuple(
            Candidate(token, *_text(model, token), float(scores[token]), tuple(float(step[token]) for step in dense))
            for token in shown
        ),
        places=places,
    )


class _Runner:
    """Runs a chain over one place's scores."""

    def __init__(self, model: LoadedModel, place: Place, values: Mapping[str, Value]) -> None:
        self._size = model.vocabulary_size
        self._place = place
        self._values = values
        # Random numbers are not looked at, so any seed will do.
        self._links = [link for link in links(model, values, 0) if link.name != "dist"]

    def start(self, allowed: Numbers | None = None) -> list[_Path]:
        """Return the candidates before the first sampler: those that a grammar does not allow score minus infinity."""
        place = self._place
        data = np.empty(len(place.scores), TOKEN_DATA)
        data["id"] = np.arange(self._size) if place.tokens is None else place.tokens
        data["logit"], data["p"] = place.scores, 0.0
        if allowed is not None:
            data["logit"][~allowed[data["id"]]] = -np.inf
        return [_Path(data)]

    def run(self, paths: list[_Path]) -> tuple[list[Stage], list[Numbers]]:
        """Return the stages, and the probabilities over the vocabulary before the first and after each of them."""
        dense = [self._dense(paths)]
        count = self._count(paths)
        stages = []
        for name, link in self._steps():
            if link is None:
                stages.append(Stage(name, False, count, count, 0.0, 0.0))
                dense.append(dense[-1])
                continue
            chance, paths = self._apply(link, paths)
            dense.append(self._dense(paths))
            before, count = count, self._count(paths)
            stages.append(Stage(name, True, before, count, *_difference(dense[-2], dense[-1]), chance))
        return stages, dense

    def _steps(self) -> list[tuple[str, Link | None]]:
        """Return every stage with its sampler, None for one that is off."""
        active = {link.name: link for link in self._links}
        order = cast("tuple[str, ...]", self._values["samplers"])
        if self._values["mirostat"]:
            return list(active.items())
        named = [name for name in order if name != "adaptive_p"]
        around = [name for name in active if name not in named]
        first = [name for name in around if name == "logit_bias"]
        last = [name for name in around if name not in ("logit_bias", "greedy")]
        # What draws the likeliest has nothing left to do behind a temperature of 0.
        return [(name, active.get(name)) for name in [*first, *named, *last]]

    def _apply(self, link: Link, paths: list[_Path]) -> tuple[float, list[_Path]]:
        """Apply a sampler; return how likely it acts, and the paths after it."""
        chance = 1.0
        if link.name == "xtc":
            chance, threshold = float(link.key[1]), float(link.key[2])
            sampler = lib.llama_sampler_init_xtc(1.0, threshold, 0, 0)
            if chance < 1:
                untouched = [path.copy(path.weight * (1 - chance)) for path in paths]
                struck = [path.copy(path.weight * chance) for path in paths]
                for path in struck:
                    path.apply(sampler)
                lib.llama_sampler_free(sampler)
                return chance, untouched + struck
        elif link.name == "greedy":
            sampler = lib.llama_sampler_init_temp(0.0)  # leaves the likeliest, as greedy takes it
        else:
            sampler = None
        for path in paths:
            one = sampler or self._sampler(link)
            path.apply(one)
            if not sampler:
                lib.llama_sampler_free(one)
        if sampler:
            lib.llama_sampler_free(sampler)
        return chance, paths

    def _sampler(self, link: Link) -> Any:
        """Return a sampler in the state it has at this place; one whose values are new begins afresh, as in the answer."""
        if memory := self._place.memories.get(link.key):
            return lib.llama_sampler_clone(memory)
        sampler = link.make()
        for token in self._place.history[-link.window :] if link.window else ():
            lib.llama_sampler_accept(sampler, token)
        return sampler

    def with_grammar(
        self, stages: list[Stage], dense: list[Numbers], allowed: Numbers
    ) -> tuple[list[Stage], list[Numbers]]:
        """Return the stages and probabilities with the grammar's own behind them."""
        free = dense[-1]
        refused = float(free[~allowed].sum(dtype=np.float64))
        final = np.where(allowed, free, 0)
        if refused:
            _, again = self.run(self.start(allowed))
            final = final + refused * np.where(allowed, again[-1], 0)
        before, after = int(np.count_nonzero(free)), int(np.count_nonzero(final))
        return [*stages, Stage("grammar", True, before, after, *_difference(free, final))], [*dense, final]

    def _dense(self, paths: list[_Path]) -> Numbers:
        found = np.zeros(self._size, np.float32)
        for path in paths:
            found[path.data["id"]] += np.float32(path.weight) * path.probabilities()
        return found

    @staticmethod
    def _count(paths: list[_Path]) -> int:
        if len(paths) == 1:
            return len(paths[0].alive())
        return len(np.unique(np.concatenate([path.alive() for path in paths])))


def _difference(before: Numbers, after: Numbers) -> tuple[float, float]:
    """Return how much probability was removed, and how much lies elsewhere."""
    removed = float(before[after == 0].sum(dtype=np.float64))
    return removed, float(np.abs(after - before).sum(dtype=np.float64)) / 2


def _entropy(probabilities: Numbers) -> float:
    some = probabilities[probabilities > 0]
    return max(0.0, -float((some * np.log2(some)).sum(dtype=np.float64)))


def _shown(before: Numbers, after: Numbers, top: int, drawn: int | None) -> list[int]:
    """Return the tokens to describe, by the probability before, then after."""
    chosen = {*_largest(before, top), *(token for token in _largest(after, top) if after[token] > 0)}
    if drawn is not None:
        chosen.add(drawn)
    return sorted(chosen, key=lambda token: (-before[token], -after[token], token))


def _largest(numbers: Numbers, count: int) -> list[int]:
    if count >= len(numbers):
        return list(range(len(numbers)))
    return [int(at) for at in np.argpartition(numbers, -count)[-count:]]


def _spread(place: Place, size: int) -> Numbers:
    scores = np.full(size, -np.inf, np.float32)
    scores[place.tokens] = place.scores
    return scores


def _text(model: LoadedModel, token: int) -> tuple[str, bool]:
    """Return a token as text, and whether it ends the answer."""
    data = model.piece(token)
    return (data or b"").decode("utf-8", "replace") or model.token_text(token), data is None
