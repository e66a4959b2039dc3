"""One answer while it is written: tokens become text, knobs change, and something ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import cast

from localknobs.engine.controls import Controls
from localknobs.engine.events import Event, FinishReason, Noted, SamplerChanged, TextArrived
from localknobs.engine.sampling import NOTHING_ALLOWED, Sampler
from localknobs.engine.speculation import Tally
from localknobs.engine.text import TextAssembler
from localknobs.errors import BadValue
from localknobs.knobs import KNOBS, Value

FLUSH_S = 0.016
"""Text is sent at most this often: a screen draws no faster, and every message costs time."""


class Answer:
    """The text side of an answer; it knows nothing of the cache but how many tokens it holds.

    Args:
        sampler: Draws the tokens; its values hold the limit and the stop texts.
        template_stops: Stop texts of the chat template, beside those of the values.
        controls: How it is stopped and changed.
        send: Takes the events.
        tokens: What the cache holds; only its length is read.
        began: `perf_counter` when the question came.

    Attributes:
        generated: Tokens so far.
        first_token_s: Seconds from the question to the first token.
        tokens_per_s: Speed since the first token.
        tally: What was guessed ahead.
    """

    def __init__(
        self,
        sampler: Sampler,
        template_stops: tuple[str, ...],
        controls: Controls,
        send: Callable[[Event], None],
        tokens: list[int],
        began: float,
    ) -> None:
        self.sampler = sampler
        self.generated = 0
        self.first_token_s = 0.0
        self.tokens_per_s = 0.0
        self.tally = Tally()
        self._template_stops = template_stops
        self._controls = controls
        self._send = send
        self._tokens = tokens
        self._began = began
        self._piece = sampler.model.piece
        self._text = TextAssembler(self._stops())
        self._limit = self._n_predict()
        self._pending: list[str] = []
        self._sent = 0.0
        self._writing = 0.0

    def begin(self, tokens: Sequence[int]) -> FinishReason | None:
        """Make text of the tokens that the answer begins with; return why it ends with them, None when it goes on."""
        for token in tokens:
            data = self._piece(token)
            if data is None:
                return "end"
            if piece := self._text.push(data):
                self._pending.append(piece)
        return "stop" if self._text.stopped else None

    def change(self) -> None:
        """Use the sampler values that came since the last token."""
        if not self._controls.changes:
            return
        self.flush()
        merged: dict[str, Value] = {}
        while self._controls.changes:
            merged.update(self._controls.changes.popleft())
        sampler = self.sampler
        # What its row says takes effect at the next answer is not of this one: the seed, the grammar.
        different = {
            name: value
            for name, value in merged.items()
            if KNOBS[name].applies == "next token" and sampler.values.get(name, value) != value
        }
        if different:
            try:
                sampler.change(different)
            except BadValue as error:
                self._send(Noted(str(error), "warning"))
            else:
                self._text.set_stops(self._stops())
                self._limit = self._n_predict()
                self._send(SamplerChanged(self.generated, self._text.written, different))

    def take(self, token: int) -> FinishReason | None:
        """Make text of a drawn token; return why the answer ends with it, None when it goes on."""
        now = perf_counter()
        if self.generated == 0:
            self.first_token_s = now - self._began
            self._writing = now
        if token == NOTHING_ALLOWED:
            self._send(Noted("The answer ends here: the grammar allows no token this model has.", "warning"))
            return "end"
        data = self._piece(token)
        if data is None:
            return "end"
        self.generated += 1
        if piece := self._text.push(data):
            self._pending.append(piece)
        if now > self._writing:
            self.tokens_per_s = (self.generated - 1) / (now - self._writing)
        if self._text.stopped:
            return "stop"
        if self._controls.stop.is_set():
            return "stopped"
        if 0 < self._limit <= self.generated:  # it may have been lowered meanwhile
            return "length"
        return None

    def show(self) -> None:
        """Send what was written, unless that happened just now."""
        if self._pending and (now := perf_counter()) - self._sent >= FLUSH_S:
            self.flush()
            self._sent = now

    def flush(self) -> None:
        """Send what was written."""
        if self._pending:
            text = "".join(self._pending)
            tally, speed = self.tally, round(self.tokens_per_s, 2)
            self._send(TextArrived(text, self.generated, len(self._tokens), speed, tally.drafted, tally.accepted))
            self._pending.clear()
            self._score()

    def _score(self) -> None:
        lookback = self.sampler.lookback
        if self._controls.plan.score and lookback and (scored := lookback.score()):
            self._send(scored)

    def finish(self) -> None:
        """Send the rest, with what was held back as the possible beginning of a stop text."""
        if tail := self._text.finish():
            self._pending.append(tail)
        self.flush()
        self._score()  # a last token without text, such as the end token

    def _stops(self) -> tuple[str, ...]:
        return (*cast("tuple[str, ...]", self.sampler.values["stop"]), *self._template_stops)

    def _n_predict(self) -> int:
        return int(cast(int, self.sampler.values["n_predict"]))
