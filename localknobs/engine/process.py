"""The worker as the parent sees it: a process, a way to send commands, and what it says, in order."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from localknobs.engine import protocol
from localknobs.errors import EngineDied

LOG_LINES = 200
"""Lines of llama.cpp's log that are kept."""
END_S = 2.0
"""Time a worker has to end by itself when its model is closed."""
SPIN_COUNT = "500"
"""How long a thread looks before it sleeps when it waits for the others (libgomp): some 20 microseconds.

The threads of one token meet about 200 times. Its default, milliseconds, costs nothing on a quiet machine,
but where another program holds a core, one token of 0.5 ms took up to 1,250 ms on two threads; with this
value 5 ms, and 5% more on a quiet machine. Sleeping at once would cost 3 times there.
"""
# -P: a folder the user happens to stand in must not lend its modules to the worker.
WORKER_COMMAND = (sys.executable, "-P", "-m", "localknobs.engine.worker")


class WorkerProcess:
    """One worker process and the two threads that read from it.

    The threads read all the time, whether or not anybody takes the messages: a worker never waits
    for a slow reader, and its log never blocks it.

    Args:
        command: Another program that speaks the same way, one JSON object a line.
    """

    def __init__(self, command: Sequence[str] = WORKER_COMMAND) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            # A group of its own: Ctrl+C in the terminal stops the answer, not the model.
            start_new_session=True,
        )
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._send_lock = threading.Lock()
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        self._log_reader.start()
        threading.Thread(target=self._read_messages, daemon=True).start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError), self.process.stderr as pipe:
            for line in pipe:
                self.log.append(line.decode("utf-8", "replace").rstrip())

    def _read_messages(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self.process.stdout as pipe:
            for line in pipe:
                # What is no JSON: the torn last line of a killed worker, or a print of some start-up file.
                with contextlib.suppress(ValueError):
                    self.messages.put(json.loads(line))
        self.messages.put(None)

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one command; a dead worker is noticed by whoever waits for its answer."""
        assert self.process.stdin is not None
        with self._send_lock, contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(protocol.to_line(message))
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            EngineDied: the worker ended.
            LocalknobsError: the worker reports an error.
        """
        message = self.messages.get()
        if message is None:
            self.messages.put(None)  # whoever asks again hears the same
            raise self.death()
        if "error" in message:
            raise protocol.error_of(message)
        return message

    def death(self) -> EngineDied:
        """Return the error that says how the worker ended."""
        code = self.process.wait()
        self._close_input()
        hint = "The last log lines tell more."
        if code < 0:
            how = f"was ended by signal {_signal_name(-code)}"
            if -code == getattr(signal, "SIGKILL", 9):
                hint = "The system may have run out of memory: use a smaller model or context."
        else:
            how = f"ended with code {code}"
        return EngineDied(f"The engine {how}", hint, log_tail=self.last_log_lines())

    def last_log_lines(self) -> tuple[str, ...]:
        """Return what a worker that has ended printed last, oldest first."""
        self._log_reader.join(timeout=1.0)
        return tuple(self.log)[-20:]

    def was_killed_from_outside(self) -> bool:
        """Whether the dead worker was ended by a signal that its own mistakes do not raise."""
        outside = {getattr(signal, name, None) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")}
        return -(self.process.returncode or 0) in outside

    def end(self) -> None:
        """Close the pipe, which ends the worker; kill it when it takes too long."""
        self._close_input()
        try:
            self.process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the worker at once; may be called for a dead one."""
        self.process.kill()
        self.process.wait()
        self._close_input()

    def _close_input(self) -> None:
        assert self.process.stdin is not None
        if not self._send_lock.acquire(timeout=END_S):
            return  # a sender is stuck in a full pipe; the kill that follows frees it
        try:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.close()
        finally:
            self._send_lock.release()


def _environment() -> dict[str, str]:
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    return environment


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return str(number)
