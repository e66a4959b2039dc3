"""The real program in a terminal, with the real engine: answers, kills, and what is left after them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Terminal
from random_model import write_random_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the engine's process in /proc")
F4 = "\x1bOS"


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    opened = Terminal(["tui"], 120, 40, {"LOCALKNOBS_HOME": str(home)})
    yield opened
    opened.close()


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    """A model that writes for many seconds, so that something can happen meanwhile."""
    return write_random_model(
        tmp_path / "slow.gguf", layers=6, width=512, heads=8, kv_heads=4, feed_forward=1408,
        fillers=4000, context=4096, kind="Q8_0", never_ends=True,
    )  # fmt: skip


@pytest.fixture
def slow(home: Path, slow_model: Path) -> Iterator[Terminal]:
    opened = Terminal(["tui", str(slow_model)], 120, 40, {"LOCALKNOBS_HOME": str(home)})
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
    terminal.wait_for(lambda shown: " 0/1,024" in shown or " 0/4,096" in shown)  # the model is there
    terminal.type(text)
    terminal.wait_for(text)
    terminal.type("\r")


def test_it_answers_and_leaves_by_ctrl_q(terminal):
    ask(terminal, "hello")
    terminal.wait_for("first token")
    terminal.type("\x11")
    assert terminal.ends() == 0


def test_the_engine_is_killed_in_an_answer_and_the_chat_goes_on(slow):
    ask(slow, "hello")
    slow.wait_for("writing")
    killed = engine_of(slow)
    os.kill(killed, signal.SIGKILL)
    slow.wait_for("SIGKILL")
    assert slow.process.poll() is None
    slow.type("\x12")  # Ctrl+R
    slow.wait_for(lambda shown: "SIGKILL" not in shown and "writing" in shown)
    assert engine_of(slow) != killed
    slow.type("\x1b")
    slow.wait_for("stopped")


def test_the_program_is_killed_in_an_answer_and_the_conversation_is_found_again(slow, home):
    ask(slow, "remember this")
    slow.wait_for("writing")
    engine = engine_of(slow)
    slow.process.kill()
    slow.process.wait()
    again = Terminal(["tui"], 120, 40, {"LOCALKNOBS_HOME": str(home)})
    try:
        again.wait_for(" 0/1,024")
        again.type(F4)
        again.wait_for("remember this")
        again.wait_for("interrupted")
        again.type("\r")
        again.wait_for("interrupted; c continues")
        assert is_gone(engine)
    finally:
        again.close()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_alt_and_a_letter_is_a_key_and_no_letter_in_the_message_box(terminal):
    terminal.wait_for("Write a message")
    terminal.type("\x1bj")
    terminal.wait_for("Nothing runs")
