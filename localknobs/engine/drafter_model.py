"""Guesses by a small model with the same tokens, which follows the text in a cache of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from localknobs.engine.binding import lib
from localknobs.engine.drafters import MODEL, Verdict, known_part
from localknobs.engine.llama import LoadedModel

PIECE = 256
"""Tokens of a text that are read at once, so that it can be stopped in between."""
SHORT, LONG = 16, 64
"""Tokens from the end of a text that are read for an audition: at least, and where that is cheap."""
JUDGED = 12
"""Last tokens of the text that an audition is about."""


class ModelDrafter:
    """A small model that writes ahead greedily; its cache follows the text by itself, across answers too.

    Where little may be spent it knows the end of the text only. A part that was dropped from the text it keeps, as
    long as its own context has room.

    Args:
        model: The draft, with the same tokens as the model that writes.
        least_probable: Its own probability of a token below which it guesses no further (0 = never stops).
        share: Guess of its cost against that of the model that writes.
        stopped: Whether the answer is being stopped: a long text is not read to its end then.
    """

    name = MODEL
    kinds: tuple[str, ...] = (MODEL,)
    auditions = True

    def __init__(self, model: LoadedModel, least_probable: float, share: float, stopped: Callable[[], bool]) -> None:
        self.model = model
        self.least_probable = least_probable
        self.share = share
        self.read_s = 0.0
        # A prompt is read at the speed of the weights: a first guess of the seconds a token, until it was seen.
        self._token_s = 1e-10 * int(lib.llama_model_n_params(model.pointer))
        self._audition_s = 2 * self._token_s  # of each token, in the small batch of an audition
        self._stopped = stopped
        self._held: list[int] = []  # what its cache holds
        self._sure = 0  # how many of them are of the text, and no guesses
        self._ahead = 0  # how many of them stand before the text's first, since dropped; below 0: so many are left out
        self._guess: list[int] = []
        self._from = 0  # place in the text from which on it will be read
        self._abort = lib.ggml_abort_callback(lambda _data: stopped())
        self._begin: list[int] = []
        if lib.llama_vocab_get_add_bos(model.vocabulary):
            self._begin = [model.begin_token]

    @property
    def _known(self) -> int:
        """Place in the text up to which it is held."""
        return self._sure - self._ahead

    def follow(self, tokens: Sequence[int], *, judge: bool) -> tuple[int, list[Verdict]]:
        """Compare the last guess with the text."""
        held, guess, self._guess = self._held, self._guess, []
        known = known_part(tokens, held, self._sure, self._known)
        ahead = 0 if known is None else self._sure - known
        if known is None or (not judge and held[max(0, ahead) : self._sure] != tokens[max(0, -ahead) : known]):
            # Another text, or one that was cut: what the beginnings have in common stays.
            count = 0 if self._ahead else min(self._sure, len(tokens))
            self._sure = next((place for place in range(count) if held[place] != tokens[place]), count)
            self._ahead = 0
            return 0, []
        self._ahead = ahead
        right, compared = 0, min(len(guess), len(tokens) - known)
        while right < compared and guess[right] == tokens[known + right]:
            right += 1
        while self._sure < len(held) and self._known < len(tokens) and held[self._sure] == tokens[self._known]:
            self._sure += 1
        if not judge or not compared:
            return 0, []
        return 1, [Verdict(MODEL, 1, right, right + (right < compared))]

    def price(self, tokens: Sequence[int]) -> float:
        """Return the seconds of reading the fewest tokens that tell something."""
        return SHORT * self._audition_s

    def audition(self, tokens: Sequence[int], written: int, allowed_s: float) -> list[Verdict]:
        """Read the end of the text, and compare what it would have guessed at each of its last places."""
        began = perf_counter()
        text = tokens[:-1]  # what follows the last one is not known yet
        affordable = min(LONG, self.model.batch_size, max(SHORT, int(allowed_s / max(1e-9, self._audition_s))))
        first = self._known
        if not JUDGED <= len(text) - first <= affordable:
            first = max(0, len(text) - affordable)
        rows = text[first:]
        judged = min(JUDGED, written - 1, len(rows))
        if judged < 1 or not self._go_to(first, len(rows)):
            return []
        if self.model.decode_all(self._begun(rows), last=judged):
            self._forget()
            return []
        self._held += rows
        self._sure = len(self._held)
        right = tried = 0
        for row in range(len(rows) - judged, len(rows)):
            token, probability = self._likeliest(row)
            if probability >= self.least_probable:
                tried += 1
                right += token == tokens[first + row + 1]
        self._audition_s = (perf_counter() - began) / len(rows)
        return [Verdict(MODEL, 1, right, tried)]

    def look(self, tokens: Sequence[int], allowed_s: float) -> tuple[str, float] | None:
        """Say how long it takes to know the text: all of it if that is allowed, else its end."""
        behind, room = len(tokens) - self._known, self.model.context_size - 1
        knows_beginning = self._ahead >= 0
        short = min(len(tokens), LONG if allowed_s < float("inf") else self.model.context_size // 2)
        if not knows_beginning and len(tokens) < room and len(tokens) * self._token_s <= allowed_s:
            self._from, behind = 0, len(tokens)
        elif self._sure + behind < room and (
            behind <= short or (knows_beginning and behind * self._token_s <= allowed_s)
        ):
            self._from = self._known
        else:
            self._from, behind = len(tokens) - short, short
        return MODEL, max(0, behind - 2) * self._token_s

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        """Read what is new, then write greedily."""
        began = perf_counter()
        if self._from == len(tokens) == self._known:  # what follows the last one is wanted, so it is read again
            self._from -= 1
        behind = len(tokens) - self._from
        if not self._go_to(self._from, behind) or not self._read(tokens[self._from :]):
            return []
        self.read_s = perf_counter() - began if behind > 2 else 0.0
        drafted: list[int] = []
        count = min(count, self.model.context_size - len(self._held))
        while True:
            token, probability = self._likeliest(-1)
            if probability < self.least_probable:
                break
            drafted.append(token)
            if len(drafted) >= count or self.model.decode((token,)):
                break
            self._held.append(token)
        self._guess = drafted
        return drafted

    def _go_to(self, place: int, count: int) -> bool:
        """Make the cache end at a place of the text, or be empty before it; False where it has no room for more."""
        keep = place + self._ahead
        if not self._sure - 1 <= keep <= self._sure or (keep + count) >= self.model.context_size:
            self._forget()
            self._ahead, keep = -place, 0
        elif not self.model.keep(keep):
            self._forget()
            return False
        del self._held[keep:]
        self._sure = keep
        return count < self.model.context_size

    def _begun(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return tokens to read; in an empty cache the first becomes the begin token: without it some models fail."""
        return tokens if self._held or not self._begin else [*self._begin, *tokens[1:]]

    def _forget(self) -> None:
        self.model.clear()
        self._held.clear()
        self._sure = self._ahead = 0

    def _read(self, tokens: Sequence[int]) -> bool:
        """Decode what the text has more than the cache; False when that was stopped or failed."""
        long = len(tokens) > 16
        if long:
            self.model.set_abort(self._abort)
        try:
            size = min(PIECE, self.model.batch_size)
            for begin in range(0, len(tokens), size):
                piece = tokens[begin : begin + size]
                began = perf_counter()
                if self.model.decode(self._begun(piece)) or self._stopped():
                    del self._held[self.model.tokens_in_cache() :]
                    self._sure = min(self._sure, len(self._held))
                    return False
                self._held += piece
                self._sure = len(self._held)
                if len(piece) > 16:
                    self._token_s = (perf_counter() - began) / len(piece)
            return True
        finally:
            if long:
                self.model.set_abort(None)

    def _likeliest(self, row: int) -> tuple[int, float]:
        """Return the token of the largest score, and its probability (1 where nobody asks)."""
        size = self.model.vocabulary_size
        scores: Any = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.model.context, row), (size,))
        token = int(scores.argmax())
        if not self.least_probable:
            return token, 1.0
        return token, float(1 / np.exp(scores - scores[token]).sum())
