"""The installed program in a process of its own, with pipes or with a terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import DEADLINE_S, PROGRAM, Terminal


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program to its end; `stdin` is text or bytes, empty by default."""

    def run(*arguments: str | Path, stdin: str | bytes = "", **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=DEADLINE_S,
            env={**os.environ, **environment},
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Open the program in a terminal."""
    opened: list[Terminal] = []

    def terminal(*arguments: str | Path, columns: int = 80, lines: int = 40, **environment: str) -> Terminal:
        opened.append(Terminal([*map(str, arguments)], columns, lines, environment))
        return opened[-1]

    yield terminal
    for each in opened:
        each.close()
