"""A verb of the command line as a child process: its events as messages, and a stop that leaves nothing half."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual.message import Message

from localknobs.jobs import EVENTS_VARIABLE, JobEvent, event_from_mapping

STOP_WAIT_S = 10.0
"""How long a stopped job may clean up before it is killed."""


@dataclass
class JobTold(Message):
    """An event of a job."""

    job: ChildJob
    event: JobEvent


@dataclass
class JobEnded(Message):
    """A job's process ended.

    Args:
        job: The job.
        code: Its exit code.
        output: What it printed as its result.
        error: What it said on standard error apart from events: notes, and why it failed.
    """

    job: ChildJob
    code: int
    output: str
    error: str


class ChildJob:
    """Runs `localknobs VERB ...` in a process of its own.

    Args:
        arguments: The words after `localknobs`.
        post: Takes messages from any thread.
    """

    def __init__(self, arguments: Sequence[str], post: Callable[[Message], object]) -> None:
        self.arguments = tuple(arguments)
        self._post = post
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "localknobs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, EVENTS_VARIABLE: "1"},
            start_new_session=True,  # a Ctrl+C in the terminal is not for it
        )
        self._deadline: threading.Timer | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None and self._process.stdout is not None
        said: list[str] = []
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.append(self._process.stdout.read()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        for line in self._process.stderr:
            event = None
            with contextlib.suppress(ValueError, KeyError, TypeError):
                event = event_from_mapping(json.loads(line))
            if event is not None:
                self._post(JobTold(self, event))
            else:
                said.append(line)
        reader.join()
        code = self._process.wait()
        if self._deadline:
            self._deadline.cancel()
        self._post(JobEnded(self, code, "".join(output), "".join(said).strip()))

    def stop(self) -> None:
        """Ask the job to stop and clean up; it is killed when it does not."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        self._deadline = threading.Timer(STOP_WAIT_S, self.kill)
        self._deadline.daemon = True  # a program that is left does not wait for it: the job ends by itself
        self._deadline.start()

    def kill(self) -> None:
        """End the job at once; the next job removes what it left behind."""
        if self._process.poll() is None:
            self._process.kill()
