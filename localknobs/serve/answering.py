"""One answer as a reply of HTTP: whole, or as server-sent events while it is written; who leaves stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

from localknobs.engine import Finished, Noted, PromptRead, Stats, TextArrived
from localknobs.serve.asgi import Receive, Scope, Send, client_left, json_bytes, send_json
from localknobs.serve.desk import Desk
from localknobs.serve.questions import Question
from localknobs.serve.refused import Refused, refusal_of
from localknobs.serve.replies import FINISH, Pieces, Reply, Scored

SLOWEST_READER_S = 60.0
"""A client that takes nothing for so long counts as gone: what waits for it would fill the memory."""


class Answering:
    """Writes one answer; an ASGI application of its own.

    Args:
        desk: Who writes it.
        question: What is asked.
        reply: Its form.
    """

    def __init__(self, desk: Desk, question: Question, reply: Reply) -> None:
        self._desk = desk
        self._question = question
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until all is said or the client has left; raises what goes wrong while nothing was sent."""
        await while_there(self._write(scope, send), scope, receive)

    async def _write(self, scope: Scope, send: Send) -> None:
        question, reply = self._question, self._reply
        stream = EventStream(send) if question.stream else None
        pieces, notes = Pieces(question.likeliest >= 0), list(question.notes)
        text: list[str] = []
        tokens: list[Scored] = []
        try:
            async with aclosing(self._desk.answer(question)) as events:
                async for event in events:
                    if isinstance(event, Noted):
                        notes.append(event.text)
                    elif stream and not stream.begun and isinstance(event, PromptRead | TextArrived | Finished):
                        # Until here an error has a status of its own; from here on it is part of the stream.
                        await stream.begin()
                        if opening := reply.opening():
                            await stream.put(opening)
                    ready = pieces.rest() if isinstance(event, Finished) else pieces.take(event)
                    if ready and stream:
                        await stream.put(reply.piece(*ready))
                    elif ready:
                        text.append(ready[0])
                        tokens += ready[1]
                    if isinstance(event, Finished):
                        finish, stats = _ended(event, notes), event.stats
            scope["said"] = _summary(stats)
            if stream:
                await stream.put(reply.closing(finish, stats, notes))
                if question.with_usage:
                    await stream.put(reply.counts(stats))
                await stream.end()
            else:
                await send_json(send, 200, reply.whole("".join(text), tokens, finish, stats, notes))
        except Exception as error:
            if not stream or not stream.begun or stream.stuck:
                raise
            scope["failed"] = error  # the status is sent: this error too is the guard's to tell of
            await stream.put(refusal_of(error).body())
            await stream.end()


async def while_there(work: Coroutine[Any, Any, None], scope: Scope, receive: Receive) -> None:
    """Do the work of a reply as long as the client is there; raises what it raises."""
    writing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(client_left(receive))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
        else:
            scope["said"] = "the client left; the answer was stopped"
    finally:
        writing.cancel()
        leaving.cancel()
        await asyncio.gather(writing, leaving, return_exceptions=True)


class EventStream:
    """Server-sent events, each one JSON object.

    Args:
        send: ASGI's.

    Attributes:
        begun: Whether the status was sent.
        stuck: Whether the client takes nothing any more: it cannot be told either.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = self.stuck = False

    async def begin(self) -> None:
        """Send the status and the headers."""
        self.begun = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx would keep the pieces back
        ]  # fmt: skip
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def put(self, data: dict[str, Any]) -> None:
        """Send one event; raises `Refused` when the client takes nothing any more."""
        await self._body(b"data: " + json_bytes(data) + b"\n\n", True)

    async def end(self) -> None:
        """Send the mark of the end, and end."""
        await self._body(b"data: [DONE]\n\n", False)

    async def _body(self, data: bytes, more: bool) -> None:
        message = {"type": "http.response.body", "body": data, "more_body": more}
        try:
            async with asyncio.timeout(SLOWEST_READER_S):  # `wait_for` would make a task of every piece
                await self._send(message)
        except TimeoutError:
            self.stuck = True
            raise Refused(408, f"The client took nothing for {SLOWEST_READER_S:.0f} s.") from None


def _ended(event: Finished, notes: list[str]) -> str:
    """Return OpenAI's word for an answer's end, and note what it does not say."""
    if event.reason == "stopped":
        raise Refused(503, "The server was stopped.", code="stopping")
    if dropped := event.stats.dropped_tokens:
        notes.append(
            f"The context of {event.stats.context_size:,} tokens was full: {dropped:,} tokens of the conversation are "
            "dropped, and the model did not see them at the end (--context-full)."
        )
    if event.reason == "context":
        notes.append(
            f"The context of {event.stats.context_size:,} tokens is full, so the answer stops here; "
            "-c gives a larger context, --context-full lets it go on."
        )
    return FINISH[event.reason]


def _summary(stats: Stats) -> str:
    return (
        f"{stats.generated_tokens} tokens at {stats.tokens_per_s:,.1f} tokens/s, "
        f"prompt {stats.prompt_tokens:,} ({stats.reused_tokens:,} reused)"
    )
