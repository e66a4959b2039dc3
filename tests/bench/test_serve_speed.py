"""What serving over HTTP costs beside the engine alone: tokens a second, the first token, and processor time.

Both sides have one thread and the same answers, and take turns: the machine's moods hit both. The client counts events
and reads no JSON, so that what is compared is the server.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from processor_time import processor_seconds
from random_model import write_random_model
from served import Served

from localknobs.engine import Finished, LoadSettings, TextArrived, load
from localknobs.engine.controls import Plan

pytestmark = pytest.mark.bench
PROMPT = "Once upon a time, there was a lonely teacher called Clara. "
FRESH = Plan(fresh=True)
BARRED = tuple((token, float("-inf")) for token in range(5))  # the end tokens: every answer is as long


class Client:
    """One connection to a server that is kept."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._connection = socket.create_connection((host, int(port)), timeout=60)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = host

    def seconds(self, count: int) -> tuple[float, float]:
        """Return the seconds to the first text, and from there to the end, of an answer of so many tokens."""
        body = json.dumps({
            "prompt": PROMPT, "max_tokens": count, "seed": 7, "stream": True, "cache_prompt": False,
            "logit_bias": [[token, False] for token, _ in BARRED],
        }).encode()  # fmt: skip
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n\r\n"
        began = perf_counter()
        self._connection.sendall(head.encode() + body)
        taken, first = b"", 0.0
        while b"data: [DONE]" not in taken[-64:]:
            taken += self._connection.recv(65536)
            if not first and b'"text":"' in taken:
                first = perf_counter()
        assert taken.startswith(b"HTTP/1.1 200"), taken[:300]
        if not taken.endswith(b"0\r\n\r\n"):
            assert self._connection.recv(64).endswith(b"0\r\n\r\n")
        return first - began, perf_counter() - first

    def close(self) -> None:
        self._connection.close()


def direct_seconds(engine, count: int) -> tuple[float, float]:
    """Return the same of the engine alone."""
    began, first = perf_counter(), 0.0
    values = {"seed": 7, "n_predict": count, "logit_bias": BARRED}
    for event in engine.stream(PROMPT, values, plan=FRESH):
        if isinstance(event, TextArrived) and not first:
            first = perf_counter()
        elif isinstance(event, Finished):
            assert event.stats.generated_tokens == count
    return first - began, perf_counter() - first


def measured(model: Path, home: Path, *, count: int, rounds: int, capsys: pytest.CaptureFixture[str]) -> float:
    server = Served(model, "--log-disable", home=home)
    client = Client(server.url)
    try:
        with load(LoadSettings(model=model, threads=1)) as engine:
            client.seconds(count)
            direct_seconds(engine, count)
            served, direct, used = [], [], {"served": 0.0, "direct": 0.0}
            of_server, worker = (server.process.pid, server.worker())
            own = engine._worker.process.pid
            for _ in range(rounds):
                before = processor_seconds(of_server) + processor_seconds(worker)
                served.append(client.seconds(count))
                used["served"] += processor_seconds(of_server) + processor_seconds(worker) - before
                before = processor_seconds(os.getpid()) + processor_seconds(own)
                direct.append(direct_seconds(engine, count))
                used["direct"] += processor_seconds(os.getpid()) + processor_seconds(own) - before
    finally:
        client.close()
        server.close()
    first, rest = (median(one[at] for one in served) for at in (0, 1))
    own_first, own_rest = (median(one[at] for one in direct) for at in (0, 1))
    ratio = own_rest / rest
    with capsys.disabled():
        pairs = ", ".join(f"{b[1] / a[1]:.3f}" for a, b in zip(served, direct, strict=True))
        a_token = {side: seconds / rounds / count * 1e6 for side, seconds in used.items()}
        print(
            f"\n{model.name}: direct {count / own_rest:,.1f} tokens/s, served {count / rest:,.1f}, ratio {ratio:.3f} "
            f"(pairs: {pairs}); first text {own_first * 1000:.1f} ms direct, {first * 1000:.1f} served: "
            f"{(first - own_first) * 1000:+.1f} ms; processor time {a_token['direct']:,.0f} us a token direct, "
            f"{a_token['served']:,.0f} served: {a_token['served'] / a_token['direct']:.3f} times"
        )
    return ratio


def test_the_built_in_model(built_in, tmp_path, capsys):
    measured(built_in, tmp_path, count=300, rounds=9, capsys=capsys)


def test_a_model_of_0_3_billion_parameters(tmp_path, capsys):
    model = write_random_model(
        tmp_path / "random-0.3b-q8_0.gguf", layers=24, width=1024, heads=16, kv_heads=8, feed_forward=2816,
        fillers=32_000 - 261, context=1024, kind="Q8_0",
    )  # fmt: skip
    assert measured(model, tmp_path / "home", count=32, rounds=5, capsys=capsys) > 0.9
