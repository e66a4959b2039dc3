"""The worker's reading of a text, chunk by chunk: surprises of every model, and divergences from the parent.

Chunks are llama-perplexity's: no overlap, the first token replaced by the begin token where the model wants one.
Numbers are made in threads: beside the next computation where cores are idle, and else before it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.engine.batch import Logits, Tokens
from localknobs.evaluate.distances import Comparison, compare, score
from localknobs.evaluate.kept import Bound, KeptLogits, compare_with_kept
from localknobs.evaluate.models import PIECE_BYTES, OpenModel
from localknobs.evaluate.store import pack
from localknobs.hardware import logical_cores, physical_cores


def count_tokens(worker: Any, order: dict[str, Any]) -> None:
    """Say how many tokens a text has for each open model, and what tells whether they are the same."""
    text = Path(order["text"]).read_text(encoding="utf-8")
    for one in worker.models:
        tokens = one.tokens_of(text)
        worker.say({
            "model": one.number, "tokens": len(tokens), "digest": hashlib.sha256(tokens.tobytes()).hexdigest(),
        })  # fmt: skip


def read_text(worker: Any, order: dict[str, Any]) -> None:
    """Read chunks of a text with all open models; say one record a chunk and model.

    The order names the text, `chunk` (tokens), `first` (place of the first token that predicts), `chunks` (which),
    `base` (whether the first open model is the parent), `keep` or `against` (a file of the parent's likeliest tokens).
    """
    text = Path(order["text"]).read_text(encoding="utf-8")
    tokens = {one.number: one.tokens_of(text) for one in worker.models}
    size = order["chunk"]
    threads, beside = looking_threads(worker.models)
    with ThreadPoolExecutor(threads) as pool:
        reader = _Reader(worker, order, pool, threads, beside=beside)
        for chunk in order["chunks"]:
            if worker.enough.is_set():
                break
            reader.read(chunk, {number: found[chunk * size : (chunk + 1) * size] for number, found in tokens.items()})
        reader.finish()


def looking_threads(models: Sequence[OpenModel]) -> tuple[int, bool]:
    """Return how many threads look at logits, and whether they do it beside the next computation.

    A thread that looks while all cores compute holds up every one of them: they wait for each other at each step.
    """
    cores, some = logical_cores(), max(1, physical_cores() // 2)
    if any(device != "CPU" for one in models for device in one.model.devices):
        return some, True
    idle = cores - max(one.model.prompt_threads for one in models)
    return (min(idle, some), True) if 4 * idle >= cores else (cores, False)


class _Reader:
    """Has the models compute, and what they computed looked at.

    Args:
        beside: Whether the models compute while it is being looked at.
    """

    def __init__(
        self, worker: Any, order: dict[str, Any], pool: ThreadPoolExecutor, threads: int, *, beside: bool
    ) -> None:
        self._beside = beside
        self._worker = worker
        self._order = order
        self._pool = pool
        self._threads = threads
        self._waiting: deque[tuple[_Chunk, int, list[Future[None]], list[Logits]]] = deque()
        self._rooms: list[Logits] = []
        self._chunks: deque[_Chunk] = deque()
        widest = max(one.model.vocabulary_size for one in worker.models)
        self._most_rows = max(1, PIECE_BYTES // (4 * widest))

    def read(self, number: int, tokens: dict[int, Tokens]) -> None:
        """Compute one chunk with every model, side by side and piece by piece, so that only pieces are held."""
        models: list[OpenModel] = self._worker.models
        first = self._order["first"]
        chunk = _Chunk(number, self._order, len(models), len(tokens[models[0].number]) - 1 - first)
        self._chunks.append(chunk)
        runs, targets = [], []
        for one in models:
            own = tokens[one.number].copy()
            targets.append(own[first + 1 :].copy())
            if one.model.begin_token >= 0:
                own[0] = one.model.begin_token  # over the text's token, as llama-perplexity does
            one.clear()
            # With the last token, which predicts nothing: numbers depend a little on the size of a call.
            runs.append(one.logits(own, first, self._most_rows))
        place = 0
        while place < chunk.tokens:
            parts = []
            for run in runs:
                logits = next(run)
                if len(self._waiting) > 1:
                    self._wait()  # here, when the next piece is computed already: two are held, never three
                parts.append(self._copied(logits) if self._beside else logits)
            rows = min(len(parts[0]), chunk.tokens - place)
            step = -(-rows // self._threads)
            looks = [
                self._pool.submit(chunk.look, place, slice(begin, min(rows, begin + step)), parts, targets)
                for begin in range(0, rows, step)
            ]
            self._waiting.append((chunk, rows, looks, parts))
            place += rows
            if not self._beside:
                self._wait()

    def _copied(self, logits: Logits) -> Logits:
        """Copy a piece into memory that an earlier one had: fresh memory costs more than the copy, before the model."""
        room = self._rooms.pop() if self._rooms else np.empty(0, np.float32)
        if room.size < logits.size:
            room = np.empty(logits.size, np.float32)
        copy = room[: logits.size].reshape(logits.shape)
        np.copyto(copy, logits)
        return copy

    def _wait(self) -> None:
        """Wait for the oldest piece, and say what is whole."""
        chunk, rows, looks, parts = self._waiting.popleft()
        for look in looks:
            look.result()
        if self._beside:
            self._rooms += [room for part in parts if (room := part.base) is not None]
        chunk.missing -= rows
        while self._chunks and not self._chunks[0].missing:
            for record in self._chunks.popleft().records(self._worker.models):
                self._worker.say({"record": record})

    def finish(self) -> None:
        """Wait for what is being looked at, and say it."""
        while self._waiting:
            self._wait()


class _Chunk:
    """The numbers of one chunk, filled in from threads, each its own rows."""

    def __init__(self, number: int, order: dict[str, Any], models: int, tokens: int) -> None:
        self.number = number
        self.tokens = self.missing = tokens
        self._base = bool(order["base"])
        self._surprises = np.empty((models, tokens))
        self._kls = np.zeros((models, tokens))
        self._same = np.ones((models, tokens), np.uint8)
        self._outside = np.empty(tokens)
        self._keep = KeptLogits(Path(order["keep"])) if order.get("keep") else None
        self._against = KeptLogits(Path(order["against"])) if order.get("against") else None
        self._start = number * tokens

    def look(self, place: int, rows: slice, parts: list[Logits], targets: list[Tokens]) -> None:
        """Look at some rows of a piece that begins at `place`.

        Shapes:
            parts: one of (rows of the piece, vocabulary) a model.  targets: one of (tokens of the chunk,) a model.
        """
        into = slice(place + rows.start, place + rows.stop)
        logits, right = [part[rows] for part in parts], [target[into] for target in targets]
        if self._against:
            kept = self._against.read(self._start + into.start, into.stop - into.start)
            for at, (one, target) in enumerate(zip(logits, right, strict=True)):
                self._note(at, into, compare_with_kept(kept, one, target))
        elif self._base:
            scores, found = compare(logits[0], logits[1:], right[0])
            self._surprises[0, into] = scores.surprises
            for at, comparison in enumerate(found, 1):
                self._note(at, into, comparison)
        else:
            for at, (one, target) in enumerate(zip(logits, right, strict=True)):
                if self._keep:
                    scores, self._outside[into] = self._keep.write(self._start + into.start, one, target)
                else:
                    scores = score(one, target)
                self._surprises[at, into] = scores.surprises

    def _note(self, at: int, into: slice, found: Comparison | Bound) -> None:
        self._surprises[at, into], self._kls[at, into] = found.surprises, found.kls
        self._same[at, into] = found.same_top

    def records(self, models: list[OpenModel]) -> list[dict[str, Any]]:
        """Return one record a model."""
        found = []
        for at, one in enumerate(models):
            record = {"model": one.number, "chunk": self.number, "nll": pack(self._surprises[at])}
            if self._against or (self._base and at):
                record |= {"kl": pack(self._kls[at]), "same": pack(self._same[at])}
            if self._keep:
                record |= {"outside": float(self._outside.mean())}
            found.append(record)
        return found
