"""Runs the real samplers one after the other on a copy of kept scores, and measures what each of them did.

No token is computed anew: this takes milliseconds, so that a view can follow a slider that moves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        prototypes: Samplers without a memory that are dear to make, by key; whoever looks keeps them.
        allowed: Returns for each token of the vocabulary whether the grammar allows it here; None for no grammar.
        trail: What the last look at this place found on its way; used and renewed.
    """

    index: int
    token: int | None
    tokens: Numbers | None
    scores: Numbers
    log_total: float
    values: Mapping[str, Value]
    memories: Mapping[tuple[Any, ...], Any]
    history: Sequence[int]
    prototypes: dict[tuple[Any, ...], Any]
    allowed: Callable[[], Numbers] | None
    trail: Trail


@dataclass(slots=True)
class Trail:
    """What was found at one place after each stage: a slider that moves changes nothing of the stages before its own.

    Args:
        steps: Stage after stage.
        looks: How often the place was looked at; from the second time on it pays to sort the scores.
    """

    steps: list[_Step] = field(default_factory=list)
    looks: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage that was run.

    Args:
        key: Its sampler's name and parameters.
        stage: What it did; None for the candidates before the first one.
        paths: The candidates after it.
        dense: Their probabilities, over the vocabulary.
        count: How many can still be drawn.
    """

    key: tuple[Any, ...]
    stage: Stage | None
    paths: list[_Path]
    dense: Numbers
    count: int


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
        # XTC takes candidates off the front by moving the pointer.
        first = (ctypes.addressof(array.data[0]) - self.data.ctypes.data) // TOKEN_DATA.itemsize
        self.data, self.sorted = self.data[first : first + array.size], bool(array.sorted)

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


def look(
    model: LoadedModel, place: Place, values: Mapping[str, Value], top: int, places: tuple[int, int]
) -> SamplerView:
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
    stages, dense = runner.run(place.trail.steps)
    if place.allowed is not None:
        stages, dense = runner.with_grammar(stages, dense, place.allowed())
    own = np.exp(place.scores - np.float32(place.log_total))
    own_dense = own if place.tokens is None else np.zeros(model.vocabulary_size, np.float32)
    if place.tokens is not None:
        own_dense[place.tokens] = own
    dense[0] = own_dense
    shown = _shown(place, own_dense, dense[-1], top)
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

    def run(self, trail: list[_Step], allowed: Numbers | None = None) -> tuple[list[Stage], list[Numbers]]:
        """Return the stages, and the probabilities over the vocabulary before the first and after each of them.

        Args:
            trail: What an earlier run left, which is brought up to date.
            allowed: What a grammar allows: other tokens score minus infinity from the start.
        """
        # Sorted once, it is sorted for all that come; but a logit bias wants the tokens in order.
        in_order = allowed is None and not {"logit_bias", "penalties", "dry"} & {link.name for link in self._links}
        self._place.trail.looks += allowed is None
        is_sorted = in_order and self._place.trail.looks > 1
        steps = self._steps()
        keys = [("scores", is_sorted), *((name, link.key if link else None) for name, link in steps)]
        pairs = enumerate(zip(trail, keys, strict=False))
        del trail[next((at for at, (step, key) in pairs if step.key != key), min(len(trail), len(keys))) :]
        if not trail:
            trail.append(self._start(keys[0], is_sorted, allowed))
        for key, (name, link) in list(zip(keys[1:], steps, strict=True))[len(trail) - 1 :]:
            trail.append(self._step(name, key, link, trail[-1]))
        return [step.stage for step in trail if step.stage], [step.dense for step in trail]

    def _start(self, key: tuple[Any, ...], is_sorted: bool, allowed: Numbers | None) -> _Step:
        """Return the candidates before the first sampler."""
        place = self._place
        data = np.empty(len(place.scores), TOKEN_DATA)
        data["id"] = np.arange(self._size) if place.tokens is None else place.tokens
        data["logit"], data["p"] = place.scores, 0.0
        if allowed is not None:
            data["logit"][~allowed[data["id"]]] = -np.inf
        path = _Path(data[np.argsort(-place.scores)] if is_sorted else data)
        path.sorted = is_sorted
        return _Step(key, None, [path], self._dense([path]), self._count([path]))

    def _step(self, name: str, key: tuple[Any, ...], link: Link | None, last: _Step) -> _Step:
        """Return a stage that follows another one."""
        if link is None:
            return _Step(key, Stage(name, False, last.count, last.count, 0.0, 0.0), last.paths, last.dense, last.count)
        chance, paths = self._apply(link, [path.copy(path.weight) for path in last.paths])
        dense, count = self._dense(paths), self._count(paths)
        stage = Stage(name, True, last.count, count, *_difference(last.dense, dense), chance)
        return _Step(key, stage, paths, dense, count)

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
        """Apply a sampler to paths that are nobody else's; return how likely it acts, and the paths after it."""
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
        """Return a sampler in its state at this place; one whose values are new begins afresh, as in an answer."""
        if memory := self._place.memories.get(link.key):
            return lib.llama_sampler_clone(memory)
        sampler = self._dry(link) if link.name == "dry" else link.make()
        for token in self._place.history[-link.window :] if link.window else ():
            lib.llama_sampler_accept(sampler, token)
        return sampler

    def _dry(self, link: Link) -> Any:
        """Return a new DRY; making one looks for the breakers in the whole vocabulary, copying does not."""
        known = self._place.prototypes
        if link.key not in known:
            for other in known.values():
                lib.llama_sampler_free(other)
            known.clear()
            known[link.key] = link.make()
        return lib.llama_sampler_clone(known[link.key])

    def with_grammar(
        self, stages: list[Stage], dense: list[Numbers], allowed: Numbers
    ) -> tuple[list[Stage], list[Numbers]]:
        """Return the stages and probabilities with the grammar's own behind them."""
        free = dense[-1]
        refused = float(free[~allowed].sum(dtype=np.float64))
        final = np.where(allowed, free, 0)
        if refused:
            _, again = self.run([], allowed)
            final = final + refused * np.where(allowed, again[-1], 0)
        before, after = int(np.count_nonzero(free)), int(np.count_nonzero(final))
        return [*stages, Stage("grammar", True, before, after, *_difference(free, final))], [*dense, final]

    def _dense(self, paths: list[_Path]) -> Numbers:
        found = np.zeros(self._size, np.float32)
        for path in paths:
            found[path.data["id"]] += np.float32(path.weight) * path.probabilities()
        return found

    def _count(self, paths: list[_Path]) -> int:
        if len(paths) == 1:
            return len(paths[0].alive())
        some = np.zeros(self._size, bool)
        for path in paths:
            some[path.alive()] = True
        return int(np.count_nonzero(some))


def _difference(before: Numbers, after: Numbers) -> tuple[float, float]:
    """Return how much probability was removed, and how much lies elsewhere."""
    removed = float(before[after == 0].sum(dtype=np.float64))
    return removed, float(np.abs(after - before).sum(dtype=np.float64)) / 2


def _entropy(probabilities: Numbers) -> float:
    some = probabilities[probabilities > 0]
    return max(0.0, -float((some * np.log2(some)).sum(dtype=np.float64)))


def _shown(place: Place, before: Numbers, after: Numbers, top: int) -> list[int]:
    """Return the tokens to describe, by the probability before, then after."""
    likeliest = _largest(place.scores, top)
    possible = np.flatnonzero(after)
    chosen = {int(at) for at in (likeliest if place.tokens is None else place.tokens[likeliest])}
    chosen.update(int(at) for at in possible[_largest(after[possible], top)])
    if place.token is not None:
        chosen.add(place.token)
    return sorted(chosen, key=lambda token: (-before[token], -after[token], token))


def _largest(numbers: Numbers, count: int) -> Numbers:
    """Return the places of the largest numbers; quick as long as few of them are equal."""
    return np.arange(len(numbers)) if count >= len(numbers) else np.argpartition(numbers, -count)[-count:]


def _spread(place: Place, size: int) -> Numbers:
    scores = np.full(size, -np.inf, np.float32)
    scores[place.tokens] = place.scores
    return scores


def _text(model: LoadedModel, token: int) -> tuple[str, bool]:
    """Return a token as text, and whether it ends the answer."""
    data = model.piece(token)
    # A token may be a part of a character: \xc3 tells more than a replacement sign.
    return (data or b"").decode("utf-8", "backslashreplace") or model.token_text(token), data is None
