"""How the loop of an answer gets from one token to the logits of the next: one decode a token.

Speculation is another way of doing the same (`speculation.py`): the loop draws, tells the step which token
was drawn, and learns which row of logits the next token is drawn from.
"""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from localknobs.engine.cache import TokenCache
from localknobs.engine.threads import AdaptiveThreads

LAST_ROW = -1
"""The logits of the last token decoded."""


class Steps(Protocol):
    """What the loop of an answer needs."""

    def advance(self, token: int) -> int:
        """Put a drawn token into the cache; return the row of logits that the next one is drawn from."""

    def settle(self) -> None:
        """Leave the cache with exactly the tokens that the answer keeps.

        To be called at the end, and before anything else changes the cache; `advance` may follow.
        """


class PlainSteps:
    """One decode for every token.

    Args:
        cache: Of the model that writes.
        threads: Takes the time of every decode.
    """

    def __init__(self, cache: TokenCache, threads: AdaptiveThreads) -> None:
        self._cache = cache
        self._threads = threads

    def advance(self, token: int) -> int:
        """Decode the token."""
        began = perf_counter()
        if code := self._cache.add((token,)):
            raise self._cache.failed(code)
        self._threads.took_one(perf_counter() - began)
        return LAST_ROW

    def settle(self) -> None:
        """Do nothing: no token was decoded ahead."""
