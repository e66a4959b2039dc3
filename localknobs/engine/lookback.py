"""Keeps the scores that the tokens of the present answer were drawn from, in bounded memory.

The scores of the newest tokens are kept whole; how many tokens that are depends on the vocabulary. Of older
ones the likeliest are kept, if whoever asked for the answer wants to look at it, and nothing otherwise.
"""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from localknobs.engine.binding import lib
from localknobs.engine.events import NamedToken, TokensScored
from localknobs.engine.llama import LoadedModel
from localknobs.engine.repeats import Repeats
from localknobs.engine.sampler_paths import TOKEN_DATA, Numbers, largest
from localknobs.engine.sampler_view import Place, Trail, look
from localknobs.engine.view import SamplerView
from localknobs.errors import BadValue, NotFound
from localknobs.knobs import Value

WHOLE_BYTES = 64 << 20
"""Memory for whole scores: those of 5,461 tokens of a vocabulary of 3,072, of 111 tokens of one of 150,000."""
LIKELIEST = 256
"""Scores that are kept of an older token; with its number, 2 KiB."""
MOST_SHORTENED = 16_384
"""Older tokens of which the likeliest scores are kept: 32 MiB. Still older ones are forgotten."""


@dataclass(slots=True)
class _Kept:
    """One token's scores, or where the ring has them.

    Args:
        values: The sampling values in force.
        memories: Copies of the samplers that learn, as they were before the draw.
        tokens, scores: The likeliest, once the ring needed the room; None while the ring has all.
        log_total: Logarithm of the sum of the exponentials; not a number while nobody needed it.
        allowed: What the grammar allows, once somebody looked.
    """

    values: Mapping[str, Value]
    memories: dict[tuple[Any, ...], Any]
    tokens: Numbers | None = None
    scores: Numbers | None = None
    log_total: float = float("nan")
    allowed: Numbers | None = None

    def free(self) -> None:
        for memory in self.memories.values():
            lib.llama_sampler_free(memory)
        self.memories = {}


class Lookback:
    """What is kept of one answer after the other.

    Args:
        model: Whose tokens they are.

    Attributes:
        wanted: Whether somebody looks at this answer: older tokens are kept in short form, and each token is scored.
        likeliest: How many of the likeliest tokens are named beside each scored one; -1 names none at all.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.wanted = False
        self.likeliest = -1
        size = model.vocabulary_size
        self._rows = max(8, WHOLE_BYTES // (4 * size))
        self._ring: Numbers | None = None  # made with the first token
        self._row_bytes = 4 * size
        self._kept: dict[int, _Kept] = {}
        self._repeats = Repeats(model)
        self._buffer: Numbers | None = None  # made with the first look
        self._trail: tuple[_Kept, Numbers | None, Trail] | None = None
        self._history: list[int] = []
        self._prompt_length = 0
        self._new_grammar: Callable[[], Any] | None = None
        self._scored = 0
        self._characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    # ---- keeping ------------------------------------------------------------------------------

    def begin(self, history: list[int], prompt_length: int, new_grammar: Callable[[], Any] | None) -> None:
        """Begin a new answer; what it shares with the last one, as a branch does, stays.

        Args:
            history: The list to which the sampler adds each token that it draws, the prompt's first.
            prompt_length: How many of them are the prompt's.
            new_grammar: Makes the answer's grammar afresh; None when there is none.
        """
        old, old_prompt = self._history[self._prompt_length :], self._history[: self._prompt_length]
        same = -1
        if old_prompt == history[:prompt_length]:
            new = history[prompt_length:]
            same = next(
                (at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
            )
            # Only a branch begins with tokens; the place where it parts has the scores that both were drawn from.
            same = same if new else -1
            for kept in self._kept.values():
                kept.allowed = None  # the grammar may be another one
        for index in [index for index in self._kept if index > same]:
            self._kept.pop(index).free()
        self._history, self._prompt_length, self._new_grammar = history, prompt_length, new_grammar
        self._scored = self._characters = 0
        self._decoder.reset()

    def remember(self, scores: Any, values: Mapping[str, Value], learning: Mapping[tuple[Any, ...], Any]) -> None:
        """Keep the scores from which the next token will be drawn.

        Args:
            scores: Pointer to one float for each token of the vocabulary.
            values: The sampling values in force.
            learning: The samplers that learn; copies are kept.
        """
        if self._ring is None:
            self._ring = np.empty((self._rows, self.model.vocabulary_size), np.float32)
        index = len(self._history) - self._prompt_length
        leaving = self._kept.get(index - self._rows)
        if leaving and leaving.tokens is None:
            self._leave_the_ring(index - self._rows, leaving)
        if known := self._kept.pop(index, None):
            known.free()
        ctypes.memmove(self._ring.ctypes.data + index % self._rows * self._row_bytes, scores, self._row_bytes)
        self._kept[index] = _Kept(
            values, {key: lib.llama_sampler_clone(sampler) for key, sampler in learning.items()} if learning else {}
        )

    def _leave_the_ring(self, index: int, kept: _Kept) -> None:
        if not self.wanted:
            self._kept.pop(index).free()
            return
        scores = self._row(index)
        self._total(index, kept)
        chosen = np.flatnonzero(scores > scores.max() - 12)  # what is below is e^-12 of the likeliest: 6 in a million
        if len(chosen) > LIKELIEST:
            chosen = chosen[np.argpartition(scores[chosen], -LIKELIEST)[-LIKELIEST:]]
        token = self._token(index)
        if token is not None and token not in chosen:
            chosen = np.append(chosen, token)
        kept.tokens = np.sort(chosen).astype(np.int32)
        kept.scores = scores[kept.tokens].copy()
        kept.allowed = None
        if forgotten := self._kept.pop(index - MOST_SHORTENED, None):
            forgotten.free()

    def _row(self, index: int) -> Numbers:
        assert self._ring is not None
        row: Numbers = self._ring[index % self._rows]
        return row

    def _total(self, index: int, kept: _Kept) -> float:
        if kept.log_total != kept.log_total:
            scores = self._row(index)
            best = float(scores.max())
            kept.log_total = best + float(np.log(np.exp(scores - np.float32(best)).sum(dtype=np.float64)))
        return kept.log_total

    # ---- looking ------------------------------------------------------------------------------

    @property
    def written(self) -> list[int]:
        """The tokens of the present answer, those that it was made to begin with included."""
        return [token for token in self._history[self._prompt_length :] if token >= 0]

    def unread(self, cached: Sequence[int]) -> int | None:
        """Return the answer's last token if it alone is not in the cache and does not end the answer."""
        if not self._history or self._history[-1] < 0 or self._prompt_length == len(self._history):
            return None
        token = self._history[-1]
        if len(cached) != len(self._history) - 1 or list(cached) != self._history[:-1]:
            return None
        return None if self.model.piece(token) is None else token

    @property
    def places(self) -> tuple[int, int]:
        """Which tokens can be looked at: first, and one beyond the last; the same number twice for none."""
        if not self._kept:
            return 0, 0
        last = max(self._kept)
        first = last
        while first - 1 in self._kept:
            first -= 1
        return first, last + 1

    def look(self, at: int | None, values: Mapping[str, Value] | None, top: int) -> SamplerView:
        """Return what the samplers make of the scores of a token.

        Args:
            at: Which token of the answer, from 0; None for the last one there is.
            values: Sampling values instead of those that were in force there.
            top: How many candidates to describe.

        Raises:
            NotFound: there is no answer, or this token's scores are not kept.
            BadValue: the logit bias is wrong for this model.
        """
        self.wanted = True
        first, beyond = self.places
        if first == beyond:
            raise NotFound("There is no answer to look at", "Write a message first.")
        index = beyond - 1 if at is None else at
        kept = self._kept.get(index)
        if kept is None:
            if not 0 <= index < beyond:
                raise BadValue(f"The answer has no token {index}", f"Its tokens are 0 to {beyond - 1}.")
            raise NotFound(
                f"The scores of token {index} are not kept",
                f"Those of {first} to {beyond - 1} are. Older ones are kept only while the sampler view is open.",
            )
        whole = kept.tokens is None
        if self._buffer is None:
            self._buffer = np.empty(self.model.vocabulary_size, TOKEN_DATA)
        place = Place(
            index=index,
            token=self._token(index),
            tokens=kept.tokens,
            scores=self._row(index) if kept.scores is None else kept.scores,
            log_total=self._total(index, kept) if whole else kept.log_total,
            values=kept.values,
            memories=kept.memories,
            history=self._history[: self._prompt_length + index],
            repeats=self._repeats,
            buffer=self._buffer,
            allowed=(lambda: self._allowed(index, kept)) if self._new_grammar else None,
            trail=self._trail_of(kept),
        )
        return look(self.model, place, {**kept.values, **(values or {})}, top, (first, beyond))

    def _trail_of(self, kept: _Kept) -> Trail:
        """Return what the last look found on its way, if it was at the same place."""
        if self._trail is None or self._trail[0] is not kept or self._trail[1] is not kept.scores:
            self._trail = kept, kept.scores, Trail()
        return self._trail[2]

    def _token(self, index: int) -> int | None:
        at = self._prompt_length + index
        return self._history[at] if at < len(self._history) and self._history[at] >= 0 else None

    def _allowed(self, index: int, kept: _Kept) -> Numbers:
        """Return what the grammar allows here: found once, as a large vocabulary takes it long."""
        if kept.allowed is None:
            assert self._new_grammar is not None
            grammar = self._new_grammar()
            try:
                for token in self._history[self._prompt_length : self._prompt_length + index]:
                    lib.llama_sampler_accept(grammar, token)
                kept.allowed = allowed_tokens(grammar, np.arange(self.model.vocabulary_size, dtype=np.int32))
            finally:
                lib.llama_sampler_free(grammar)
        return kept.allowed

    # ---- scoring ------------------------------------------------------------------------------

    def score(self) -> TokensScored | None:
        """Return how sure the model was of each token since the last call; None for no new ones.

        Tokens that the answer was made to begin with, or whose scores are forgotten, have a confidence of -1.
        """
        first, scores, named = self._scored, [], []
        while (token := self._token(self._scored)) is not None:
            data = self.model.piece(token) or b""
            self._characters += len(self._decoder.decode(data))
            # What waits for the rest of a character counts with the token that brings it.
            scores.append((self._characters, *self._sureness(self._scored, token)))
            if self.likeliest >= 0:
                named.append(self._named(self._scored, token))
            self._scored += 1
        return TokensScored(first, tuple(scores), tuple(named)) if scores else None

    def score_all(self) -> TokensScored | None:
        """Return the same of the whole answer."""
        self._scored = self._characters = 0
        self._decoder.reset()
        return self.score()

    def _sureness(self, index: int, token: int) -> tuple[float, float]:
        kept = self._kept.get(index)
        if kept is None:
            return -1.0, -1.0
        if kept.scores is not None and kept.tokens is not None:
            own = np.exp(kept.scores - np.float32(kept.log_total))
            confidence = float(own[np.searchsorted(kept.tokens, token)])
        else:
            scores = self._row(index)
            own = np.exp(scores - np.float32(self._total(index, kept)))
            confidence = float(own[token])
        # p log p of nothing is nothing; the smallest number keeps the logarithm finite.
        entropy = -float((own * np.log2(np.maximum(own, np.finfo(np.float32).tiny))).sum(dtype=np.float64))
        return round(min(1.0, confidence), 6), round(max(0.0, entropy), 4)

    def _named(self, index: int, token: int) -> tuple[NamedToken, ...]:
        """Return a token and the likeliest ones in its place, with the logarithms of their probabilities."""
        kept = self._kept.get(index)
        if kept is None:
            return ()
        scores = self._row(index) if kept.scores is None else kept.scores
        tokens = kept.tokens if kept.scores is not None else None
        total = self._total(index, kept) if tokens is None else kept.log_total
        count = min(self.likeliest, len(scores))
        best = largest(scores, count) if count else np.empty(0, np.int64)
        best = best[np.argsort(-scores[best], kind="stable")]
        own = token if tokens is None else int(np.searchsorted(tokens, token))
        places = np.array((own, *best))
        numbers = places if tokens is None else tokens[places]
        return tuple(
            (int(number), self.model.spelling(int(number)).hex(), round(float(scores[at]) - total, 6))
            for number, at in zip(numbers, places, strict=True)
        )

    def close(self) -> None:
        """Free the copied samplers."""
        for kept in self._kept.values():
            kept.free()
        self._kept = {}
        self._repeats.close()


def allowed_tokens(grammar: Any, tokens: Sequence[int] | Numbers) -> Numbers:
    """Return for each token whether the grammar allows it next."""
    data = np.empty(len(tokens), TOKEN_DATA)
    data["id"], data["logit"], data["p"] = tokens, 1.0, 0.0
    array = lib.llama_token_data_array(data.ctypes.data_as(lib.llama_token_data_p), len(data), -1, False)
    lib.llama_sampler_apply(grammar, ctypes.byref(array))
    allowed: Numbers = data["logit"] > -np.inf
    return allowed
