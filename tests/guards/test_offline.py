"""The program opens no connection: the real one is run, with a witness in it and in every process it starts."""

import os
import re
import subprocess
import sys

import pytest
from repository import REPOSITORY
from witness import WITNESS

from localknobs.cli.main import VERBS


@pytest.fixture
def watched(tmp_path):
    """Return a function that runs Python with the witness; it returns (exit code, output, attempts, children)."""
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    log = tmp_path / "attempts"

    def run(*arguments: str, given: str = "") -> tuple[int, str, str, str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "WITNESS_LOG": str(log)}
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, input=given, check=False
        )
        children = log.with_name("attempts.children")
        return (
            done.returncode, done.stdout + done.stderr,
            log.read_text() if log.exists() else "", children.read_text() if children.exists() else "",
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    "program",
    [
        "import socket; s = socket.socket(); s.settimeout(0.1); s.connect_ex(('127.0.0.1', 9))",
        "import socket\ntry: socket.getaddrinfo('localhost', 80)\nexcept OSError: pass",
        "import subprocess, sys; subprocess.run([sys.executable, '-c',"
        " \"import socket; socket.socket().connect_ex(('127.0.0.1', 9))\"])",
    ],
    ids=["connect", "look-up", "in a child"],
)
def test_the_witness_sees_an_attempt(watched, program):
    assert "socket." in watched("-c", program)[2]


def test_an_answer_opens_no_connection(watched):
    code, output, attempts, children = watched("-m", "localknobs", "chat", "-p", "hi", "-t", "1", "-n", "8")
    assert code == 0 and output.strip()
    assert "localknobs.engine.worker" in children, "the model ran in a process that the witness was in as well"
    assert attempts == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls",),
        ("import",),
        ("prune",),
        ("show", "built-in"),
        ("knobs",),
        ("knobs", "temp"),
        ("doctor",),
        ("--help",),
        ("chat", "--help"),
    ],
    ids=" ".join,
)
def test_no_verb_opens_a_connection(watched, arguments):
    code, output, attempts, _ = watched("-m", "localknobs", *arguments)
    assert code == 0, output
    assert attempts == ""


REFUSED = {"search": ["search", "qwen"], "pull": ["pull", "org/repo"], "convert": ["convert", "--check", "org/repo"]}
"""Verbs that need a connection, and how they are asked for one."""
REAL = {
    "chat": ["chat", "-p", "hi", "-t", "1", "-n", "4"], "ls": ["ls"], "show": ["show", "built-in"], "knobs": ["knobs"],
    "doctor": ["doctor"], "quantize": ["quantize", "built-in", "Q8_0", "--allow-requantize", "--dry-run"],
}  # fmt: skip
"""Verbs that do something real and quick; the others are given a file that is not there."""


@pytest.mark.parametrize("verb", [*VERBS])
def test_offline_no_verb_opens_a_connection(watched, tmp_path, verb):
    given = REFUSED.get(verb) or REAL.get(verb, [verb, str(tmp_path / "nothing.gguf")])
    code, output, attempts, _ = watched("-m", "localknobs", *given, "--offline")
    assert attempts == ""
    if verb in REFUSED:
        assert code == 3 and "none is opened" in output and "--offline" in output
    else:
        assert "Unexpected" not in output


def test_only_serve_can_listen():
    listens = re.compile(
        r"^\s*(?:import|from) (?:uvicorn|starlette|http\.server|socketserver|aiohttp|wsgiref)\b|"
        r"\.(?:create_server|start_server|create_unix_server)\(|\.bind\(\(", re.M,
    )  # fmt: skip
    found = {
        str(file.relative_to(REPOSITORY))
        for folder in ("localknobs", "convert", "tui")
        for file in (REPOSITORY / folder).rglob("*.py")
        if listens.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"localknobs/serve/server.py"}


def test_only_the_hub_can_open_a_connection():
    """One place imports what opens sockets; pip, which fetches llama.cpp's converter, is refused by the same switch."""
    opens = re.compile(
        r"^\s*(?:import|from) (?:httpx2?|requests|urllib\.request|urllib3|aiohttp|http\.client|ftplib)\b", re.M
    )
    found = {
        str(file.relative_to(REPOSITORY))
        for folder in ("localknobs", "convert", "tui")
        for file in (REPOSITORY / folder).rglob("*.py")
        if opens.search(file.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith("localknobs/hub/")} == set()
    makers = [file for file in found if "httpx2.Client(" in (REPOSITORY / file).read_text(encoding="utf-8")]
    assert makers == ["localknobs/hub/client.py"]
