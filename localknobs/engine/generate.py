"""The loop of one answer: read the prompt, then draw and step, token by token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.engine.adapters import Adapters
from localknobs.engine.answer import Answer
from localknobs.engine.binding import lib
from localknobs.engine.cache import TokenCache
from localknobs.engine.cache_files import ParkedCaches
from localknobs.engine.cache_snapshot import CachesBySetting
from localknobs.engine.controls import Controls
from localknobs.engine.drafting import Drafting
from localknobs.engine.embedding import embedding_of, pooling_of
from localknobs.engine.events import Event, Finished, FinishReason, Looked, Noted, PromptRead, Stats
from localknobs.engine.llama import ABORTED, LoadedModel
from localknobs.engine.lookback import Lookback
from localknobs.engine.overflow import Overflow
from localknobs.engine.sampling import Sampler
from localknobs.engine.settings import LoadSettings
from localknobs.engine.steps import LAST_ROW
from localknobs.engine.templates import Prompt
from localknobs.engine.threads import AdaptiveThreads, ThreadTuner
from localknobs.engine.timing import seconds_of
from localknobs.errors import BadValue, ContextFull, LocalknobsError
from localknobs.gguf_info import Header
from localknobs.knobs import Value

PROMPT_PIECE_S = 0.5
"""Aimed-at time of one call while a prompt is read, so that it can be stopped and shows progress."""


class Generator:
    """Writes answers with one model; keeps what its cache holds, so that a next turn reads only what is new.

    Args:
        model: The loaded model.
        draft: The loaded draft model, None for none.
        header: Of the model's file.
        settings: How it was loaded; the fields of drafting and of a full context count here.
        tuners: Thread tuners for one token and for many, or None for a fixed count.
        threads: The fixed count, or where the tuners begin.
        send: Takes the events.
    """

    def __init__(
        self,
        model: LoadedModel,
        draft: LoadedModel | None,
        header: Header,
        settings: LoadSettings,
        tuners: tuple[ThreadTuner, ThreadTuner] | None,
        threads: int,
        send: Callable[[Event], None],
    ) -> None:
        self.model = model
        self._header = header
        self.cache = TokenCache(model)
        self.adapters = Adapters(model, header)
        self._caches = CachesBySetting(self.cache)
        self.parked = ParkedCaches(self.cache, header, settings, self.adapters)
        self.overflow = Overflow(self.cache, header, settings, send)
        self.lookback = Lookback(model)
        self._sampler: Sampler | None = None
        self._controls = Controls()
        self.drafting = Drafting(model, draft, settings, lambda: self._controls.stop.is_set())
        self._threads = AdaptiveThreads(tuners, threads, self._use_threads)
        self._send = send
        # Called between operations of the graph while a prompt is read (CPU only).
        self._abort = lib.ggml_abort_callback(lambda _data: self._controls.stop.is_set())

    def answer(self, prompt: Prompt, values: Mapping[str, Value], controls: Controls, began: float) -> None:
        """Write one answer and send its events, `Finished` last.

        Args:
            prompt: What is read before the first token is drawn.
            values: Complete sampling values.
            controls: How it is stopped and changed.
            began: `perf_counter` when the question came.

        Raises:
            ContextFull: the prompt does not fit, and the settings let nothing or not enough be dropped.
            BadValue: the grammar, the logit bias or the beginning is wrong for this model.
        """
        self._controls = controls
        self.put_adapters_on()
        plan = controls.plan
        question = prompt.tokens or [max(0, self.model.begin_token)]
        tokens = self.overflow.begin(prompt, question, self._checked(plan.beginning))
        if prompt.note:
            self._send(Noted(prompt.note, "warning"))
        if self._sampler:
            self._sampler.close()  # it stayed until now, so that the token after the answer can be looked at
        self.lookback.wanted, self.lookback.likeliest = plan.score, plan.likeliest
        sampler = self._sampler = Sampler(
            self.model, values, question, beginning=plan.beginning, lookback=self.lookback
        )
        answer = Answer(sampler, prompt.stops, controls, self._send, self.cache.tokens, began)
        if plan.fresh:
            self.cache.clear()
        reused = self.cache.reuse(tokens)
        prompt_began = perf_counter()
        whole = self._read_prompt(tokens, reused, plan.piece)
        prompt_s = perf_counter() - prompt_began
        reason = self._write(answer) if whole else "stopped"
        self._send(Finished(reason, self._stats(answer, len(tokens), reused, prompt_s)))

    def put_adapters_on(self) -> None:
        """Let the adapters that were chosen count from here on; what the cache holds is then what they made of it."""
        if self.adapters.pending:
            before = self.adapters.on
            self.adapters.apply()
            if before != self.adapters.on:
                self._caches.switch(before, self.adapters.on)

    def _checked(self, beginning: Sequence[int]) -> Sequence[int]:
        """Return the tokens an answer begins with, without an end token, after which nothing is decoded."""
        for token in beginning:
            if not 0 <= token < self.model.vocabulary_size:
                raise BadValue(
                    f"The answer cannot begin with token {token}: this model has {self.model.vocabulary_size} tokens",
                    f"Token ids go from 0 to {self.model.vocabulary_size - 1}.",
                )
        return beginning[:-1] if beginning and self.model.piece(beginning[-1]) is None else beginning

    def show_looks(self, looks: deque[Mapping[str, Any]]) -> None:
        """Answer every look at the samplers that waits."""
        while looks:
            asked = looks.popleft()
            try:
                view = self.lookback.look(asked["at"], asked["values"], asked["top"])
            except LocalknobsError as error:
                self._send(Looked(asked["number"], None, str(error)))
            else:
                self._send(Looked(asked["number"], view))

    def compute_next(self) -> None:
        """Make it possible to look at the token after an answer that was stopped: its last one was drawn, not read."""
        token = self.lookback.unread(self.cache.tokens)
        if token is None or self._sampler is None or self.cache.full:
            return
        if code := self.cache.add((token,)):
            raise self.cache.failed(code)
        self._sampler.remember()

    def _read_prompt(self, tokens: list[int], reused: int, fixed_piece: int) -> bool:
        """Decode the prompt in pieces, whose size is fixed or follows the speed; False when it was stopped."""
        cache = self.cache
        done, size = reused, min(fixed_piece or 512, self.model.batch_size)
        self.model.set_abort(self._abort)
        try:
            while done < len(tokens):
                done += self.overflow.skip(tokens, done)
                piece = tokens[done : done + self.overflow.next_piece(tokens, done, size)]
                began = perf_counter()
                code = cache.add(piece)
                seconds = perf_counter() - began
                if code == ABORTED or self._controls.stop.is_set():
                    # Whole micro-batches may have been done before the stop.
                    cache.landed(piece)
                    return False
                if code:
                    raise cache.failed(code)
                done += len(piece)
                self._threads.took_many(seconds, len(piece))
                self._send(PromptRead(done, len(tokens), reused))
                if fixed_piece:
                    continue
                if seconds > 2 * PROMPT_PIECE_S:
                    size = max(32, size // 2)
                elif seconds < PROMPT_PIECE_S / 2:
                    size = min(self.model.batch_size, size * 2)
            return True
        finally:
            self.model.set_abort(None)

    def _write(self, answer: Answer) -> FinishReason:
        """Draw and step until something ends the answer; return what did."""
        steps = self.drafting.steps(self.cache, self._threads, answer.tally)
        row = LAST_ROW
        plan, looks = self._controls.plan, self._controls.looks
        try:
            if reason := answer.begin(plan.beginning):
                return reason
            if not plan.write:
                answer.sampler.remember()
                return "length"
            while True:
                answer.change()
                if looks:
                    answer.sampler.remember(row)
                    self.show_looks(looks)
                token = answer.sampler.next(row)
                if reason := answer.take(token):
                    return reason
                if self.cache.full:
                    steps.settle()
                    if not self.overflow.make_room(answer.generated):
                        return "context"
                answer.show()
                row = steps.advance(token)
        finally:
            steps.settle()
            answer.finish()

    def _stats(self, answer: Answer, prompt: int, reused: int, prompt_s: float) -> Stats:
        tally = answer.tally
        return Stats(
            prompt_tokens=prompt,
            reused_tokens=reused,
            generated_tokens=answer.generated,
            context_used=len(self.cache.tokens),
            context_size=self.model.context_size,
            time_to_first_token_s=round(answer.first_token_s, 6),
            prompt_tokens_per_s=round((prompt - reused) / prompt_s, 2) if prompt_s else 0.0,
            tokens_per_s=round(answer.tokens_per_s, 2),
            threads=self.threads,
            seed=answer.sampler.seed,
            drafted_tokens=tally.drafted,
            accepted_tokens=tally.accepted,
            drafted_by=tuple(name for name, count in tally.accepted_of.most_common() if count),
            dropped_tokens=self.overflow.dropped_tokens,
            draft_gain=round(tally.gain(answer.generated, self.drafting.policy.plain_s), 3),
        )

    def time_tokens(self, **counts: int) -> float:
        """Return the seconds of `timing.seconds_of`; the cache is empty after it."""
        self.put_adapters_on()
        self.cache.clear()
        return seconds_of(self.model, **counts)

    def embed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the vector of a text, see `embedding.embedding_of`; the cache is empty after it.

        Raises:
            ContextFull: it does not fit.
            Unsupported: the model gives no vectors.
        """
        pooling = pooling_of(self._header)
        if len(tokens) > self.model.context_size:
            raise ContextFull(
                f"The text has {len(tokens):,} tokens, and the context holds {self.model.context_size:,}",
                "Cut the text into parts, or load the model with a larger context (-c).",
                needed_tokens=len(tokens), available_tokens=self.model.context_size,
            )  # fmt: skip
        self.put_adapters_on()
        self.cache.clear()
        return embedding_of(self.model, tokens, pooling)

    @property
    def threads(self) -> int:
        """Threads used for one token now."""
        return self._threads.one

    def set_threads(self, tuners: tuple[ThreadTuner, ThreadTuner] | None, threads: int) -> None:
        """Use another count, or tuners, from the next answer on."""
        self._threads = AdaptiveThreads(tuners, threads, self._use_threads)

    def _use_threads(self, one: int, many: int) -> None:
        self.model.set_threads(one, many)
        self.drafting.set_threads(one, many)
