"""The parent's side of a model: starts the worker, sends commands, gives events to whoever reads an answer."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from localknobs.engine import probe, protocol
from localknobs.engine.events import Event, Finished, Message, ModelInfo, Stats
from localknobs.engine.settings import LoadSettings
from localknobs.errors import EngineDied, LocalknobsError, NotFound
from localknobs.knobs import Value, check_values

LOG_LINES = 200
"""Lines of llama.cpp's log that are kept."""
WORKER_COMMAND = (sys.executable, "-m", "localknobs.engine.worker")


class _Worker:
    """One worker process and the two threads that read from it."""

    def __init__(self) -> None:
        read_end, write_end = os.pipe()
        environment = {**os.environ, "LOCALKNOBS_EVENTS_FD": str(write_end), "GGML_NO_BACKTRACE": "1"}
        self.process = subprocess.Popen(
            WORKER_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(write_end,),
            env=environment,
            # A group of its own: Ctrl+C in the terminal stops the answer, not the model.
            start_new_session=True,
        )
        os.close(write_end)
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._send_lock = threading.Lock()
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        self._log_reader.start()
        threading.Thread(target=self._read_messages, args=(read_end,), daemon=True).start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stderr:
                self.log.append(line.decode("utf-8", "replace").rstrip())

    def _read_messages(self, read_end: int) -> None:
        with open(read_end, "rb") as pipe:
            for line in pipe:
                with contextlib.suppress(ValueError):  # the torn last line of a killed worker
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
            raise self.death()
        if "error" in message:
            raise protocol.error_of(message)
        return message

    def death(self) -> EngineDied:
        """Return the error that says how the worker ended."""
        code = self.process.wait()
        self._log_reader.join(timeout=1.0)
        if code < 0:
            how = f"was ended by signal {signal.Signals(-code).name}"
            hint = (
                "The system may have run out of memory: use a smaller model or context."
                if -code == signal.SIGKILL
                else "The last log lines tell more."
            )
        else:
            how, hint = f"ended with code {code}", "The last log lines tell more."
        return EngineDied(f"The engine {how}", hint, log_tail=tuple(self.log)[-20:])

    def end(self) -> None:
        """Close the pipe, wait a moment, then kill."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        try:
            self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """End the worker at once."""
        self.process.kill()
        self.process.wait()


class Engine:
    """A loaded model. Make one with `load`; use it as a context manager or call `close`.

    One answer at a time: `stream` is for one thread, while `set_sampler`, `stop` and `close` may
    come from any thread.

    Attributes:
        info: What the model says of itself.
        settings: How it was loaded.
        stats: Counts and times of the last finished answer.
    """

    def __init__(self, settings: LoadSettings, on_progress: Callable[[float], None] | None = None) -> None:
        self.settings = settings
        self.stats = Stats()
        self._worker: _Worker | None = None
        self._answering = threading.Lock()
        self._closed = False
        self.info = self._start(on_progress)

    def stream(
        self,
        messages: Sequence[Message] | str,
        sampler: Mapping[str, Value] | None = None,
        *,
        continue_last: bool = False,
    ) -> Iterator[Event]:
        """Write an answer; yield its events, `Finished` last. Closing the generator stops the answer.

        Args:
            messages: The conversation, or a text that is continued as it is, without a chat template.
            sampler: Sampling knobs; those not named have their defaults. Penalties count the prompt's tokens too.
            continue_last: The last message is the assistant's, and is continued.

        Raises:
            BadValue, NotFound: a knob's value or name.
            ContextFull: the conversation does not fit; nothing was cut.
            EngineDied: the worker ended; the next call starts a new one.
        """
        values = check_values(sampler or {})
        return self._stream(messages, values, continue_last)

    def _stream(
        self, messages: Sequence[Message] | str, values: Mapping[str, Value], continue_last: bool
    ) -> Iterator[Event]:
        if not self._answering.acquire(blocking=False):
            raise LocalknobsError("An answer is being written already", "Stop it first, or wait.")
        finished = False
        worker: _Worker | None = None
        try:
            worker = self._living_worker()
            worker.send({"do": "answer", **_what(messages), "values": values, "continue_last": continue_last})
            while not finished:
                message = worker.receive()
                if "event" not in message:
                    continue  # `begun`
                event = protocol.event_of(message)
                if isinstance(event, Finished):
                    self.stats = event.stats
                    finished = True
                yield event
        except LocalknobsError:
            finished = True
            raise
        finally:
            if not finished and worker:
                self._drain(worker)
            self._answering.release()

    def _drain(self, worker: _Worker) -> None:
        """Stop an answer nobody reads any more, and read to its end."""
        worker.send({"do": "stop"})
        with contextlib.suppress(LocalknobsError):
            while worker.receive().get("event") != Finished.__name__:
                pass

    def set_sampler(self, changes: Mapping[str, Value]) -> None:
        """Change sampling knobs of the answer being written, from its next token on; without one, nothing happens.

        Raises:
            BadValue, NotFound: a knob's value or name.
        """
        checked = check_values(changes)
        if worker := self._worker:
            worker.send({"do": "change", "values": checked})

    def stop(self) -> None:
        """End the answer being written after the present token."""
        if worker := self._worker:
            worker.send({"do": "stop"})

    def count_tokens(self, messages: Sequence[Message] | str) -> int:
        """Return how many tokens a conversation or a raw text has, as the model would read it."""
        return int(self._ask({"do": "count", **_what(messages)})["count"])

    def set_threads(self, threads: int) -> None:
        """Use a fixed count of CPU threads from the next answer on; 0 measures and adapts."""
        self._ask({"do": "threads", "threads": threads})
        self.settings = replace(self.settings, threads=threads)

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if not self._answering.acquire(blocking=False):
            raise LocalknobsError("An answer is being written", "Stop it first, or wait.")
        try:
            worker = self._living_worker()
            worker.send(command)
            return worker.receive()
        finally:
            self._answering.release()

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines llama.cpp printed, oldest first."""
        return tuple(self._worker.log) if self._worker else ()

    def close(self) -> None:
        """End the worker and free the model; may be called twice and from any thread."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker:
            worker.send({"do": "stop"})
            worker.end()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _living_worker(self) -> _Worker:
        if self._closed:
            raise LocalknobsError("The model was closed", "Load it again.")
        if self._worker is None or self._worker.process.poll() is not None:
            self.info = self._start(None)
        assert self._worker is not None
        return self._worker

    def _start(self, on_progress: Callable[[float], None] | None) -> ModelInfo:
        """Start a worker and load; once more without the extra CPU buffers when they crash it."""
        if not self.settings.model.is_file():
            raise NotFound(
                f"There is no file {self.settings.model}", "`localknobs ls` lists the models on this machine."
            )
        wished = self.settings.use_extra_bufts
        extra = probe.extra_buffers_work() if wished is None else wished
        try:
            return self._load(extra, on_progress)
        except _ProbeDied as died:
            if not extra or wished is not None:
                raise died.error from None
            info = self._load(False, on_progress)
            probe.remember_broken()
            note = (
                "llama.cpp's extra CPU buffers crash on this machine, so models are loaded without them; "
                "prompts are read more slowly."
            )
            return replace(info, notes=(*info.notes, note))

    def _load(self, extra: bool, on_progress: Callable[[float], None] | None) -> ModelInfo:
        worker = self._worker = _Worker()
        # A worker whose engine was forgotten must not stay behind.
        weakref.finalize(self, worker.kill)
        fields = {name: getattr(self.settings, name) for name in LoadSettings.__slots__}
        worker.send({"do": "load", "settings": {**fields, "model": str(self.settings.model)}, "use_extra_bufts": extra})
        probing = False
        try:
            while True:
                message = worker.receive()
                if "loaded" in message:
                    loaded = message["loaded"]
                    loaded["recommended"] = protocol.values_of(loaded["recommended"])
                    return ModelInfo(**{**loaded, "notes": tuple(loaded["notes"]), "devices": tuple(loaded["devices"])})
                if "probing" in message:
                    probing = True
                elif on_progress and "progress" in message:
                    on_progress(message["progress"])
        except EngineDied as died:
            if probing:
                raise _ProbeDied(died) from None
            raise
        except BaseException:
            worker.kill()
            raise


class _ProbeDied(Exception):
    """The worker ended during the two-token probe."""

    def __init__(self, error: EngineDied) -> None:
        super().__init__(str(error))
        self.error = error


def _what(messages: Sequence[Message] | str) -> dict[str, Any]:
    if isinstance(messages, str):
        return {"prompt": messages}
    return {"messages": [{"role": message["role"], "content": message["content"]} for message in messages]}
