"""How soon the program answers: `--help` beside an empty Python, the first frame of the screens beside a bare Textual.

Both sides take turns, so that the machine's moods hit both; medians are printed, and nothing is asserted of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

pytestmark = pytest.mark.bench
COMMAND = str(Path(sys.executable).with_name("localknobs"))
WIDTH, HEIGHT = 120, 40
BARE_APP = """
from textual.app import App
from textual.widgets import Static

class Bare(App):
    def compose(self):
        yield Static("temperature")

Bare().run()
"""


def seconds(command: Sequence[str]) -> float:
    began = perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return perf_counter() - began


def first_frame_seconds(command: Sequence[str], word: bytes) -> float:
    """Return the seconds from the start of a process to the first bytes of a frame that shows a word."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    began = perf_counter()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
    )
    os.close(terminal)
    seen, took = b"", 0.0
    try:
        while not took:
            assert select.select([main], [], [], 20)[0], f"nothing more came; so far: {seen[-500:]!r}"
            try:
                seen += os.read(main, 65536)
            except OSError:  # the other end has gone
                raise AssertionError(f"the program ended: {seen[-500:]!r}") from None
            if word in seen:
                took = perf_counter() - began
        os.write(main, b"\x11")  # Ctrl+Q
        while process.poll() is None and select.select([main], [], [], 5)[0]:
            with contextlib.suppress(OSError):
                os.read(main, 65536)
        return took
    finally:
        process.kill()
        process.wait()
        os.close(main)


def take_turns(sides: dict[str, tuple[object, ...]], measure, rounds: int) -> dict[str, float]:
    """Return the median of each side, measured in turns, after one round that warms the disk up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, arguments in sides.items():
            took = measure(*arguments)
            if number:
                times[name].append(took)
    return {name: median(of) for name, of in times.items()}


def show(capsys: pytest.CaptureFixture[str], title: str, medians: dict[str, float]) -> None:
    base, ours = medians.values()
    with capsys.disabled():
        print(f"\n{title}: ratio {ours / base:.2f}  (", end="")
        print(", ".join(f"{name} {took * 1000:.0f} ms" for name, took in medians.items()), end=")\n")


def test_help_beside_an_empty_python(capsys):
    sides = {"python -c pass": ([sys.executable, "-c", "pass"],), "localknobs --help": ([COMMAND, "--help"],)}
    medians = take_turns(sides, seconds, 21)
    show(capsys, "--help", medians)


def test_first_frame_beside_a_bare_textual_app(capsys):
    sides = {
        "bare Textual": ([sys.executable, "-c", BARE_APP], b"temperature"),
        "localknobs": ([COMMAND], b"temperature"),
    }
    medians = take_turns(sides, first_frame_seconds, 9)
    show(capsys, "first frame", medians)
