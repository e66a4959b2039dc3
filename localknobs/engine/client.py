"""The parent's side of a model: starts the worker, sends commands, gives events to whoever reads an answer."""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import count
from types import TracebackType
from typing import Any

from localknobs.engine import probe
from localknobs.engine.controls import AS_USUAL, Plan
from localknobs.engine.events import Event, Finished, Looked, Message, ModelInfo, ParkedCache, Stats, TokensScored
from localknobs.engine.process import WorkerProcess
from localknobs.engine.protocol import event_of, values_of
from localknobs.engine.settings import LoadSettings
from localknobs.engine.view import SamplerView
from localknobs.errors import BadFile, BadValue, EngineDied, LocalknobsError, NotFound
from localknobs.knobs import KNOBS, Value, check_values

_look_numbers = count(1)


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
        self._worker: WorkerProcess | None = None
        self._answering = threading.Lock()
        self._changing_worker = threading.Lock()
        self._stop_asked = threading.Event()
        self._closed = False
        # A worker whose engine was forgotten must not stay behind; replaced with every new worker.
        self._finalizer: weakref.finalize[[], Engine] | None = None
        self.info = self._start(on_progress)

    def stream(
        self,
        messages: Sequence[Message] | str,
        sampler: Mapping[str, Value] | None = None,
        *,
        continue_last: bool = False,
        plan: Plan = AS_USUAL,
    ) -> Iterator[Event]:
        """Write an answer; yield its events, `Finished` last. Closing the generator stops the answer.

        Args:
            messages: The conversation, or a text that is continued as it is, without a chat template.
            sampler: Sampling knobs; those not named have their defaults. Penalties count the prompt's tokens too.
            continue_last: The last message is the assistant's, and is continued.
            plan: What the answer begins with, and how it is written.

        Raises:
            BadValue, NotFound: a knob's value or name.
            ContextFull: the conversation does not fit; nothing was cut.
            EngineDied: the worker ended; the next call starts a new one.
        """
        values = check_values(sampler or {})
        command = {"do": "answer", **_what(messages), "values": values, "continue_last": continue_last}
        return self._stream({**command, "plan": asdict(plan)})

    def _stream(self, command: Mapping[str, Any]) -> Iterator[Event]:
        self._begin_turn()
        finished = False
        worker: WorkerProcess | None = None
        self._stop_asked.clear()
        try:
            worker = self._living_worker()
            worker.send(command)
            if self._stop_asked.is_set():  # asked while a new worker was loading
                worker.send({"do": "stop"})
            while not finished:
                event = event_of(worker.receive())
                if isinstance(event, Finished):
                    self.stats = event.stats
                    finished = True
                yield event
        except LocalknobsError as error:
            finished = True
            if self._closed and isinstance(error, EngineDied):
                raise LocalknobsError("The model was closed while it answered", "Load it again.") from None
            raise
        finally:
            try:
                if not finished and worker:
                    self._drain(worker)
            finally:
                self._answering.release()

    def _drain(self, worker: WorkerProcess) -> None:
        """Stop an answer nobody reads any more, and read to its end."""
        worker.send({"do": "stop"})
        try:
            while worker.receive()["event"] != Finished.__name__:
                pass
        except LocalknobsError:
            pass  # an error ends an answer too
        except BaseException:
            worker.kill()  # a second Ctrl+C: what is left of the old answer must not get into the next
            raise

    def set_sampler(self, changes: Mapping[str, Value]) -> None:
        """Change sampling knobs of the answer being written, from its next token on; without one, nothing happens.

        Raises:
            BadValue, NotFound: a knob's value or name.
        """
        checked = check_values(changes)
        if worker := self._worker:
            worker.send({"do": "change", "values": checked})

    def stop(self) -> None:
        """End the answer being written after the present token; without one, nothing happens."""
        self._stop_asked.set()
        if worker := self._worker:
            worker.send({"do": "stop"})

    # ---- looking back -------------------------------------------------------------------------

    def look(self, at: int | None = None, values: Mapping[str, Value] | None = None, top: int = 20) -> SamplerView:
        """Return what the samplers make of the scores of a token of the last answer; nothing is computed anew.

        Args:
            at: Which token of the answer, from 0; None for the one that would come next.
            values: Sampling knobs to try, instead of those that were in force there. The grammar stays the answer's.
            top: How many candidates to describe: so many of the likeliest before the chain, and after it.

        Raises:
            BadValue, NotFound: a knob's value or name.
            LocalknobsError: there is no such token, or its scores are not kept any more.
        """
        number, command = self._look_command(at, values, top)
        event = self._ask(command, lambda message: message.get("number") == number)
        looked = event_of(event)
        assert isinstance(looked, Looked)
        if looked.view is None:
            raise LocalknobsError(looked.trouble)
        return looked.view

    def ask_look(self, at: int | None = None, values: Mapping[str, Value] | None = None, top: int = 20) -> int:
        """Look while an answer is written: return the number of the `Looked` event that its stream will bring.

        It may not come, when the answer ends first. From any thread.
        """
        number, command = self._look_command(at, values, top)
        if worker := self._worker:
            worker.send(command)
        return number

    def _look_command(
        self, at: int | None, values: Mapping[str, Value] | None, top: int
    ) -> tuple[int, Mapping[str, Any]]:
        number = next(_look_numbers)
        return number, {"do": "look", "number": number, "at": at, "values": check_values(values or {}), "top": top}

    def written_tokens(self) -> tuple[int, ...]:
        """Return the tokens of the last answer: with one changed at the end, the beginning of a branch."""
        return tuple(self._ask({"do": "tokens"})["tokens"])

    def token_scores(self) -> TokensScored:
        """Return how sure the model was of each token of the last answer."""
        scored = event_of(self._ask({"do": "scores"}))
        assert isinstance(scored, TokensScored)
        return scored

    # ---- more ---------------------------------------------------------------------------------

    def count_tokens(self, messages: Sequence[Message] | str) -> int:
        """Return how many tokens a conversation or a raw text has, as the model would read it."""
        return int(self._ask({"do": "count", **_what(messages)})["count"])

    def tokenize(self, text: str, *, special: bool = False, begin: bool = False) -> tuple[int, ...]:
        """Return the tokens of a text.

        Args:
            text: Any text.
            special: Whether control tokens that it spells are read as such.
            begin: Whether the model's begin token, if it has one, comes first.
        """
        command = {"do": "tokenize", "text": text, "special": special, "begin": begin}
        return tuple(self._ask(command)["tokens"])

    def spellings(self, tokens: Sequence[int]) -> tuple[bytes, ...]:
        """Return the bytes of each token, which may be parts of a character; a control token's are its spelling.

        Raises:
            BadValue: the model has no such token.
        """
        reply = self._ask({"do": "spell", "tokens": list(tokens)})
        return tuple(bytes.fromhex(spelling) for spelling in reply["spellings"])

    def embed(self, text: str | Sequence[int]) -> tuple[array[float], int]:
        """Return a text as one vector of length 1, and how many tokens were read for it.

        The model's last hidden states are pooled as its file says, by their mean where it says nothing. What the cache
        held is gone.

        Args:
            text: Any text, or tokens as they are.

        Raises:
            BadValue: there is no such token, or none at all.
            ContextFull: it does not fit.
            Unsupported: the model gives no vectors.
        """
        if not len(text):
            raise BadValue("An empty text has no vector", "Give a text.")
        given = {"text": text} if isinstance(text, str) else {"tokens": list(text)}
        reply = self._ask({"do": "embed", **given})
        return array("f", bytes.fromhex(reply["vector"])), int(reply["tokens"])

    def grammar_of_schema(self, schema: Mapping[str, Any]) -> str:
        """Return the grammar (GBNF) of the JSON texts that a JSON schema allows, for the knob `grammar`.

        Raises:
            BadValue: it cannot be made into one.
        """
        return str(self._ask({"do": "grammar", "schema": dict(schema)})["grammar"])

    def time_tokens(self, *, read: int = 0, written: int = 0, depth: int = 0) -> float:
        """Return the seconds that the model alone takes to read so many tokens at once, or to compute them one by one.

        Args:
            read: Tokens of a prompt (pp of llama-bench).
            written: Tokens one by one (tg); nothing is drawn.
            depth: Tokens in the context before, which are not counted.
        """
        return float(self._ask({"do": "time", "tokens": {"read": read, "written": written, "depth": depth}})["seconds"])

    def save_cache(self, name: str) -> ParkedCache:
        """Put the cache aside under a conversation's name, as `park_cache` says; nothing happens where it is off.

        Call it when the conversation is left: what the next one holds takes its place.
        """
        return ParkedCache(**self._ask({"do": "save_cache", "name": name}))

    def restore_cache(self, name: str) -> ParkedCache:
        """Take back what was put aside under a name, so that its conversation needs no reading."""
        return ParkedCache(**self._ask({"do": "restore_cache", "name": name}))

    def use_settings(self, changes: Mapping[str, Value]) -> tuple[str, ...]:
        """Use other loading knobs from the next answer on; of those that need no new load, such as `threads`.

        Returns:
            What the user should know about it.

        Raises:
            BadValue, NotFound: a knob's value or name, or it needs a new load.
            Unsupported: the model cannot do that.
        """
        values = check_values(changes)
        for name in values:
            if KNOBS[name].applies != "next answer":
                raise BadValue(f"{name} is set when the model is loaded", "Load the model again with it.")
        notes = self._ask({"do": "settings", "values": values})["notes"]
        self.settings = replace(self.settings, **values)  # type: ignore[arg-type]
        return tuple(notes)

    def _ask(
        self,
        command: Mapping[str, Any],
        is_reply: Callable[[dict[str, Any]], bool] = lambda message: "number" not in message,
    ) -> dict[str, Any]:
        """Send a command and return its reply; replies to looks that came after their answer's end are dropped."""
        self._begin_turn()
        try:
            worker = self._living_worker()
            worker.send(command)
            try:
                while not is_reply(message := worker.receive()):
                    pass
                return message
            except LocalknobsError:
                raise
            except BaseException:
                worker.kill()  # Ctrl+C: the reply must not be taken for that of the next command
                raise
        finally:
            self._answering.release()

    def _begin_turn(self) -> None:
        if not self._answering.acquire(blocking=False):
            raise LocalknobsError("An answer is being written already", "Stop it first, or wait.")

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines llama.cpp printed, oldest first."""
        return tuple(self._worker.log) if self._worker else ()

    def close(self) -> None:
        """End the worker and free the model; may be called twice and from any thread.

        An answer being written in another thread ends as if stopped.
        """
        with self._changing_worker:
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

    def _living_worker(self) -> WorkerProcess:
        worker = self._worker
        if not self._closed and (worker is None or worker.process.poll() is not None):
            self.info = self._start(None)
            worker = self._worker
        if worker is None or self._closed:
            raise LocalknobsError("The model was closed", "Load it again.")
        return worker

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
        try:
            info = self._load(False, on_progress)
        except _ProbeDied as died:
            raise died.error from None  # it is not their fault
        probe.remember_broken()
        note = (
            "llama.cpp's extra CPU buffers crash on this machine, so models are loaded without them; "
            "prompts are read more slowly."
        )
        return replace(info, notes=(*info.notes, note))

    def _load(self, extra: bool, on_progress: Callable[[float], None] | None) -> ModelInfo:
        worker = self._new_worker()
        fields = {name: getattr(self.settings, name) for name in LoadSettings.__slots__}
        worker.send({"do": "load", "settings": {**fields, "model": str(self.settings.model)}, "use_extra_bufts": extra})
        probing = False
        try:
            while True:
                message = worker.receive()
                if "loaded" in message:
                    loaded = message["loaded"]
                    loaded["recommended"] = values_of(loaded["recommended"])
                    return ModelInfo(**{**loaded, "notes": tuple(loaded["notes"]), "devices": tuple(loaded["devices"])})
                if "probing" in message:
                    probing = True
                elif on_progress and "progress" in message:
                    on_progress(message["progress"])
        except EngineDied as died:
            if probing and not worker.was_killed_from_outside():
                raise _ProbeDied(died) from None
            raise
        except BadFile as error:
            worker.kill()
            lines = worker.last_log_lines()
            error.log_tail = tuple(line for line in lines if "error" in line or "failed" in line)
            raise
        except BaseException:
            worker.kill()
            raise

    def _new_worker(self) -> WorkerProcess:
        worker = WorkerProcess()
        with self._changing_worker:
            if not self._closed:
                if self._worker:
                    self._worker.kill()  # dead already: closes its pipes
                self._worker = worker
                if self._finalizer:
                    self._finalizer.detach()
                self._finalizer = weakref.finalize(self, worker.kill)
                return worker
        worker.kill()
        raise LocalknobsError("The model was closed", "Load it again.")


class _ProbeDied(Exception):
    """The worker ended during the two-token probe."""

    def __init__(self, error: EngineDied) -> None:
        super().__init__(str(error))
        self.error = error


def _what(messages: Sequence[Message] | str) -> dict[str, Any]:
    if isinstance(messages, str):
        return {"prompt": messages}
    return {"messages": [{"role": message["role"], "content": message["content"]} for message in messages]}
