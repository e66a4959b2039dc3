"""The little of ASGI that the server uses: its types, whole replies, and a body read with bounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from localknobs.serve.refused import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BYTES = 16 * 2**20
"""Of a body; a context of a million tokens is about 5 MB of text."""
SLOWEST_BODY_S = 60.0


async def json_object(scope: Scope, receive: Receive) -> dict[str, Any]:
    """Return the JSON object in a request's body; raises `Refused`."""
    body = await json_value(scope, receive)
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object.", code="invalid_json")
    return body


async def json_value(scope: Scope, receive: Receive) -> Any:
    """Return the JSON in a request's body.

    Raises:
        Refused: it is too large, too slow, or no JSON.
    """
    try:
        data = await asyncio.wait_for(_body(scope, receive), SLOWEST_BODY_S)
    except TimeoutError:
        raise Refused(408, f"The body did not come within {SLOWEST_BODY_S:.0f} s.", code="timeout") from None
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Refused(400, f"The body is not JSON: {reason}.", code="invalid_json") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


async def _body(scope: Scope, receive: Receive) -> bytes:
    headers = dict(scope["headers"])
    told = headers.get(b"content-length", b"")
    told_bytes = int(told[:20]) if told.isdigit() else 0
    # A client that is still sending when it is refused would see a broken connection and no reason: what is
    # somewhat too large is taken and forgotten. One that asks first (Expect: 100-continue) can be told at once.
    most_bytes = LARGEST_BYTES if b"expect" in headers else 4 * LARGEST_BYTES
    if told_bytes > most_bytes:
        raise _too_large()
    data, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The client left before its body came.")
        part = message.get("body", b"")
        size += len(part)
        if size > most_bytes:
            raise _too_large()
        if size <= LARGEST_BYTES:
            data += part
        more = message.get("more_body", False)
    if size > LARGEST_BYTES:
        raise _too_large()
    return bytes(data)


def _too_large() -> Refused:
    return Refused(413, f"The body is larger than {LARGEST_BYTES >> 20} MiB.", code="body_too_large")


async def send_bytes(
    send: Send, status: int, body: bytes, kind: str, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Send a whole reply.

    Args:
        send: ASGI's.
        status: HTTP's number.
        body: What is sent.
        kind: Its media type.
        headers: More headers.
    """
    base = ((b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*base, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_json(send: Send, status: int, data: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send a whole reply of JSON."""
    await send_bytes(send, status, json_bytes(data), "application/json; charset=utf-8", headers)


def json_bytes(data: Any) -> bytes:
    """Return JSON in UTF-8; half a surrogate pair, which JSON can carry and UTF-8 cannot, becomes a question mark."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


async def client_left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
