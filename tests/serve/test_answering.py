"""How an answer is written: piece by piece at once; a client that takes nothing is waited for once, and it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from localknobs.engine import Event, TextArrived
from localknobs.serve import answering
from localknobs.serve.answering import Answering
from localknobs.serve.questions import Question
from localknobs.serve.refused import Refused
from localknobs.serve.replies import Reply
from localknobs.serve.server import bound_socket


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


def test_a_piece_is_sent_at_once_and_waits_for_no_acknowledgement():
    """It is asyncio that asks for it, of connections whose protocol is named."""
    found = []

    async def listen() -> None:
        done = asyncio.Event()

        def taken(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            done.set()

        with bound_socket("127.0.0.1", 0) as bound:
            async with await asyncio.start_server(taken, sock=bound):
                _, writer = await asyncio.open_connection(*bound.getsockname())
                await done.wait()
                writer.close()

    asyncio.run(listen())
    assert found == [1]


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
