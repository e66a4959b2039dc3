"""What the processes that this folder starts have in common: one order in, JSON lines out, an error as a line.

Knows nothing of the work. The parent's side is `localknobs.engine.process`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from localknobs.engine import protocol
from localknobs.errors import LocalknobsError, NotEnough
from localknobs.jobs import DISK_FULL

Say = Callable[[dict[str, Any]], None]
"""Writes one message to the parent, whole; from one thread."""


def reason_of(error: Exception) -> str:
    """Return the first line of what a library's error says, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def serve(run: Callable[[dict[str, Any], Say], None]) -> None:
    """Read one order, run it, write what it says, or its error, to the parent, and end the process.

    Whatever prints to standard output lands in the log instead.

    Args:
        run: Takes the order and a function that says something; may read more orders from standard input.
    """
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business

    def write(line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(out, view) :]

    code = 0
    try:
        run(json.loads(sys.stdin.buffer.readline() or b"{}"), lambda message: write(protocol.to_line(message)))
    except LocalknobsError as error:
        write(protocol.error_line(error))
    except BrokenPipeError:
        pass  # the parent is gone
    except OSError as error:
        if error.errno in DISK_FULL:
            full = NotEnough("The disk is full: what was computed could not be written", "Set TMPDIR to another disk.")
            write(protocol.error_line(full))
        else:
            traceback.print_exc()
            code = 1
    except BaseException:
        traceback.print_exc()  # into the log; the parent shows its last lines
        code = 1
    sys.stderr.flush()
    os._exit(code)  # without C++ destructors, which can hang on a busy device
