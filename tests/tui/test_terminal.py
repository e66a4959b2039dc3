"""The real program in a terminal, with the real engine: answers, kills, and what is left after them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Terminal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the engine's process in /proc")
LONG = "tell me everything about sampling"
F4 = "\x1bOS"


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    opened = Terminal(["tui"], 120, 40, {"LOCALKNOBS_HOME": str(home)})
    yield opened
    opened.close()


def engine_of(terminal: Terminal) -> int:
    """Return the process that holds the model."""
    pid = terminal.process.pid
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    engines = [
        child for child in children if b"localknobs.engine.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert len(engines) == 1, children
    return engines[0]


def ask(terminal: Terminal, text: str) -> None:
    terminal.wait_for("Write a message")
    terminal.wait_for(lambda shown: "0/1,024" in shown or "tokens/s" in shown)  # the model is there
    terminal.type(text)
    terminal.wait_for(text)
    terminal.type("\r")


def test_it_answers_and_leaves_by_ctrl_q(terminal):
    ask(terminal, "hello")
    terminal.wait_for("first token")
    terminal.type("\x11")
    assert terminal.ends() == 0


def test_the_engine_is_killed_in_an_answer_and_the_chat_goes_on(terminal):
    ask(terminal, LONG)
    terminal.wait_for("writing (Esc stops)")
    killed = engine_of(terminal)
    os.kill(killed, signal.SIGKILL)
    terminal.wait_for("SIGKILL")
    assert terminal.process.poll() is None
    terminal.type("\x12")  # Ctrl+R
    terminal.wait_for(lambda shown: "SIGKILL" not in shown and "writing (Esc stops)" in shown)
    assert engine_of(terminal) != killed
    terminal.type("\x1b")
    terminal.wait_for("stopped")


def test_the_program_is_killed_in_an_answer_and_the_conversation_is_found_again(terminal, home):
    ask(terminal, LONG)
    terminal.wait_for("writing (Esc stops)")
    terminal.wait_for(lambda shown: "Here is what" in shown)
    engine = engine_of(terminal)
    terminal.process.kill()
    terminal.process.wait()
    again = Terminal(["tui"], 120, 40, {"LOCALKNOBS_HOME": str(home)})
    try:
        again.wait_for("0/1,024")
        again.type(F4)
        again.wait_for("interrupted")
        again.type("\r")
        again.wait_for("Here is what")
        assert not Path(f"/proc/{engine}").exists() or "Z" in Path(f"/proc/{engine}/stat").read_text().split()[2]
    finally:
        again.close()
