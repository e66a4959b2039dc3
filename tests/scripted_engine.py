"""A scripted engine for tests of the screen, and waiting for what the screen does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from textual.pilot import Pilot

from localknobs.engine import Event, Finished, LoadSettings, ModelInfo, SamplerChanged, Stats, TextArrived
from localknobs.engine.controls import AS_USUAL, Plan
from localknobs.errors import LocalknobsError

STATS = Stats(
    prompt_tokens=12,
    generated_tokens=5,
    context_used=17,
    context_size=1024,
    time_to_first_token_s=0.012,
    tokens_per_s=250.0,
    threads=1,
    seed=7,
)


def arrived(text: str, generated: int = 1) -> TextArrived:
    return TextArrived(text, generated, 12 + generated, 250.0)


def finished(reason: Any = "end") -> Finished:
    return Finished(reason, STATS)


class FakeEngine:
    """Does what the script says: events are yielded, errors raised, and what was asked of it is kept."""

    def __init__(self, settings: LoadSettings) -> None:
        self.settings = settings
        self.info = ModelInfo(
            path=str(settings.model),
            name="scripted",
            architecture="llama",
            description="llama 5.5M F16",
            parameters=5_500_000,
            size_bytes=11_000_000,
            context_size=settings.n_ctx or 1024,
            context_trained=1024,
            vocabulary_size=3072,
            chat_template="",
        )
        self.script: queue.Queue[Event | LocalknobsError] = queue.Queue()
        self.asked: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.stops = 0
        self.closed = False

    def say(self, *events: Event | LocalknobsError) -> None:
        for event in events:
            self.script.put(event)

    def answer(self, text: str) -> None:
        self.say(arrived(text), finished())

    def stream(
        self, messages: Any, sampler: Mapping[str, Any], *, continue_last: bool = False, plan: Plan = AS_USUAL
    ) -> Iterator[Event]:
        asked = {"messages": list(messages), "sampler": dict(sampler), "continue_last": continue_last, "plan": plan}
        self.asked.append(asked)
        while True:
            event = self.script.get(timeout=20)
            if isinstance(event, LocalknobsError):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    def set_sampler(self, changes: Mapping[str, Any]) -> None:
        self.changes.append(dict(changes))
        self.say(SamplerChanged(1, 1, dict(changes)))

    def use_settings(self, changes: Mapping[str, Any]) -> tuple[str, ...]:
        self.settings = replace(self.settings, **changes)
        return ()

    def stop(self) -> None:
        self.stops += 1
        self.say(finished("stopped"))

    def close(self) -> None:
        self.closed = True


class Scripted:
    """The engines that were loaded, and a gate in front of loading."""

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: LocalknobsError | None = None

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]

    def load(self, settings: LoadSettings, on_progress: Callable[[float], None]) -> FakeEngine:
        on_progress(0.5)
        assert self.gate.wait(20)
        if self.failure:
            raise self.failure
        self.engines.append(FakeEngine(settings))
        return self.engine


async def until(pilot: Pilot[Any], condition: Callable[[], object], what: str = "") -> None:
    """Let the app work until the condition holds; fail after ten seconds."""
    end = monotonic() + 10
    while not condition():
        assert monotonic() < end, f"waited in vain: {what or condition}"
        await pilot.pause(0.01)
