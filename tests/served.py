"""A real server in a process of its own, and a client for it. `from served import Served`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from program import PROGRAM

DEADLINE_S = 30.0
"""Longest wait for something that must come; never slept through."""


class Served:
    """`localknobs serve` on a free port.

    Attributes:
        url: Where it listens.
        client: Asks it; without a key.
        said: What it printed to standard error so far.
    """

    def __init__(self, *arguments: str | Path, home: Path, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", "-t", "1", *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "LOCALKNOBS_HOME": str(home), **(environment or {})},
        )  # fmt: skip
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+?(?=/v1)", first)
        assert found, f"it does not listen: {first}{self.said}"
        self.url = found[0]
        self.client = httpx2.Client(base_url=self.url, timeout=DEADLINE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def chat(self, text: str = "What does temperature do?", **fields: Any) -> httpx2.Response:
        return self.post("/v1/chat/completions", messages=[{"role": "user", "content": text}], **fields)

    def post(self, path: str, **fields: Any) -> httpx2.Response:
        return self.client.post(path, json=fields)

    @contextlib.contextmanager
    def streaming(self, path: str = "/v1/completions", **fields: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Ask for a stream; yield its events, which are read as they are taken. Leaving it closes the connection."""
        # A client of its own, as a connection that is left half read is closed.
        with httpx2.Client(base_url=self.url, timeout=DEADLINE_S) as client:
            with client.stream("POST", path, json={"stream": True, **fields}) as reply:
                assert reply.status_code == 200, reply.read()
                assert reply.headers["content-type"].startswith("text/event-stream")
                yield events_of(reply.iter_lines())

    def metric(self, name: str) -> float:
        line = next(
            line for line in self.client.get("/metrics").text.splitlines() if line.startswith(f"llamacpp:{name} ")
        )
        return float(line.split()[1])

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds; fail after a while."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.said}"
            time.sleep(0.01)

    def worker(self) -> int:
        """Return the process that holds the model."""
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", "localknobs.engine.worker"], capture_output=True, text=True
        )
        return int(children.stdout.split()[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def events_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream; its end must be marked."""
    for line in lines:
        if line == "data: [DONE]":
            return
        if line:
            assert line.startswith("data: "), line
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream broke off")
