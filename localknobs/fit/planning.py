"""The warm child process that plans memory: started at the first question, shared by all that ask it."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from localknobs.engine.process import WorkerProcess
from localknobs.engine.protocol import error_of
from localknobs.errors import EngineDied, LocalknobsError

_COMMAND = (sys.executable, "-P", "-m", "localknobs.engine.planner")
_ANSWER_S = 20.0
"""Time the child has for one plan; the largest models take well under a second."""
_MOST_DEATHS = 3
"""After that many the child is not started again."""


class Planning:
    """Asks `engine/planner.py`. Questions from several threads take turns; a child that dies is started again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: WorkerProcess | None = None
        self._deaths = 0
        self._closed = False

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Return the child's answer.

        Raises:
            EngineDied: llama.cpp ended the child on this command, or it gave no answer in time.
            LocalknobsError: it refuses, or has died too often to be started again.
        """
        with self._lock:
            if self._closed:
                raise LocalknobsError("The planner was closed")
            if self._deaths >= _MOST_DEATHS:
                raise LocalknobsError(f"The planner ended {self._deaths} times and is left alone")
            if self._child is None or self._child.process.poll() is not None:
                self._child = WorkerProcess(_COMMAND)
            self._child.send(command)
            try:
                message = self._child.messages.get(timeout=_ANSWER_S)
            except queue.Empty:
                message = None
            if message is None:
                self._deaths += 1
                self._child.kill()
                self._child = None
                raise EngineDied("The planner ended")
        if "error" in message:
            raise error_of(message)
        return message

    def close(self) -> None:
        """End the child; may be called twice."""
        with self._lock:
            self._closed = True
            if self._child:
                self._child.kill()  # it has nothing to save
                self._child = None

    def __enter__(self) -> Planning:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
