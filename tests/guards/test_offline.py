"""The program opens no connection: the real one is run, with a witness in it and in every process it starts."""

import os
import subprocess
import sys

import pytest

WITNESS = """
import os, sys

def witness(event, arguments, log=os.environ.get("WITNESS_LOG")):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") and log:
        address = arguments[1] if event == "socket.connect" else arguments[0]
        if not (event == "socket.connect" and isinstance(address, (str, bytes))):  # a Unix socket goes nowhere
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {event} {address!r}\\n")
    if event == "subprocess.Popen" and log:
        with open(log + ".children", "a") as file:
            file.write(f"{arguments[1]!r}\\n")

sys.addaudithook(witness)
"""


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
    [("ls",), ("show", "built-in"), ("knobs",), ("knobs", "temp"), ("doctor",), ("--help",), ("chat", "--help")],
    ids=" ".join,
)
def test_no_verb_opens_a_connection(watched, arguments):
    code, output, attempts, _ = watched("-m", "localknobs", *arguments)
    assert code == 0, output
    assert attempts == ""
