"""Who guesses the next tokens: the text itself, where it repeats, or a small model of the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from localknobs.engine.binding import lib
from localknobs.engine.llama import LoadedModel

NGRAM, MODEL = "ngram", "model"


class Drafter(Protocol):
    """What guesses tokens; the kinds of its drafts begin with its name."""

    name: str

    def look(self, tokens: Sequence[int]) -> tuple[str, float] | None:
        """Return what kind of draft it has for what follows these tokens, and the seconds before it can begin."""

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return at most `count` tokens that may follow; `look` was called with the same tokens."""


def _begins_with(tokens: Sequence[int], beginning: Sequence[int]) -> bool:
    """Whether a text still begins with what it began with before, told by the end of that.

    Comparing all of it would take longer than a draft in a long context; a wrong answer costs a wrong guess only.
    """
    length = len(beginning)
    return length < len(tokens) and tokens[max(0, length - 8) : length] == beginning[-8:]


class NgramDrafter:
    """Finds where the last tokens stood before, and guesses that the same follows again (prompt lookup).

    The longest of the latest matches wins. Costs a few microseconds a token and no memory to speak of.

    Args:
        shortest: Tokens that must be the same; matches of two and four times as many are told apart, as they
            are more often right.

    Source: prompt lookup decoding (Saxena 2023); llama.cpp common/ngram-map.cpp.
    """

    name = NGRAM
    LOOKED_AT = 8
    """Latest places with the same last tokens of which the longest match is taken."""

    def __init__(self, shortest: int) -> None:
        self._size = shortest
        self._seen: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # the latest place after these tokens
        self._earlier: dict[int, int] = {}  # the place before it after the same tokens
        self._found = 0

    def look(self, tokens: Sequence[int]) -> tuple[str, float] | None:
        """Find a match; its kind says how long it is."""
        size = self._size
        self._learn(tokens)
        end = self._ends.get(tuple(tokens[-size:]))
        if end is None:
            return None
        longest = 0
        for _ in range(self.LOOKED_AT):
            length = self._match(tokens, end)
            if length > longest:
                longest, self._found = length, end
            if length == 4 * size or (earlier := self._earlier.get(end)) is None:
                break
            end = earlier
        return f"{NGRAM} {size * (4 if longest == 4 * size else 2 if longest >= 2 * size else 1)}", 0.0

    def _match(self, tokens: Sequence[int], end: int) -> int:
        """Return how many tokens before a place are the last ones of the text, up to four times the shortest."""
        length, last = self._size, len(tokens)
        limit = min(4 * length, end)
        while length < limit and tokens[end - length - 1] == tokens[last - length - 1]:
            length += 1
        return length

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return what followed the match; a match that reaches into its own end repeats."""
        begin = self._found
        known = list(tokens[begin : begin + count])
        while len(known) < count:
            known += known[: count - len(known)]
        return known

    def _learn(self, tokens: Sequence[int]) -> None:
        """Enter every place up to the one before the last token: that one is what is looked for."""
        seen, size = self._seen, self._size
        if not _begins_with(tokens, seen):
            seen.clear()
            self._ends.clear()
            self._earlier.clear()
        # The place after the last token seen was not entered: nothing had followed it yet.
        for end in range(max(size, len(seen) + (len(seen) > 0)), len(tokens)):
            key = tuple(tokens[end - size : end])
            earlier = self._ends.get(key)
            if earlier is not None:
                self._earlier[end] = earlier
            self._ends[key] = end
        seen += tokens[len(seen) : -1]


class ModelDrafter:
    """A small model that writes ahead greedily; its cache follows the text by itself, across answers too.

    Args:
        model: The draft, with the same tokens as the model that writes.
        least_probable: Its own probability of a token below which it guesses no further (0 = never stops).
        first_read_s: Guess of the seconds it takes to read one token of a prompt, until that is measured.
        stopped: Whether the answer is being stopped: a long text is not read to its end then.
    """

    name = MODEL
    PIECE = 256

    def __init__(
        self, model: LoadedModel, least_probable: float, first_read_s: float, stopped: Callable[[], bool]
    ) -> None:
        self.model = model
        self.least_probable = least_probable
        self._read_s = first_read_s
        self._stopped = stopped
        self._held: list[int] = []
        self._agreed = 0
        self._abort = lib.ggml_abort_callback(lambda _data: stopped())

    def look(self, tokens: Sequence[int]) -> tuple[str, float] | None:
        """Say how far behind it is; nothing when its context has no room."""
        if len(tokens) + 1 >= self.model.context_size:
            return None
        self._agreed = self._common(tokens)
        behind = len(tokens) - self._agreed
        return MODEL, max(0, behind - 2) * self._read_s

    def _common(self, tokens: Sequence[int]) -> int:
        held = self._held
        count = min(len(held), len(tokens) - 1)  # the last token is always computed: what follows it is wanted
        if count < len(held):
            held = held[:count]
        if _begins_with(tokens, held):
            return count
        return next((place for place in range(count) if held[place] != tokens[place]), count)

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Read what is new, then write greedily."""
        held = self._held
        if not self.model.keep(self._agreed):
            self.model.clear()
            self._agreed = 0
        del held[self._agreed :]
        if not self._read(tokens[self._agreed :]):
            return []
        drafted: list[int] = []
        count = min(count, self.model.context_size - len(held))
        while True:
            token, probability = self._likeliest()
            if probability < self.least_probable:
                break
            drafted.append(token)
            if len(drafted) >= count or self.model.decode((token,)):
                break
            held.append(token)
        return drafted

    def _read(self, tokens: Sequence[int]) -> bool:
        """Decode what the text has more than the cache; False when that was stopped or failed."""
        long = len(tokens) > 16
        if long:
            self.model.set_abort(self._abort)
        try:
            size = min(self.PIECE, self.model.batch_size)
            for begin in range(0, len(tokens), size):
                piece = tokens[begin : begin + size]
                began = perf_counter()
                if self.model.decode(piece) or self._stopped():
                    del self._held[self.model.tokens_in_cache() :]
                    return False
                self._held += piece
                if len(piece) > 16:
                    self._read_s = (perf_counter() - began) / len(piece)
            return True
        finally:
            if long:
                self.model.set_abort(None)

    def _likeliest(self) -> tuple[int, float]:
        """Return the token of the largest score, and its probability (1 where nobody asks)."""
        size = self.model.vocabulary_size
        scores: Any = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.model.context, -1), (size,))
        token = int(scores.argmax())
        if not self.least_probable:
            return token, 1.0
        return token, float(1 / np.exp(scores - scores[token]).sum())
