"""One model, one answer at a time: requests wait in a line, and what the engine says is handed on as it comes."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from localknobs.engine import Event, Finished, Stats
from localknobs.engine.adapter_files import path_and_scale, text_of
from localknobs.engine.client import Engine
from localknobs.engine.controls import Plan
from localknobs.knobs import Value
from localknobs.serve.questions import Question
from localknobs.serve.refused import Refused

Result = TypeVar("Result")


class Desk:
    """Hands the engine to one request after the other, first come first served.

    Args:
        engine: The loaded model. A worker that died is started again by the next request.
        defaults: Sampling values of a request that names none.
        most_waiting: Requests that may wait; one more is refused.

    Attributes:
        adapters: Names of the adapters that were loaded with the model.
        scales: Theirs, for requests that name none; a change counts from the next request on.
        waiting: Requests in the line.
        prompt_tokens, prompt_s, predicted_tokens, predicted_s: Sums over all answers; reused tokens do not count.
    """

    def __init__(self, engine: Engine, defaults: Mapping[str, Value], most_waiting: int) -> None:
        self.engine = engine
        self.defaults = defaults
        self.most_waiting = most_waiting
        named = [path_and_scale(text) for text in engine.settings.lora]
        self.adapters = tuple(name for name, _ in named)
        self.scales = self._on = tuple(scale for _, scale in named)
        self.waiting = 0
        self.prompt_tokens = self.predicted_tokens = 0
        self.prompt_s = self.predicted_s = 0.0
        self._turn = asyncio.Lock()  # wakes those who wait in the order they came
        self._thread = ThreadPoolExecutor(1, "engine")
        self._closing = False

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._turn.locked()

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        """Wait for the turn, write an answer and yield its events, `Finished` last; closing it stops the answer.

        The next request has its turn once the answer is written, however slowly this one is read.

        Raises:
            Refused: the line is full, or the server ends.
            LocalknobsError: whatever the engine says.
        """
        await self._take_turn()
        loop = asyncio.get_running_loop()
        feed: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        gone = threading.Event()

        def put(item: Event | Exception | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(feed.put_nowait, item)

        job = loop.run_in_executor(self._thread, self._write, question, put, gone)
        job.add_done_callback(lambda _job: self._turn.release())
        try:
            while (item := await feed.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Finished):
                    self._count(item.stats)
                yield item
        finally:
            gone.set()
            if not job.done():
                self.engine.stop()

    def _write(
        self, question: Question, put: Callable[[Event | Exception | None], None], gone: threading.Event
    ) -> None:
        """Put an answer's events, in the engine's thread; the last item is None."""
        try:
            self._use_scales(self.scales if question.scales is None else question.scales)
            values = {**self.defaults, **question.values}
            if question.schema is not None:
                values["grammar"] = self.engine.grammar_of_schema(question.schema)
            plan = Plan(score=question.likeliest >= 0, likeliest=question.likeliest, fresh=question.fresh)
            if self._closing:
                raise _stopping()
            events = self.engine.stream(question.prompt, values, continue_last=question.continue_last, plan=plan)
            for event in events:
                put(event)
                if gone.is_set():
                    break  # forgetting the events stops the answer
        except Exception as error:
            put(error)
        finally:
            put(None)

    def _use_scales(self, scales: tuple[float, ...]) -> None:
        """Let adapters act so strongly from the next answer on; what each setting has read stays for its return."""
        if scales != self._on:
            self.engine.use_settings({"lora": tuple(map(text_of, self.adapters, scales))})
            self._on = scales

    async def embed(self, text: str | Sequence[int]) -> tuple[array[float], int]:
        """Return a text's vector and how many tokens it has, under the server's own scales; raises as `ask` does."""

        def work(engine: Engine) -> tuple[array[float], int]:
            self._use_scales(self.scales)
            return engine.embed(text)

        return await self.ask(work)

    async def ask(self, work: Callable[[Engine], Result]) -> Result:
        """Wait for the turn, and return what some short work on the engine returns; raises as `answer` does."""
        await self._take_turn()
        job = asyncio.get_running_loop().run_in_executor(self._thread, work, self.engine)
        job.add_done_callback(lambda _job: self._turn.release())
        return await asyncio.shield(job)  # who leaves must not free the turn of a thread that still works

    async def _take_turn(self) -> None:
        if self._turn.locked() and self.waiting >= self.most_waiting:
            raise Refused(
                503,
                f"One request is answered at a time, and {self.waiting} wait already. Try again later, or start the "
                "server with a longer line (--queue).",
                code="queue_full",
            )
        self.waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.waiting -= 1
        if self._closing:
            self._turn.release()
            raise _stopping()

    def _count(self, stats: Stats) -> None:
        read = stats.prompt_tokens - stats.reused_tokens
        self.prompt_tokens += read
        self.predicted_tokens += stats.generated_tokens
        self.prompt_s += read / stats.prompt_tokens_per_s if stats.prompt_tokens_per_s else 0.0
        self.predicted_s += stats.generated_tokens / stats.tokens_per_s if stats.tokens_per_s else 0.0

    def close(self) -> None:
        """Stop the answer being written, and refuse whoever waits."""
        self._closing = True
        self.engine.stop()


def _stopping() -> Refused:
    return Refused(503, "The server is stopping.", code="stopping")
