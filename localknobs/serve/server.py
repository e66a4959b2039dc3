"""The listening itself: the socket, the event loop, and a clean end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Sequence

from localknobs.engine.client import Engine
from localknobs.errors import BadValue, LocalknobsError
from localknobs.knobs import Values
from localknobs.serve.desk import Desk
from localknobs.serve.guard import Access, Guard
from localknobs.serve.paths import Paths

END_S = 2
"""Time that replies have to come to their end when the server stops."""


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that has an address of this machine for itself; it does not listen yet.

    Args:
        host: An IP address, or `localhost`: no name is looked up.
        port: 0 takes any free one.

    Raises:
        BadValue: it is no address, or none of this machine's.
        LocalknobsError: the port is in use or not allowed.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise BadValue(
            f"--host cannot be {host!r}", "It takes an IP address: 127.0.0.1 for this machine alone, 0.0.0.0 for all."
        ) from None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    # With the protocol named: asyncio sends small pieces at once (TCP_NODELAY) only where it is. Else a token may wait
    # for the client's acknowledgement of the one before; not within one machine, but over a network.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((str(address), port))
    except OSError as error:
        bound.close()
        raise _no_socket(error, host, port) from None
    return bound


def _no_socket(error: OSError, host: str, port: int) -> LocalknobsError:
    if error.errno == errno.EADDRINUSE:
        return LocalknobsError(
            f"Port {port} of {host} is in use", f"Stop what uses it, or take another: --port {port % 65535 + 1}."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return LocalknobsError(f"Port {port} is not allowed to you", "Ports below 1024 are the system's: --port 8080.")
    if error.errno == errno.EADDRNOTAVAIL:
        return BadValue(f"This machine has no address {host}", "127.0.0.1 is this machine alone, 0.0.0.0 all of them.")
    return LocalknobsError(f"Nothing can listen at {host}, port {port}: {error.strerror}", "Take another --port.")


def url_of(bound: socket.socket) -> str:
    """Return where a socket is reached."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    engine: Engine,
    defaults: Values,
    bound: socket.socket,
    *,
    names: Sequence[str],
    access: Access,
    most_waiting: int,
    ready: Callable[[], None],
    told: Callable[[str], None] | None,
    problem: Callable[[Exception], None],
) -> int:
    """Answer requests until a signal ends it.

    Args:
        engine: The loaded model.
        defaults: Sampling values of requests that name none.
        bound: Where to listen.
        names: What the model is called.
        access: Who may ask.
        most_waiting: Requests that may wait while one is answered.
        ready: Called when requests are taken.
        told: Takes a line for each request; None tells nothing.
        problem: Takes each error that is the server's own and not a request's.

    Returns:
        The signal that ended it: SIGINT or SIGTERM.
    """
    # What it would print of a request that breaks off is nothing a user can act on.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    desk = Desk(engine, defaults, most_waiting)
    guard = Guard(Paths(desk, names), access, told, problem)
    return asyncio.run(_until_signal(guard, desk, bound, ready))


async def _until_signal(guard: Guard, desk: Desk, bound: socket.socket, ready: Callable[[], None]) -> int:
    import uvicorn  # 80 ms: a wrong flag, a port in use and a missing model are told before

    server = uvicorn.Server(
        uvicorn.Config(
            guard,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=END_S,
        )  # fmt: skip
    )
    signals: list[int] = []
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        server.force_exit = server.should_exit  # the second one waits for nothing
        server.should_exit = True
        signals.append(number)
        desk.close()

    async def begin() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        # In place of uvicorn's own, which would wait for the whole answer.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        ready()

    beginning = asyncio.ensure_future(begin())
    try:
        await server.serve(sockets=[bound])
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _no_socket(error, host, port) from None
    finally:
        beginning.cancel()
    return signals[0] if signals else int(signal.SIGTERM)
