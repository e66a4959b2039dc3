"""A scripted engine for tests of the screen, and waiting for what the screen does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from textual.pilot import Pilot

from localknobs.engine import (
    Event,
    Finished,
    LoadSettings,
    ModelInfo,
    SamplerChanged,
    Stats,
    TextArrived,
    TokensScored,
)
from localknobs.engine.controls import AS_USUAL, Plan
from localknobs.engine.events import ParkedCache
from localknobs.engine.view import Candidate, SamplerView, Stage
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
VIEW = SamplerView(
    place=4, drawn=2, exact=True, seen=1.0, entropy=1.64, confidence=0.6, places=(0, 9),
    stages=(
        Stage("penalties", False, 3072, 3072, 0.0, 0.0), Stage("top_k", True, 3072, 40, 0.004, 0.004),
        Stage("top_p", True, 40, 2, 0.088, 0.088), Stage("xtc", True, 2, 2, 0.0, 0.27, 0.4),
        Stage("temperature", True, 2, 2, 0.0, 0.145),
    ),
    candidates=(
        Candidate(2, " the", False, 9.1, (0.602, 0.602, 0.604, 0.66, 0.5, 0.544)),
        Candidate(7, "\n", False, 8.4, (0.305, 0.305, 0.306, 0.34, 0.5, 0.456)),
        Candidate(9, "\\xc3", False, 5.9, (0.022, 0.022, 0.022, 0.0, 0.0, 0.0)),
        Candidate(4, "</s>", True, 0.2, (0.0001, 0.0001, 0.0, 0.0, 0.0, 0.0)),
    ),
)  # fmt: skip
"""What the scripted engine sees at every token."""


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
        self.parked: list[tuple[str, str]] = []
        self.parking_note = ""
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

    def look(self, at: int | None = None, values: Any = None, top: int = 20) -> SamplerView:
        return VIEW

    def written_tokens(self) -> tuple[int, ...]:
        return (1, 2, 3)

    def token_scores(self) -> TokensScored:
        return TokensScored(0, ())

    def set_sampler(self, changes: Mapping[str, Any]) -> None:
        self.changes.append(dict(changes))
        self.say(SamplerChanged(1, 1, dict(changes)))

    def use_settings(self, changes: Mapping[str, Any]) -> tuple[str, ...]:
        self.settings = replace(self.settings, **changes)
        return ()

    def save_cache(self, name: str) -> ParkedCache:
        self.parked.append(("save", name))
        return ParkedCache(note=self.parking_note)

    def restore_cache(self, name: str) -> ParkedCache:
        self.parked.append(("restore", name))
        return ParkedCache()

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


PROCESS_S = 60.0
"""How long to wait for what a child process does, which takes longer than a screen."""


async def until(pilot: Pilot[Any], condition: Callable[[], object], what: str = "", *, seconds: float = 10.0) -> None:
    """Let the app work until the condition holds; fail after so many seconds."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, f"waited in vain: {what or condition}"
        await pilot.pause(0.01)
