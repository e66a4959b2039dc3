"""Ctrl+C while an answer is written: it stops the answer, not the program."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from time import monotonic
from types import FrameType
from typing import Any

from localknobs.engine.client import Engine

STUCK_S = 3.0
"""Seconds after which an engine that does not stop is given up."""


@contextlib.contextmanager
def ctrl_c_stops(engine: Engine) -> Iterator[None]:
    """Let Ctrl+C stop the answer that is written inside the block, which then ends with the reason `stopped`.

    Nothing is raised at an arbitrary place, so what was written is kept whole. Only when the engine
    has not heeded the first press for `STUCK_S` does another one raise `KeyboardInterrupt`.
    """
    first_press: list[float] = []

    def pressed(_number: int, _frame: FrameType | None) -> None:
        if first_press and monotonic() - first_press[0] > STUCK_S:
            raise KeyboardInterrupt
        first_press.append(monotonic())
        # In a thread: this handler may have interrupted the very code that holds the lock `stop` needs.
        threading.Thread(target=engine.stop, daemon=True).start()

    before: Any = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
