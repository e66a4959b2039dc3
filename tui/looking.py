"""Looks at the samplers from the screen: the last one asked for counts, in the middle of an answer too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from textual.message import Message

from localknobs.engine import Looked
from localknobs.engine.client import Engine
from localknobs.engine.view import SamplerView
from localknobs.errors import LocalknobsError
from localknobs.knobs import Value

CANDIDATES = 20
"""Candidates that are asked for: so many before the chain, and after it."""


@dataclass
class Viewed(Message):
    """A look came back: what there is to see, or why there is nothing."""

    view: SamplerView | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class _Wish:
    at: int | None
    values: Mapping[str, Value]


class Looker:
    """Asks for one view after the other; while one is under way, only the newest wish is kept.

    Args:
        engine: Returns the engine, None while there is none.
        answering: Whether it writes an answer now.
        post: Takes the `Viewed` messages, from any thread.
    """

    def __init__(
        self, engine: Callable[[], Engine | None], answering: Callable[[], bool], post: Callable[[Message], object]
    ) -> None:
        self._engine, self._answering, self._post = engine, answering, post
        self._lock = threading.Lock()
        self._next: _Wish | None = None
        self._under_way: _Wish | None = None
        self._number = 0

    def ask(self, at: int | None, values: Mapping[str, Value]) -> None:
        """Ask for a view of token `at`, None for the newest one; returns at once."""
        with self._lock:
            self._next = _Wish(at, dict(values))
            if self._under_way:
                return
        self._start()

    def _start(self) -> None:
        with self._lock:
            self._under_way, self._next = self._next, None
            wish = self._under_way
        engine = self._engine()
        if wish is None:
            return
        if engine is None:
            self._done(None, "no model is loaded")
        elif self._answering():
            self._number = engine.ask_look(wish.at, wish.values, CANDIDATES)
        else:
            threading.Thread(target=self._look, args=(engine, wish), daemon=True).start()

    def _look(self, engine: Engine, wish: _Wish) -> None:
        try:
            view, trouble = engine.look(wish.at, wish.values, CANDIDATES), ""
        except LocalknobsError as error:
            view, trouble = None, str(error)
        self._done(view, trouble)

    def arrived(self, looked: Looked) -> None:
        """Take a reply that came with an answer's events."""
        if looked.number == self._number:
            self._done(looked.view, looked.trouble)

    def answer_ended(self) -> None:
        """Ask again for what the answer did not bring any more."""
        with self._lock:
            self._next = self._next or self._under_way
        self._start()

    def _done(self, view: SamplerView | None, trouble: str) -> None:
        self._post(Viewed(view, trouble))
        with self._lock:
            again = self._next is not None
            if not again:
                self._under_way = None
        if again:
            self._start()
