"""The terminal interface while an answer streams: how soon a key shows, and what the screen takes from the engine.

A random model of 31 million parameters writes a few hundred tokens a second. With the screen and without it
take turns; medians are printed, and nothing is asserted of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from random_model import write_random_model

from localknobs.engine import Finished, LoadSettings, TextArrived, load

pytestmark = pytest.mark.bench
COMMAND = str(Path(sys.executable).with_name("localknobs"))
KEYS = "абвгдежзиклмнопрстуфхцчшщъыьэюя"
ROUNDS = 3


class Screen:
    """The program on a pseudo-terminal whose bytes are read as they come, and not interpreted."""

    def __init__(self, model: Path) -> None:
        self._main, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process = subprocess.Popen(
            [COMMAND, "tui", str(model)], stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    def press(self, text: str) -> None:
        os.write(self._main, text.encode())

    def read_until(self, what: str, seconds: float = 60.0) -> float:
        """Read until the bytes of a text come; return how long that took."""
        began, seen, wanted = perf_counter(), b"", what.encode()
        while wanted not in seen:
            assert perf_counter() - began < seconds, f"{what!r} did not come: {seen[-300:]!r}"
            if select.select([self._main], [], [], 0.5)[0]:
                seen = seen[-64:] + os.read(self._main, 65536)
        return perf_counter() - began

    def drain(self, seconds: float) -> None:
        end = perf_counter() + seconds
        while (left := end - perf_counter()) > 0:
            if select.select([self._main], [], [], left)[0]:
                os.read(self._main, 65536)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


def with_screen(model: Path, home: Path) -> tuple[float, list[float]]:
    """Return the tokens a second of an answer on the screen, and the delays of the keys pressed during it."""
    screen, phase, delays = Screen(model), random.Random(1), []
    try:
        screen.read_until("0/32,768")
        screen.press("tell me")
        screen.drain(0.2)
        screen.press("\r")
        screen.read_until("writing")
        screen.drain(1.0)
        for key in KEYS:
            screen.press(key)
            delays.append(screen.read_until(key))
            screen.drain(phase.uniform(0.05, 0.2))  # keys fall anywhere between two redraws
        screen.press("\x1b")
        screen.read_until("stopped")
    finally:
        screen.close()
    newest = max((home / "data" / "conversations").glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    ended = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines() if '"finished"' in line][-1]
    return float(ended["stats"]["tokens_per_s"]), delays


def without_screen(model: Path, seconds: float) -> float:
    """Return the tokens a second of an answer of about that length that a plain reader takes."""
    with load(LoadSettings(model=model)) as engine:
        began = perf_counter()
        for event in engine.stream([{"role": "user", "content": "tell me"}], {}):
            if isinstance(event, TextArrived) and perf_counter() - began > seconds:
                engine.stop()
            elif isinstance(event, Finished):
                return event.stats.tokens_per_s
    raise AssertionError


def test_keys_and_speed_while_an_answer_streams(tmp_path, home, capsys):
    # Every sixtieth word ends a paragraph, as in what people read.
    words = [f"\u2581word{at}" + (".\n\n" if at % 60 == 0 else "") for at in range(8000)]
    model = write_random_model(
        tmp_path / "random-31m.gguf", layers=8, width=512, heads=8, kv_heads=4, feed_forward=1408,
        fillers=words, context=32_768, kind="Q8_0", never_ends=True,
    )  # fmt: skip
    delays: list[float] = []
    ratios = []
    for _ in range(ROUNDS):
        bare = without_screen(model, 5.0)
        shown, waited = with_screen(model, home)
        delays += waited
        ratios.append((shown / bare, shown, bare))
    middle, worst = median(delays) * 1000, max(delays) * 1000
    pairs = ", ".join(f"{ratio:.2f} ({shown:.0f}/{bare:.0f})" for ratio, shown, bare in ratios)
    with capsys.disabled():
        print(f"\nkey to screen: median {middle:.0f} ms, worst {worst:.0f} ms, {len(delays)} keys")
        print(
            f"tokens/s with the screen to without: median {median(ratio for ratio, _, _ in ratios):.2f}; pairs {pairs}"
        )
