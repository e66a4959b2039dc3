"""How an answer is written to a client that takes nothing: it is waited for once, and the answer stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from localknobs.engine import Event, TextArrived
from localknobs.serve import answering
from localknobs.serve.answering import Answering
from localknobs.serve.questions import Question
from localknobs.serve.refused import Refused
from localknobs.serve.replies import Reply


class EndlessDesk:
    """Answers without end; says whether it was stopped."""

    def __init__(self) -> None:
        self.stopped = False

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        try:
            while True:
                yield TextArrived("a", 1, 1, 1.0)
                await asyncio.sleep(0)
        finally:
            self.stopped = True


def test_a_client_that_takes_nothing_is_waited_for_once_and_stops_the_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answering, "SLOWEST_READER_S", 0.05)
    desk, sent = EndlessDesk(), []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()  # the client's window is full, and stays so

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def ask() -> None:
        question = Question(prompt="a", values={}, stream=True)
        await Answering(desk, question, Reply("tiny", chat=False, scored=False))({}, receive, send)  # type: ignore[arg-type]

    with pytest.raises(Refused, match="took nothing") as refused:
        asyncio.run(ask())
    assert refused.value.status == 408 and desk.stopped
    assert len(sent) == 4, "nothing more is sent to who takes nothing"
