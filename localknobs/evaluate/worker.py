"""The process that holds the models being measured: `python -m localknobs.evaluate.worker`.

Standard input brings orders, one JSON object a line: to open models, to read a text, to answer tasks. Standard
output takes records, one a finished unit of work (a chunk, an item), so that the parent can keep each at once, and
kill this process at any time. An `enough` ends the present order after the unit that is being worked on.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from localknobs.engine import protocol
from localknobs.errors import LocalknobsError


class Worker:
    """Answers one order after another."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.enough = threading.Event()
        self.models: list[Any] = []
        self.renderer: Any = None

    def listen(self) -> None:
        """Take orders; a parent that has died ends this process, which has nothing to save."""
        for line in sys.stdin.buffer:
            order = json.loads(line)
            if order["do"] == "enough":
                self.enough.set()
            else:
                self._orders.put(order)
        os._exit(0)

    def run(self) -> None:
        """Serve until the parent closes the pipe."""
        from localknobs.engine.llama import send_log_to_stderr
        from localknobs.evaluate.answering import answer_items
        from localknobs.evaluate.haystack import find_needles
        from localknobs.evaluate.models import open_models
        from localknobs.evaluate.reading import count_tokens, read_text
        from localknobs.evaluate.timing import time_models

        orders = {
            "open": open_models, "tokens": count_tokens, "text": read_text, "items": answer_items,
            "needle": find_needles, "speed": time_models,
        }  # fmt: skip
        send_log_to_stderr()
        while True:
            order = self._orders.get()
            self.enough.clear()
            orders[order["do"]](self, order)
            self.say({"finished": order["do"]})

    def say(self, message: dict[str, Any]) -> None:
        """Write one line to the parent."""
        self.write(protocol.to_line(message))

    def write(self, line: bytes) -> None:
        """Write a line, whole."""
        view = memoryview(line)
        while view:
            view = view[os.write(self._out, view) :]


def main() -> None:
    """Serve the parent; whatever prints to standard output lands in the log instead."""
    # Products of rows are too short for BLAS's threads, which would take the cores that the model computes on.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    worker, code = Worker(out), 0
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        worker.run()
    except LocalknobsError as error:
        worker.write(protocol.error_line(error))
    except BrokenPipeError:
        pass  # the parent is gone
    except BaseException:
        traceback.print_exc()  # into the log; the parent shows its last lines
        code = 1
    sys.stderr.flush()
    os._exit(code)  # without C++ destructors, which can hang on a busy device


if __name__ == "__main__":
    main()
