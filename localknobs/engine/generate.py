"""The loop of one answer: read the prompt, then draw, decode and give out text, token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import llama_cpp as lib

from localknobs.engine.controls import Controls
from localknobs.engine.events import (
    Event,
    Finished,
    FinishReason,
    Noted,
    PromptRead,
    SamplerChanged,
    Stats,
    TextArrived,
)
from localknobs.engine.llama import ABORTED, NO_CACHE_SLOT, LoadedModel
from localknobs.engine.sampling import NOTHING_ALLOWED, Sampler
from localknobs.engine.templates import Prompt
from localknobs.engine.text import TextAssembler
from localknobs.engine.threads import ThreadTuner
from localknobs.errors import BadValue, ContextFull, LocalknobsError
from localknobs.knobs import KNOBS, Value

FLUSH_S = 0.016
"""Text is sent at most this often: a screen draws no faster, and every message costs time."""
PROMPT_PIECE_S = 0.5
"""Aimed-at time of one call while a prompt is read, so that it can be stopped and shows progress."""


class Generator:
    """Writes answers with one model; keeps what its cache holds, so that a next turn reads only what is new.

    Args:
        model: The loaded model.
        tuners: Thread tuners for one token and for many, or None for a fixed count.
        threads: The fixed count, or where the tuners begin.
        send: Takes the events.
    """

    def __init__(
        self,
        model: LoadedModel,
        tuners: tuple[ThreadTuner, ThreadTuner] | None,
        threads: int,
        send: Callable[[Event], None],
    ) -> None:
        self.model = model
        self._controls = Controls()
        self._tuners = tuners
        self._threads = threads
        self._send = send
        self._cached: list[int] = []
        # Called between operations of the graph while a prompt is read (CPU only).
        self._abort = lib.ggml_abort_callback(lambda _data: self._controls.stop.is_set())
        self._use_tuned_threads()

    def answer(self, prompt: Prompt, values: Mapping[str, Value], controls: Controls, began: float) -> None:
        """Write one answer and send its events, `Finished` last.

        Args:
            prompt: What is read before the first token is drawn.
            values: Complete sampling values.
            controls: How it is stopped and changed.
            began: `perf_counter` when the question came.

        Raises:
            ContextFull: the prompt does not fit; nothing was cut.
            BadValue: the grammar or the logit bias is wrong for this model.
        """
        self._controls = controls
        tokens = prompt.tokens or [max(0, self.model.begin_token)]
        if len(tokens) >= self.model.context_size:
            raise ContextFull(
                f"The conversation has {len(tokens):,} tokens, and the context holds {self.model.context_size:,}",
                "Start a new conversation, shorten a message, or load the model with a larger context (-c).",
                needed_tokens=len(tokens) + 1,
                available_tokens=self.model.context_size,
            )
        if prompt.note:
            self._send(Noted(prompt.note, "warning"))
        stops = (*cast("tuple[str, ...]", values["stop"]), *prompt.stops)
        sampler = Sampler(self.model, values, tokens)
        try:
            reused = self._reuse(tokens)
            prompt_began = perf_counter()
            stopped = not self._read_prompt(tokens, reused)
            prompt_s = perf_counter() - prompt_began
            counts = _Counts(len(tokens), reused, began, prompt_s)
            reason = "stopped" if stopped else self._write(sampler, TextAssembler(stops), prompt.stops, counts)
            self._send(Finished(reason, self._stats(counts, sampler)))
        finally:
            sampler.close()

    def _reuse(self, tokens: list[int]) -> int:
        """Keep the common beginning of the cache and the prompt; return its length, less than the prompt's."""
        common = 0
        # The last token is always decoded again: its logits are needed.
        for have, want in zip(self._cached, tokens[:-1], strict=False):
            if have != want:
                break
            common += 1
        if not self.model.keep(common):
            # A recurrent state cannot be cut: begin at zero.
            self.model.clear()
            common = 0
        self._cached = tokens[:common]
        return common

    def _read_prompt(self, tokens: list[int], reused: int) -> bool:
        """Decode the prompt in pieces; False when it was stopped."""
        done, size = reused, min(512, self.model.batch_size)
        self.model.set_abort(self._abort)
        try:
            while done < len(tokens):
                piece = tokens[done : done + size]
                began = perf_counter()
                code = self.model.decode(piece)
                seconds = perf_counter() - began
                if code == ABORTED or self._controls.stop.is_set():
                    # Whole micro-batches may have been done before the stop.
                    self._cached = tokens[: self.model.tokens_in_cache()]
                    return False
                if code:
                    raise self._failed(code)
                done += len(piece)
                self._cached += piece
                if self._tuners and len(piece) >= 64 and self._tuners[1].record(seconds / len(piece)):
                    self._use_tuned_threads()
                self._send(PromptRead(done, len(tokens), reused))
                if seconds > 2 * PROMPT_PIECE_S:
                    size = max(32, size // 2)
                elif seconds < PROMPT_PIECE_S / 2:
                    size = min(self.model.batch_size, size * 2)
            return True
        finally:
            self.model.set_abort(None)

    def _write(
        self, sampler: Sampler, text: TextAssembler, template_stops: tuple[str, ...], counts: _Counts
    ) -> FinishReason:
        """Draw and decode until something ends the answer; return what did."""
        model, controls, cached = self.model, self._controls, self._cached
        limit = int(cast(int, sampler.values["n_predict"]))
        pending: list[str] = []
        sent = 0.0
        reason: FinishReason
        writing = perf_counter()
        while True:
            if controls.changes:
                self._flush(pending, counts)
                limit = self._change(sampler, text, template_stops, counts, limit)
            token = sampler.next()
            now = perf_counter()
            if counts.generated == 0:
                counts.first_token_s = now - counts.began
                writing = now
            if token == NOTHING_ALLOWED:
                self._send(Noted("The answer ends here: the grammar allows no token this model has.", "warning"))
                reason = "end"
                break
            data = model.piece(token)
            if data is None:
                reason = "end"
                break
            counts.generated += 1
            piece = text.push(data)
            if piece:
                pending.append(piece)
            counts.tokens_per_s = (counts.generated - 1) / (now - writing) if now > writing else 0.0
            if text.stopped:
                reason = "stop"
            elif controls.stop.is_set():
                reason = "stopped"
            elif 0 < limit <= counts.generated:  # it may have been lowered meanwhile
                reason = "length"
            elif len(cached) >= model.context_size:
                reason = "context"
            else:
                if pending and now - sent >= FLUSH_S:
                    self._flush(pending, counts)
                    sent = now
                began = perf_counter()
                code = model.decode((token,))
                if code:
                    raise self._failed(code)
                cached.append(token)
                if self._tuners and self._tuners[0].record(perf_counter() - began):
                    self._use_tuned_threads()
                continue
            break
        tail = text.finish()
        if tail:
            pending.append(tail)
        self._flush(pending, counts)
        return reason

    def _change(
        self, sampler: Sampler, text: TextAssembler, template_stops: tuple[str, ...], counts: _Counts, limit: int
    ) -> int:
        """Use the sampler values that came since the last token; return the new limit of tokens."""
        merged: dict[str, Value] = {}
        while self._controls.changes:
            merged.update(self._controls.changes.popleft())
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
                text.set_stops((*cast("tuple[str, ...]", sampler.values["stop"]), *template_stops))
                self._send(SamplerChanged(counts.generated, text.written, different))
        return int(cast(int, sampler.values["n_predict"]))

    def _flush(self, pending: list[str], counts: _Counts) -> None:
        if pending:
            self._send(
                TextArrived("".join(pending), counts.generated, len(self._cached), round(counts.tokens_per_s, 2))
            )
            pending.clear()

    def _stats(self, counts: _Counts, sampler: Sampler) -> Stats:
        read = counts.prompt - counts.reused
        return Stats(
            prompt_tokens=counts.prompt,
            reused_tokens=counts.reused,
            generated_tokens=counts.generated,
            context_used=len(self._cached),
            context_size=self.model.context_size,
            time_to_first_token_s=round(counts.first_token_s, 6),
            prompt_tokens_per_s=round(read / counts.prompt_s, 2) if counts.prompt_s else 0.0,
            tokens_per_s=round(counts.tokens_per_s, 2),
            threads=self.threads,
            seed=sampler.seed,
        )

    @property
    def threads(self) -> int:
        """Threads used for one token now."""
        return self._tuners[0].threads if self._tuners else self._threads

    def set_threads(self, tuners: tuple[ThreadTuner, ThreadTuner] | None, threads: int) -> None:
        """Use another count, or tuners, from the next answer on."""
        self._tuners, self._threads = tuners, threads
        self._use_tuned_threads()

    def _use_tuned_threads(self) -> None:
        prompt = self._tuners[1].threads if self._tuners else self._threads
        self.model.set_threads(self.threads, prompt)

    def _failed(self, code: int) -> LocalknobsError:
        # What the cache holds after a failure is not known: the next answer reads everything again.
        self._cached = []
        self.model.clear()
        if code == NO_CACHE_SLOT:
            return ContextFull(
                "The cache has no room for the next tokens",
                "Start a new conversation or load the model with a larger context (-c).",
            )
        return LocalknobsError(
            f"llama.cpp could not compute the next tokens (code {code})",
            "Try again; if it stays, load the model with fewer GPU layers (-ngl).",
        )


@dataclass(slots=True)
class _Counts:
    """Counts and times of one answer, in tokens and seconds."""

    prompt: int
    reused: int
    began: float
    prompt_s: float
    generated: int = 0
    first_token_s: float = 0.0
    tokens_per_s: float = 0.0
