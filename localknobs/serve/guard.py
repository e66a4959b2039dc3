"""Who may ask: no web page of another site, nobody without the key; and an answer to whatever goes wrong."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

from localknobs.serve.asgi import Application, Message, Receive, Scope, Send, send_json
from localknobs.serve.refused import Refused, refusal_of

OPEN_PATHS = ("/health", "/v1/health")
"""What is told without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask.

    Args:
        keys: Any of them lets in; none lets everybody in.
        hosts: Names this machine may be called by, beside its addresses, `localhost` and its own name.
        origins: Web pages, as `https://host:port`, that browsers may ask from; `*` for all.
    """

    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class Guard:
    """Stands before the application: refuses, turns errors into replies, and tells of each request.

    Args:
        application: What it stands before.
        access: Who may ask.
        told: Takes a line for each request; None tells nothing.
        problem: Takes an error of the server's own.
    """

    def __init__(
        self,
        application: Application,
        access: Access,
        told: Callable[[str], None] | None,
        problem: Callable[[Exception], None],
    ) -> None:
        self._application = application
        self._access = access
        self._keys = [key.encode() for key in access.keys]
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", *map(str.lower, access.hosts)}
        self._told = told
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began, status = perf_counter(), 0
        origin = ""

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if origin:
                    message["headers"] = [*message["headers"], *_sharing(origin)]
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._check_host(headers)
            origin = self._checked_origin(headers)
            if scope["method"] == "OPTIONS" and origin:
                await send_json(watched, 200, {}, _PREFLIGHT)
                return
            self._check_key(scope["path"], headers)
            await self._application(scope, receive, watched)
            if failed := scope.get("failed"):
                self._failed(scope, failed)
        except Exception as error:
            refused = self._failed(scope, error)
            if status:
                raise  # half a reply: the connection is closed
            await send_json(watched, refused.status, refused.body(), _headers_of(refused))
        finally:
            if self._told and scope["path"] not in OPEN_PATHS:
                said = f": {said}" if (said := scope.get("said")) else ""
                took = perf_counter() - began
                self._told(f"{scope['method']} {scope['path']} {status or 'no reply'} in {took:.2f} s{said}")

    def _failed(self, scope: Scope, error: Exception) -> Refused:
        """Return the refusal that an error means, and tell of the error where it is the server's own."""
        refused = refusal_of(error)
        scope["said"] = refused.message
        if refused.status >= 500 and refused.status != 503:
            self._problem(error)
        return refused

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """Refuse a name of somebody else's: a web page can make its own name point here (DNS rebinding)."""
        host = headers.get(b"host", b"").decode("latin-1")
        name = _host_name(host)
        if name in self._names or _is_address(name):
            return
        raise Refused(
            403, f"This server is not called {host!r}. Use its address, or start it with: --allow-host {name}",
            code="wrong_host",
        )  # fmt: skip

    def _checked_origin(self, headers: dict[bytes, bytes]) -> str:
        """Return the web page's origin where it is one that may ask; empty where no page of another site asks."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin:
            return ""
        if origin in self._access.origins or "*" in self._access.origins:
            return origin
        host = headers.get(b"host", b"").decode("latin-1")
        if origin.lower() == f"http://{host}".lower():
            return ""
        raise Refused(
            403, f"Web pages of {origin} may not ask this server. Start it with --allow-origin {origin} to let them.",
            code="wrong_origin",
        )  # fmt: skip

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if not self._keys or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = key.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        # All are compared, each in the same time however much of it is right.
        if not any([hmac.compare_digest(given, one) for one in self._keys]):
            what = "is wrong" if given else "is missing"
            raise Refused(401, f"The API key {what}. Send it as: Authorization: Bearer KEY", code="invalid_api_key")


def _host_name(host: str) -> str:
    """Return the name of a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key"),
    (b"access-control-max-age", b"600"),
)


def _sharing(origin: str) -> Sequence[tuple[bytes, bytes]]:
    return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]


def _headers_of(refused: Refused) -> tuple[tuple[bytes, bytes], ...]:
    extra = {401: (b"www-authenticate", b"Bearer"), 413: (b"connection", b"close"), 503: (b"retry-after", b"1")}
    return (extra[refused.status],) if refused.status in extra else ()
