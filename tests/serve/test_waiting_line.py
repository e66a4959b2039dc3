"""One at a time: who waits, who leaves, what dies, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from program import PROGRAM
from served import Served

ENDLESS = {"prompt": "a", "max_tokens": 60_000}
SHORT = {"prompt": "a", "max_tokens": 3}


@pytest.fixture(scope="module")
def endless(endless_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(endless_model, home=tmp_path_factory.mktemp("endless"))
    yield served
    served.close()


def in_background(work: Callable[[], httpx2.Response], into: list[httpx2.Response]) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.append(work()))
    thread.start()
    return thread


def test_who_leaves_a_stream_stops_the_answer_and_the_next_one_has_its_turn(endless: Served):
    replies: list[httpx2.Response] = []
    with endless.streaming(**ENDLESS) as stream:
        assert next(stream)["choices"][0]["text"]
        asking = in_background(lambda: endless.post("/v1/completions", **SHORT), replies)
        endless.until(lambda: endless.metric("requests_deferred") == 1, "the second request waits")
        assert endless.metric("requests_processing") == 1 and not replies
    asking.join(30)
    assert replies[0].json()["choices"][0]["text"] == "bcd"
    endless.until(lambda: "the client left" in endless.said, "the line of the first request")


def test_who_leaves_before_a_whole_answer_stops_it(endless: Served):
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{endless.url}/v1/completions", json=ENDLESS, timeout=0.3)
    assert endless.post("/v1/completions", **SHORT).json()["usage"]["completion_tokens"] == 3


def test_who_leaves_the_line_is_never_answered(endless: Served):
    before = endless.said.count("the client left")
    with endless.streaming(**ENDLESS) as stream:
        next(stream)
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{endless.url}/v1/completions", json=SHORT, timeout=0.3)
        endless.until(lambda: endless.said.count("the client left") == before + 1, "the one who waited has left")
        endless.until(lambda: endless.metric("requests_deferred") == 0, "nobody waits")
        assert next(stream)


def test_several_at_once_are_all_answered(endless: Served):
    replies: list[httpx2.Response] = []
    threads = [
        in_background(lambda: httpx2.post(f"{endless.url}/v1/completions", json=SHORT, timeout=30), replies)
        for _ in range(8)
    ]
    for thread in threads:
        thread.join(30)
    assert [reply.json()["choices"][0]["text"] for reply in replies] == ["bcd"] * 8


def test_a_worker_that_is_killed_costs_one_answer(endless: Served):
    replies: list[httpx2.Response] = []
    asking = in_background(lambda: endless.post("/v1/completions", **ENDLESS), replies)
    endless.until(lambda: endless.metric("requests_processing") == 1, "it is being answered")
    os.kill(endless.worker(), signal.SIGKILL)
    asking.join(30)
    error = replies[0].json()["error"]
    assert replies[0].status_code == 500 and error["code"] == "engine_died" and "SIGKILL" in error["message"]
    assert endless.post("/v1/completions", **SHORT).json()["choices"][0]["text"] == "bcd"


def test_a_worker_that_is_killed_ends_a_stream_with_the_reason(endless: Served):
    before = endless.said.count("  log: ")
    with endless.streaming(**ENDLESS) as stream:
        next(stream)
        os.kill(endless.worker(), signal.SIGKILL)
        *_, last = stream
    assert last["error"]["code"] == "engine_died"
    endless.until(lambda: endless.said.count("  log: ") > before, "llama.cpp's last lines are told")
    assert endless.post("/v1/completions", **SHORT).status_code == 200


def test_a_full_line_refuses(start: Callable[..., Served], endless_model: Path):
    served = start(endless_model, "--queue", "0")
    with served.streaming(**ENDLESS) as stream:
        next(stream)
        refused = served.post("/v1/completions", **SHORT)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "queue_full"
        assert refused.headers["retry-after"] == "1"
    served.until(lambda: served.post("/v1/completions", **SHORT).status_code == 200, "the line is free again")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["Ctrl+C", "SIGTERM"])
def test_a_signal_ends_it_at_once_and_says_so_to_who_is_being_answered(
    start: Callable[..., Served], endless_model: Path, number: int, code: int
):
    served = start(endless_model)
    worker = served.worker()
    with served.streaming(**ENDLESS) as stream:
        next(stream)
        served.process.send_signal(number)
        *_, last = stream
    assert last["error"]["code"] == "stopping"
    assert served.process.wait(30) == code
    assert "Traceback" not in served.said
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_what_is_dropped_from_a_full_context_is_said(start: Callable[..., Served]):
    served = start("-c", "256", "--context-full", "turns")
    old = [{"role": role, "content": "Once upon a time. " * 30} for role in ("user", "assistant")]
    asked = {"messages": [*old, {"role": "user", "content": "Hi"}], "max_tokens": 5}
    reply = served.post("/v1/chat/completions", **asked).json()
    assert any("tokens of the conversation are dropped" in note for note in reply["notes"]), reply
    with served.streaming("/v1/chat/completions", **asked) as stream:
        assert any("dropped" in note for event in stream for note in event.get("notes", ()))


def test_an_answer_that_fills_the_context_says_so(start: Callable[..., Served], endless_model: Path):
    reply = start(endless_model, "-c", "256").post("/v1/completions", prompt="a").json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["total_tokens"] >= 256 and any("context of 256 tokens is full" in n for n in reply["notes"])


def test_a_port_in_use_is_said_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([PROGRAM, "serve", "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert re.search(rf"Port {port} of 127.0.0.1 is in use\. .*--port", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--host", "example.com"], 2, "takes an IP address"),
        (["--host", "203.0.113.7"], 2, "no address 203.0.113.7"),
        (["--port", "70000"], 2, "0 to 65535"),
        (["--queue", "-1"], 2, "0 or more"),
        (["--api-key-file", "/nowhere/keys"], 3, "no file"),
        (["--api-key", "ключ"], 2, "ASCII"),
        (["nothing.gguf"], 3, "nothing.gguf"),
    ],
)
def test_wrong_flags_are_said(arguments: list[str], code: int, says: str):
    done = subprocess.run([PROGRAM, "serve", "--port", "0", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code and says in done.stderr and len(done.stderr.splitlines()) == 1
