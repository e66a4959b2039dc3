"""The bytes of one remote file, by ranges: where they really lie, and what a server answers that is not bytes.

The hub redirects to a signed address on another host, which expires: it is remembered, and asked for anew when
that host refuses. Knows nothing of files on disk.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from localknobs.errors import HubFailure
from localknobs.hub.client import CONNECT_S, client, headers_for, origin_of, read_timeout_s, reason_of, refusal
from localknobs.hub.spec import endpoint

if TYPE_CHECKING:
    import httpx2

MOST_REDIRECTS = 8
LONGEST_WAIT_S = 600.0
"""A server that asks for a longer wait is given up."""
NEAR_US, NEAR_BUFFER = 1000, 128 * 1024
"""Round trip below which a buffer of so many bytes, which Linux doubles, is enough for a gigabit and more."""


class Broken(Exception):
    """A request came to nothing and may be tried again.

    Args:
        reason: Why, in a few words.
        wait_s: How long the server asks to wait; 0 when it does not say.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class Unreachable(HubFailure):
    """A file could not be read just now, though the hub would give it."""


class Changed(Exception):
    """The server's file is another one than before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An open answer.

    Args:
        first: Byte of the file with which its bytes begin.
        is_whole: Whether it is the whole file though a range was asked for: the server ignores ranges.
        response: To read from.
    """

    first: int
    is_whole: bool
    response: httpx2.Response

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes as they come.

        Raises:
            Broken: the connection ended.
        """
        import httpx2

        try:
            yield from self.response.iter_raw()
        except (httpx2.TransportError, httpx2.StreamError, OSError) as error:
            raise Broken(reason_of(error)) from None


class Source:
    """One file of a repository at one commit; several threads may read from it at once.

    Args:
        repo: `org/name`.
        commit: Commit of the repository.
        path: The file's path in it.
        size: Bytes it has.
        etags: Entity tag of each host as last seen, kept by the caller between runs.
    """

    def __init__(self, repo: str, commit: str, path: str, size: int, etags: dict[str, str] | None = None) -> None:
        self.name = f"{repo}/{path}"
        self.size = size
        self.etags = {} if etags is None else etags
        self.trusts_etags = True
        self._home = f"{endpoint()}/{repo}/resolve/{quote(commit, safe='')}/{quote(path)}"
        self._lock = threading.Lock()
        self._signed: str | None = None
        self._open: set[httpx2.Response] = set()

    @contextlib.contextmanager
    def answer(self, first: int, end: int) -> Iterator[Answer]:
        """Ask for the bytes from `first` up to, not including, `end`.

        Raises:
            Broken: it may be tried again.
            Changed: the server has another file now.
            HubFailure: it makes no sense to try again.
        """
        import httpx2

        try:
            response = self._response(first, end)
        except (httpx2.TransportError, httpx2.InvalidURL, OSError) as error:
            raise Broken(reason_of(error)) from None
        with self._lock:
            self._open.add(response)
        try:
            yield Answer(self._first_byte(response, first), response.status_code == 200, response)
        finally:
            with self._lock:
                self._open.discard(response)
            response.close()

    def abort(self) -> None:
        """End all answers that are being read; their readers see a broken connection."""
        with self._lock:
            for response in self._open:
                with contextlib.suppress(OSError, AttributeError):
                    _socket_of(response).shutdown(socket.SHUT_RDWR)

    def _response(self, first: int, end: int) -> httpx2.Response:
        """Follow redirects from the hub, or begin at the address it gave last time."""
        import httpx2

        url = self._signed or self._home
        for _ in range(MOST_REDIRECTS):
            headers = {**headers_for(url), "Range": f"bytes={first}-{end - 1}"}
            known = self.etags.get(_host(url), "")
            if known.startswith('"') and self.trusts_etags:
                headers["If-Range"] = known
            timeout = httpx2.Timeout(read_timeout_s(), connect=CONNECT_S)
            request = client().build_request("GET", url, headers=headers, timeout=timeout)
            response = client().send(request, stream=True, follow_redirects=False)
            if not response.is_redirect:
                try:
                    self._check_status(response, url)
                except BaseException:
                    response.close()
                    raise
                _limit_what_is_in_flight(response)
                return response
            location = urljoin(url, response.headers["Location"])
            response.close()
            if origin_of(location) != origin_of(endpoint()):
                self._signed = location
            url = location
        raise HubFailure(f"{self.name} is redirected without end", "Check HF_ENDPOINT.")

    def _check_status(self, response: httpx2.Response, url: str) -> None:
        status = response.status_code
        if status in (200, 206):
            return
        is_hub = origin_of(url) == origin_of(endpoint())
        if status in (408, 425, 429) or status >= 500:
            wait_s = retry_after(response.headers.get("Retry-After", ""))
            if wait_s > LONGEST_WAIT_S:
                raise HubFailure(
                    f"The server asks to wait {wait_s / 60:.0f} minutes before {self.name} is fetched",
                    "Try again then; what was fetched is kept.",
                )
            raise Broken("it asks for fewer requests" if status == 429 else f"it answers {status}", wait_s)
        if status == 416:
            raise Changed
        if not is_hub:
            self._signed = None  # its signature has expired, or was never good: the hub makes a new one
            raise Broken(f"the address the hub gave is refused ({status})")
        with contextlib.suppress(Exception):
            response.read()
        raise refusal(response, self.name)

    def _first_byte(self, response: httpx2.Response, wanted: int) -> int:
        """Return where the answer begins, after a look at whether it is still the same file."""
        host, etag = _host(str(response.request.url)), response.headers.get("ETag", "")
        known = self.etags.get(host, "")
        if self.trusts_etags and known and etag and known != etag:
            raise Changed
        first, total = 0, response.headers.get("Content-Length", "")
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
            if not found:
                raise Broken("it answers with a range that cannot be read")
            first, total = int(found[1]), found[2]
        if total.isdigit() and int(total) != self.size:
            raise Changed
        if first > wanted:
            raise Broken("it answers with another range")
        self.etags[host] = etag
        return first


def retry_after(text: str) -> float:
    """Return how many seconds a `Retry-After` header asks to wait; 0 when it says nothing."""
    if text.strip().isdigit():
        return float(text)
    if text:
        from datetime import UTC, datetime
        from email.utils import parsedate_to_datetime

        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return 0.0


def _host(url: str) -> str:
    return origin_of(url)[1]


def _socket_of(response: httpx2.Response) -> socket.socket:
    found: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
    return found


def _limit_what_is_in_flight(response: httpx2.Response) -> None:
    """From a server that is near, let little be under way: it is lost when we are killed, and nothing is gained by it.

    Linux lets the buffer of a connection grow to tens of megabytes when we read more slowly than the server sends.
    """
    if not hasattr(socket, "TCP_INFO"):
        return
    with contextlib.suppress(OSError, AttributeError, struct.error):
        own = _socket_of(response)
        # struct tcp_info: tcpi_min_rtt, in microseconds, is 148 bytes behind its beginning (Linux 4.6 and newer).
        (round_trip_us,) = struct.unpack_from("=I", own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 152), 148)
        if round_trip_us < NEAR_US:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NEAR_BUFFER)
