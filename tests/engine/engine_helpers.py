"""What the engine's tests share: an answer read to its end, and llama.cpp's own tokenizer to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localknobs.engine import Event, Finished, Message, Noted, SamplerChanged, Stats, TextArrived
from localknobs.engine.client import Engine
from localknobs.engine.controls import AS_USUAL, Plan


@dataclass
class Answer:
    """Everything one answer sent."""

    events: list[Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextArrived))

    @property
    def finished(self) -> Finished:
        last = self.events[-1]
        assert isinstance(last, Finished) and sum(isinstance(event, Finished) for event in self.events) == 1
        return last

    @property
    def reason(self) -> str:
        return self.finished.reason

    @property
    def stats(self) -> Stats:
        return self.finished.stats

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Noted)]

    @property
    def changes(self) -> list[SamplerChanged]:
        return [event for event in self.events if isinstance(event, SamplerChanged)]


def ask(
    engine: Engine,
    messages: Sequence[Message] | str,
    sampler: Mapping[str, Any] | None = None,
    *,
    each: Callable[[Answer, Event], None] | None = None,
    continue_last: bool = False,
    plan: Plan = AS_USUAL,
) -> Answer:
    """Read an answer to its end; `each` sees every event as it comes."""
    answer = Answer()
    for event in engine.stream(messages, sampler, continue_last=continue_last, plan=plan):
        answer.events.append(event)
        if each:
            each(answer, event)
    return answer


def once(action: Callable[[], None]) -> Callable[[Answer, Event], None]:
    """Return an `each` that acts at the first text that comes."""
    done: list[bool] = []

    def each(answer: Answer, event: Event) -> None:
        if isinstance(event, TextArrived) and not done:
            done.append(True)
            action()

    return each


def user(text: str) -> list[Message]:
    """Return a conversation of one question."""
    return [{"role": "user", "content": text}]


def reference_tokenizer(model: Path) -> Callable[..., list[int]]:
    """Return `tokenize(text, special=bool)` of llama.cpp itself, without this project's code."""
    import llama_cpp

    vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    return lambda text, special: vocabulary.tokenize(
        text.encode("utf-8", "surrogatepass"), add_bos=False, special=special
    )
