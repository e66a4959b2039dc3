"""Runs the real samplers one after the other on a copy of kept scores, and measures what each of them did.

No token is computed anew: this takes milliseconds, so that a view can follow a slider that moves. Two samplers are not
run on long lists, since that takes longer than a slider may: typical-p (`Path.keep_typical`) and the last step of DRY
(`repeats.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from localknobs.engine.binding import lib
from localknobs.engine.chain import Link, links
from localknobs.engine.llama import LoadedModel
from localknobs.engine.repeats import Repeats
from localknobs.engine.sampler_paths import Numbers, Path, difference, largest, spread
from localknobs.engine.view import Candidate, SamplerView, Stage
from localknobs.knobs import Value

LONG = 4096
"""Candidates from which on llama.cpp takes long to sort them."""
_SORTING = {"top_k", "typ_p", "top_p", "xtc", "mirostat"}
"""Samplers that sort; so does a temperature that moves with the entropy."""


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
        repeats: Finds what DRY would find; whoever looks keeps it.
        buffer: Room of type `TOKEN_DATA` for the whole vocabulary; whoever looks keeps it.
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
    repeats: Repeats
    buffer: Numbers
    allowed: Callable[[], Numbers] | None
    trail: Trail


@dataclass(slots=True)
class Trail:
    """What was found at one place after each stage: a slider that moves changes nothing of the stages before its own.

    Args:
        steps: Stage after stage.
        allowed_steps: The same over what the grammar allows.
        looks: How often the place was looked at; from the second time on it pays to sort the scores.
        order: The tokens, the best score first; empty while nobody needed it.
        own: What the scores alone say; None before the first look.
    """

    steps: list[_Step] = field(default_factory=list)
    allowed_steps: list[_Step] = field(default_factory=list)
    looks: int = 0
    order: Numbers | None = None
    own: _Own | None = None


@dataclass(frozen=True, slots=True)
class _Own:
    """The model's own distribution: over the vocabulary, its entropy in bits, and the share that was kept of it."""

    dense: Numbers
    entropy: float
    seen: float


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
    paths: list[Path]
    dense: Numbers
    count: int


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
    place.trail.looks += 1
    own = _own(place, model.vocabulary_size)
    runner = _Runner(model, place, values)
    stages, dense = runner.run(place.trail.steps)
    if place.allowed is not None:
        stages, dense = runner.with_grammar(stages, dense, place.allowed())
    dense[0] = own.dense
    shown = _shown(place, own.dense, dense[-1], top)
    scores = place.scores if place.tokens is None else _spread(place, model.vocabulary_size)
    best = shown[0] if place.token is None else place.token
    return SamplerView(
        place=place.index,
        drawn=place.token,
        exact=place.tokens is None,
        seen=own.seen,
        entropy=own.entropy,
        confidence=float(own.dense[best]),
        stages=tuple(stages),
        candidates=tuple(
            Candidate(token, *_text(model, token), float(scores[token]), tuple(float(step[token]) for step in dense))
            for token in shown
        ),
        places=places,
    )


def _own(place: Place, size: int) -> _Own:
    """Return the model's own distribution at a place, which is found once."""
    if place.trail.own is None:
        own = np.exp(place.scores - np.float32(place.log_total))
        dense, seen = own, 1.0
        if place.tokens is not None:
            dense = np.zeros(size, np.float32)
            dense[place.tokens] = own
            seen = min(1.0, float(own.sum(dtype=np.float64)))
        place.trail.own = _Own(dense, _entropy(own), seen)
    return place.trail.own


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
        steps = self._steps()
        keys = [(name, link.key if link else None) for name, link in steps]
        if not trail:
            trail.append(self._start(allowed))
        pairs = enumerate(zip(trail[1:], keys, strict=False), 1)
        del trail[next((at for at, (step, key) in pairs if step.key != key), min(len(trail), 1 + len(keys))) :]
        for key, (name, link) in list(zip(keys, steps, strict=True))[len(trail) - 1 :]:
            trail.append(self._step(name, key, link, trail[-1]))
        return [step.stage for step in trail if step.stage], [step.dense for step in trail]

    def _start(self, allowed: Numbers | None) -> _Step:
        """Return the candidates before the first sampler."""
        place = self._place
        tokens = np.arange(self._size) if place.tokens is None else place.tokens.astype(np.intp)
        scores = place.scores if allowed is None else np.where(allowed[tokens], place.scores, np.float32(-np.inf))
        paths = [Path(place.buffer, tokens, scores)]
        return _Step(("scores",), None, paths, *spread(paths, self._size))

    def _step(self, name: str, key: tuple[Any, ...], link: Link | None, last: _Step) -> _Step:
        """Return a stage that follows another one."""
        if link is None:
            return _Step(key, Stage(name, False, last.count, last.count, 0.0, 0.0), last.paths, last.dense, last.count)
        chance, paths = self._apply(link, [path.copy(path.weight) for path in last.paths])
        dense, count = spread(paths, self._size)
        stage = Stage(name, True, last.count, count, *difference(last.dense, dense), chance)
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

    def _apply(self, link: Link, paths: list[Path]) -> tuple[float, list[Path]]:
        """Apply a sampler to paths that are nobody else's; return how likely it acts, and the paths after it."""
        self._sort(link, paths)
        if link.name == "xtc":
            chance, threshold = float(link.key[1]), float(link.key[2])
            struck = [path.copy(path.weight * chance) for path in paths]
            untouched = [path.copy(path.weight * (1 - chance)) for path in paths] if chance < 1 else []
            self._apply_all(lib.llama_sampler_init_xtc(1.0, threshold, 0, 0), struck)
            return chance, untouched + struck
        if link.name == "greedy":
            self._apply_all(lib.llama_sampler_init_temp(0.0), paths)  # leaves the likeliest, as greedy takes it
        elif link.name == "dry":
            self._place.repeats.apply(link, self._place.history, paths, self._size)
        elif link.name == "penalties":
            some = np.unique(np.array(self._place.history[-link.window :], np.intp))
            sampler = self._sampler(link)
            for path in paths:
                path.apply_to(sampler, some, self._size)
            lib.llama_sampler_free(sampler)
        else:
            for path in paths:
                if link.name == "typ_p" and path.in_order and len(path.tokens) > LONG:
                    path.keep_typical(float(link.key[1]))
                else:
                    self._apply_all(self._sampler(link), [path])
        return 1.0, paths

    def _apply_all(self, sampler: Any, paths: list[Path]) -> None:
        """Apply a sampler without a memory to some paths, and free it."""
        for path in paths:
            path.apply(sampler)
        lib.llama_sampler_free(sampler)

    def _sort(self, link: Link, paths: list[Path]) -> None:
        """Sort long lists for a sampler that would sort them."""
        place = self._place
        moves = link.name == "temperature" and len(link.key) > 2
        if place.trail.looks < 2 or place.tokens is not None or not (moves or link.name in _SORTING):
            return
        for path in paths:
            # Of the first few llama.cpp makes quick work.
            if len(path.tokens) > LONG and not (link.name == "top_k" and link.key[1] <= LONG):
                if place.trail.order is None:
                    place.trail.order = np.argsort(-place.scores, kind="stable")
                path.sort(place.trail.order)

    def _sampler(self, link: Link) -> Any:
        """Return a sampler in its state at this place; one whose values are new begins afresh, as in an answer."""
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
        refused = float((free * ~allowed).sum())
        final = free * allowed
        if refused:
            _, again = self.run(self._place.trail.allowed_steps, allowed)
            final += np.float32(refused) * (again[-1] * allowed)
        before, after = int(np.count_nonzero(free)), int(np.count_nonzero(final))
        return [*stages, Stage("grammar", True, before, after, *difference(free, final))], [*dense, final]


def _entropy(probabilities: Numbers) -> float:
    some = probabilities[probabilities > 0]
    return max(0.0, -float((some * np.log2(some)).sum(dtype=np.float64)))


def _shown(place: Place, before: Numbers, after: Numbers, top: int) -> list[int]:
    """Return the tokens to describe, by the probability before, then after."""
    likeliest = largest(place.scores, top)
    chosen = {int(at) for at in (likeliest if place.tokens is None else place.tokens[likeliest])}
    possible = np.flatnonzero(after)
    chosen.update(int(at) for at in possible[largest(after[possible], top)])
    if place.token is not None:
        chosen.add(place.token)
    return sorted(chosen, key=lambda token: (-before[token], -after[token], token))


def _spread(place: Place, size: int) -> Numbers:
    scores = np.full(size, -np.inf, np.float32)
    scores[place.tokens] = place.scores
    return scores


def _text(model: LoadedModel, token: int) -> tuple[str, bool]:
    """Return a token as text, and whether it ends the answer."""
    data = model.piece(token)
    # A token may be a part of a character: \xc3 tells more than a replacement sign.
    return (data or b"").decode("utf-8", "backslashreplace") or model.token_text(token), data is None
