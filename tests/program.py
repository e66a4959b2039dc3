"""The installed program, and a terminal in memory to run it in. `from program import Terminal`."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

PROGRAM = str(Path(sys.executable).with_name("localknobs"))
DEADLINE_S = 30.0
"""Longest wait for something that must come; never slept through."""


class Terminal:
    """The program in a pseudo-terminal, whose screen can be read.

    It answers the program's questions (cursor position) as a real terminal does.
    """

    def __init__(self, arguments: list[str], columns: int, lines: int, environment: dict[str, str]) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._master = master
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl+C becomes a signal
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
        )  # fmt: skip
        os.close(slave)
        self._screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._screen.write_process_input = lambda data: os.write(master, data.encode())
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = True

    @property
    def text(self) -> str:
        """What the terminal shows, with what was scrolled away before it."""
        above = ["".join(row[x].data for x in range(self._screen.columns)) for row in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self._screen.display]).rstrip()

    def type(self, text: str) -> None:
        """Press keys; `\\r` is Enter, `\\x03` Ctrl+C."""
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        """Type a line and press Enter, once the program waits for it."""
        self.wait_for_prompt()
        self.type(line + "\r")

    def wait_for(self, what: str | Callable[[str], bool]) -> str:
        """Read until a text is on the screen; return the screen."""
        found = (lambda text: what in text) if isinstance(what, str) else what
        deadline = time.monotonic() + DEADLINE_S
        while not found(self.text):
            assert self._open, f"the program ended before {what!r} came:\n{self.text}"
            assert time.monotonic() < deadline, f"{what!r} did not come:\n{self.text}"
            self._read(0.5)
        return self.text

    def wait_for_prompt(self) -> None:
        """Read until the last line is an empty prompt with the cursor in it."""
        self.wait_for(lambda text: text.endswith("\n>") or text.endswith("\n> "))

    def ends(self) -> int:
        """Read until the program ends; return its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._open:
            assert time.monotonic() < deadline, f"the program does not end:\n{self.text}"
            self._read(0.5)
        return self.process.wait(DEADLINE_S)

    def _read(self, seconds: float) -> None:
        if not select.select([self._master], [], [], seconds)[0]:
            self._open = self.process.poll() is None
            return
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side is closed
            data = b""
        self._open = bool(data)
        self._stream.feed(self._decoder.decode(data))

    def close(self) -> None:
        """End the program if it still runs."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
