"""Every sampler once more, in plain numpy on 64-bit numbers, written from its definition; the view is compared with it.

A state is the score of each token of the vocabulary and whether the token is still in the list: llama.cpp takes
some tokens out of it and scores others with minus infinity, and a few samplers count the list.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

NOTHING = -np.inf


@dataclass
class State:
    scores: np.ndarray
    listed: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        scores = np.where(self.listed, self.scores, NOTHING)
        powers = np.exp(scores - scores.max())
        return powers / powers.sum()

    @property
    def count(self) -> int:
        return int((self.listed & np.isfinite(self.scores)).sum())

    def by_probability(self) -> list[int]:
        listed = np.flatnonzero(self.listed)
        return [int(at) for at in listed[np.argsort(-self.scores[listed], kind="stable")]]

    def only(self, tokens) -> State:
        listed = np.zeros_like(self.listed)
        listed[list(tokens)] = True
        return replace(self, listed=self.listed & listed)

    def scored(self, scores) -> State:
        return replace(self, scores=scores)


def start(scores) -> State:
    scores = np.array(scores, np.float64)
    return State(scores, np.ones(len(scores), bool))


def logit_bias(state, bias):
    scores = state.scores.copy()
    for token, amount in bias:
        scores[token] += amount
    return state.scored(scores)


def penalties(state, history, last, repeat, frequency, presence):
    scores = state.scores.copy()
    for token, times in Counter(history[-last:]).items():
        scores[token] = scores[token] / repeat if scores[token] > 0 else scores[token] * repeat
        scores[token] -= times * frequency + presence
    return state.scored(scores)


def dry(state, history, multiplier, base, allowed, last, breakers):
    """`breakers` are single tokens."""
    window = list(history[-last:])
    at = next((back for back, token in enumerate(reversed(window)) if token in breakers), len(window))
    longest: dict[int, int] = {}
    for end in range(len(window) - 1):  # what stood before `end + 1`, and what stands at the end, are compared
        length = 0
        while length < min(at, end + 1) and window[end - length] == window[-1 - length]:
            length += 1
        if length >= allowed:
            following = window[end + 1]
            longest[following] = max(length, longest.get(following, 0))
    scores = state.scores.copy()
    for token, length in longest.items():
        if token not in breakers:
            scores[token] -= multiplier * base ** (length - allowed)
    return state.scored(scores)


def top_n_sigma(state, n):
    some = state.scores[state.listed & np.isfinite(state.scores)]
    low = some.max() - n * some.std()
    return state.scored(np.where(state.scores < low, NOTHING, state.scores))


def top_k(state, k):
    return state.only(state.by_probability()[:k])


def typ_p(state, p):
    """What cannot be drawn has no surprise: llama.cpp's own sampler would choose at random because of it."""
    own = state.probabilities
    order = [token for token in state.by_probability() if own[token] >= 1e-30 * own.max()]
    surprise = -np.log(own[order])
    entropy = (own[order] * surprise).sum()
    nearest = [order[at] for at in np.argsort(np.abs(surprise - entropy), kind="stable")]
    share = np.cumsum(own[nearest])
    return state.only(nearest[: int((share <= p).sum()) + 1])


def top_p(state, p):
    order = state.by_probability()
    share = np.cumsum(state.probabilities[order])
    return state.only(order[: int((share < p).sum()) + 1])


def min_p(state, p):
    own = state.probabilities
    return state.only(np.flatnonzero(own >= p * own.max() * (1 - 1e-9)))


def xtc_strikes(state, threshold):
    order = state.by_probability()
    good = [token for token in order if state.probabilities[token] >= threshold]
    return state.only([token for token in order if token not in good[:-1]])


def temperature(state, temp):
    if temp <= 0:
        return state.scored(np.where(np.arange(len(state.scores)) == state.by_probability()[0], state.scores, NOTHING))
    return state.scored(state.scores / temp)


def dynamic_temperature(state, temp, spread, exponent):
    own = state.probabilities[state.listed]
    own = own[own > 0]
    entropy = -(own * np.log(own)).sum() / np.log(state.listed.sum())
    low, high = max(0.0, temp - spread), temp + spread
    return temperature(state, low + (high - low) * entropy**exponent)


def mirostat(state, mu, size, candidates=100):
    own = state.probabilities
    order = state.by_probability()
    first = own[order[:candidates]]
    steps = np.log((np.arange(len(first) - 1) + 2) / (np.arange(len(first) - 1) + 1))
    slope = (steps * np.log(first[:-1] / first[1:])).sum() / (steps**2).sum()
    excess = slope - 1
    k = (excess * 2**mu / (1 - size**-excess)) ** (1 / slope)
    return state.only(order[: max(1, int(k))])


def mirostat_2(state, mu):
    own = state.probabilities
    kept = [token for token in state.by_probability() if own[token] > 0 and -np.log2(own[token]) <= mu]
    return state.only(kept or state.by_probability()[:1])


def adaptive_p(state, target):
    """`target` is already corrected by what was chosen before."""
    distance = np.abs(state.probabilities - target) / 0.3
    scores = 5 - 10 * distance**2 / (1 + distance)
    return state.scored(np.where(np.isfinite(state.scores), scores, NOTHING))
