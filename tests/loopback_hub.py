"""A hub on loopback that speaks the real one's API, and misbehaves on request. `from loopback_hub import LoopbackHub`.

Two servers: the hub itself, and a store on another port to which it redirects with signed addresses that expire.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_" + "SecretOfTheTests" * 2
PIECE = 64 * 1024


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A repository: files by path, and who may read it."""

    files: dict[str, bytes | memoryview]
    gated: bool = False
    private: bool = False
    lfs: tuple[str, ...] = (".gguf", ".safetensors", ".bin", "tokenizer.json")
    tags: tuple[str, ...] = ("gguf", "license:mit")
    downloads: int = 100
    likes: int = 10
    updated: str = "2026-11-01T00:00:00.000Z"
    parameters: int = 1_000_000
    used_storage: int = 0
    commit: str = COMMIT
    claimed_hashes: dict[str, str] = field(default_factory=dict)

    def is_lfs(self, path: str) -> bool:
        return path.endswith(self.lfs)

    def etag(self, path: str) -> str:
        if path not in self.claimed_hashes:
            data = self.files[path]
            self.claimed_hashes[path] = (
                hashlib.sha256(data).hexdigest() if self.is_lfs(path) else git_blob_id(bytes(data))
            )
        return self.claimed_hashes[path]


@dataclass
class Asked:
    """A request that came in."""

    server: str
    method: str
    path: str
    headers: Message


@dataclass
class Behaviour:
    """How the store misbehaves; a number counts down with each request it spoils."""

    ignores_ranges: bool = False
    drop_after: int | None = None  # bytes of an answer, then the connection is cut
    drops: int = 10**9
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # answers before the good ones
    expire_after: int | None = None  # uses of a signed address
    bytes_per_s: float = 0.0
    etag: str | None = None  # instead of the true one
    spoil_at: int | None = None  # a byte of the file that comes wrong
    spoils: int = 10**9
    stall: threading.Event | None = None  # answers stop half-way until it is set


class LoopbackHub:
    """The servers; use as a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        self.store = Behaviour()
        self.hub_refuses: list[tuple[int, dict[str, str]]] = []
        self.redirects = True
        self.renamed: dict[str, str] = {}
        self.sent_bytes = 0
        self._uses: dict[str, int] = {}
        self._lock = threading.Lock()
        self._servers = [_Server(("127.0.0.1", 0), _handler(self, name)) for name in ("hub", "store")]
        self.address, self.store_address = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.store.stall:
            self.store.stall.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def count(self, amount: int) -> None:
        with self._lock:
            self.sent_bytes += amount

    def of(self, server: str) -> list[Asked]:
        return [one for one in self.asked if one.server == server]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients here are killed on purpose."""


def _handler(hub: LoopbackHub, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            # Small, so that bytes count as sent when they have left, and not when they wait in a buffer.
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().setup()

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._serve(True)

        def do_HEAD(self) -> None:
            self._serve(False)

        def _serve(self, with_body: bool) -> None:
            hub.asked.append(Asked(name, self.command, self.path, self.headers))
            with contextlib.suppress(ConnectionError):
                (self._hub if name == "hub" else self._store)(with_body)

        # ---- answers -----------------------------------------------------------------------------

        def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, data: object) -> None:
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(data).encode())

        def _error(self, status: int, code: str = "", message: str = "") -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": message}
            self._answer(status, {key: value for key, value in headers.items() if value}, b'{"error":"no"}')

        # ---- the hub -----------------------------------------------------------------------------

        def _hub(self, with_body: bool) -> None:
            if hub.hub_refuses:
                status, headers = hub.hub_refuses.pop(0)
                return self._answer(status, headers)
            url = urlsplit(self.path)
            path = unquote(url.path)
            for old, new in hub.renamed.items():
                if old in path:
                    return self._answer(307, {"Location": self.path.replace(old, new)})
            if path == "/api/models":
                return self._json(list(_search(hub, parse_qs(url.query))))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                repo = self._allowed(found[1], found[2] or "main", gate=False)
                return self._json(_info(found[1], repo)) if repo else None
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                if repo := self._allowed(found[1], found[2], gate=True):
                    return self._resolve(repo, found[3], with_body)
                return None
            return self._error(404)

        def _allowed(self, repo_id: str, revision: str, *, gate: bool) -> Repo | None:
            repo = hub.repos.get(repo_id)
            given = self.headers.get("Authorization", "")
            if given and given != f"Bearer {TOKEN}":
                self._error(401, "", "Invalid credentials in Authorization header")
            elif repo is None or (repo.private and not given):
                self._error(404 if given else 401, "RepoNotFound", "Repository not found")
            elif gate and repo.gated and not given:
                self._error(401, "GatedRepo", "Access to this model is restricted")
            elif revision not in ("main", repo.commit):
                self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                return repo
            return None

        def _resolve(self, repo: Repo, path: str, with_body: bool) -> None:
            if path not in repo.files:
                return self._error(404, "EntryNotFound", "Entry not found")
            etag = repo.etag(path)
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'}
            if not repo.is_lfs(path) or not hub.redirects:
                return self._body(repo.files[path], headers, with_body)
            hub._uses[signature := f"{len(hub._uses)}"] = 0
            repo_id = next(key for key, value in hub.repos.items() if value is repo)
            headers |= {
                "X-Linked-Size": str(len(repo.files[path])), "X-Linked-ETag": f'"{etag}"',
                "Location": f"{hub.store_address}/{repo_id}/{path}?signature={signature}",
            }  # fmt: skip
            return self._answer(302, headers)

        # ---- the store ---------------------------------------------------------------------------

        def _store(self, with_body: bool) -> None:
            url, how = urlsplit(self.path), hub.store
            with hub._lock:
                if how.refuse:
                    status, headers = how.refuse.pop(0)
                    return self._answer(status, headers)
                signature = parse_qs(url.query)["signature"][0]
                hub._uses[signature] += 1
                if how.expire_after is not None and hub._uses[signature] > how.expire_after:
                    return self._error(403, message="Request has expired")
            owner, name_, path = unquote(url.path)[1:].split("/", 2)
            repo = hub.repos[f"{owner}/{name_}"]
            return self._body(repo.files[path], {"ETag": f'"{how.etag or repo.etag(path)[:16]}"'}, with_body, how)

        def _body(
            self, data: bytes | memoryview, headers: dict[str, str], with_body: bool, how: Behaviour | None = None
        ) -> None:
            how, size = how or Behaviour(), len(data)
            first, end = 0, size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]
            if asked and same and not how.ignores_ranges:
                first, end = int(asked[1]), min(size, int(asked[2] or size) + 1)
                if first >= size:
                    return self._answer(416, {"Content-Range": f"bytes */{size}"})
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
            else:
                self.send_response(200)
            for key, value in {**headers, "Content-Length": str(end - first)}.items():
                self.send_header(key, value)
            self.end_headers()
            return self._send(memoryview(data)[first:end], first, how) if with_body else None

        def _send(self, data: memoryview, first: int, how: Behaviour) -> None:
            began, sent = time.monotonic(), 0
            limit = len(data)
            if how.drop_after is not None and how.drops > 0 and how.drop_after < limit:
                how.drops -= 1
                limit = how.drop_after
            while sent < limit:
                if how.stall and sent:
                    how.stall.wait(60)
                piece = bytes(data[sent : min(sent + PIECE, limit)])
                if how.spoil_at is not None and first + sent <= how.spoil_at < first + sent + len(piece):
                    if how.spoils > 0:
                        how.spoils -= 1
                        at = how.spoil_at - first - sent
                        piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
                self.wfile.write(piece)
                sent += len(piece)
                hub.count(len(piece))
                if how.bytes_per_s:
                    time.sleep(max(0.0, sent / how.bytes_per_s - (time.monotonic() - began)))
            if limit < len(data):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def _search(hub: LoopbackHub, query: dict[str, list[str]]) -> Iterator[dict[str, object]]:
    text, wanted = query.get("search", [""])[0].lower(), query.get("filter", [])
    found = [
        (name, repo)
        for name, repo in hub.repos.items()
        if text in name.lower() and not repo.private and all(tag in repo.tags for tag in wanted)
    ]
    keys = {"downloads": lambda one: one[1].downloads, "likes": lambda one: one[1].likes}
    found.sort(key=keys.get(query.get("sort", ["downloads"])[0], lambda one: one[1].updated), reverse=True)
    for name, repo in found[: int(query.get("limit", ["20"])[0])]:
        info = _info(name, repo)
        del info["siblings"]
        yield info


def _info(name: str, repo: Repo) -> dict[str, object]:
    siblings = []
    for path, data in repo.files.items():
        one: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": "0" * 40}
        if repo.is_lfs(path):
            one["lfs"] = {"size": len(data), "sha256": repo.etag(path), "pointerSize": 134}
        else:
            one["blobId"] = repo.etag(path)
        siblings.append(one)
    return {
        "id": name, "modelId": name, "sha": repo.commit, "gated": "auto" if repo.gated else False,
        "private": repo.private, "downloads": repo.downloads, "likes": repo.likes, "tags": [*repo.tags],
        "lastModified": repo.updated, "siblings": siblings, "usedStorage": repo.used_storage,
        "gguf": {"total": repo.parameters, "architecture": "llama", "context_length": 4096}
        if "gguf" in repo.tags else None,
    }  # fmt: skip
