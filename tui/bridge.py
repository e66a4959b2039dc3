"""Between the engine and the screen: threads that load and answer, and the messages they send, about ten a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from textual.message import Message

from localknobs.conversations import Conversation, Node
from localknobs.engine import (
    Finished,
    LoadSettings,
    ModelInfo,
    Noted,
    PromptRead,
    SamplerChanged,
    TextArrived,
    load,
)
from localknobs.engine import Message as Turn
from localknobs.engine.client import Engine
from localknobs.errors import LocalknobsError
from localknobs.knobs import Value

PAUSE_S = 0.09
"""Time between two looks at a growing answer: eyes follow no more, and every redraw takes time from the engine."""

Piece = str | SamplerChanged | Noted
"""What an answer brings, in order: text, a change of knobs, a note."""


class Answer:
    """An answer being written: the engine's thread puts in what comes, the screen takes it out.

    Args:
        conversation: Where it belongs, also when another one is shown meanwhile.
        node: Its message; None until its first text came.

    Attributes:
        unsaved: Whether the disk refused to take a part of it, which was said once.
        last: The newest text event: counts and speed.
        first_text_s: Seconds until the first text came, as the reader sees it; 0 before.
    """

    def __init__(self, conversation: Conversation, node: Node | None = None) -> None:
        self.conversation = conversation
        self.node = node
        self.unsaved = False
        self.last: TextArrived | None = None
        self.first_text_s = 0.0
        self._began = monotonic()
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._told = False

    def put(self, piece: Piece | TextArrived) -> bool:
        """Add what came; return whether the screen must be told of it, which it then is once until it has taken all."""
        with self._lock:
            if isinstance(piece, TextArrived):
                self.first_text_s = self.first_text_s or monotonic() - self._began
                self.last, piece = piece, piece.text
            if isinstance(piece, str) and self._pieces and isinstance(self._pieces[-1], str):
                self._pieces[-1] += piece
            else:
                self._pieces.append(piece)
            told, self._told = self._told, True
            return not told

    def take(self) -> list[Piece]:
        """Return what came since the last time; nothing means that the screen wants to be told again."""
        with self._lock:
            pieces, self._pieces = self._pieces, []
            self._told = bool(pieces)
            return pieces


@dataclass
class ModelLoading(Message):
    """Progress of loading, from 0 to 1."""

    done: float


@dataclass
class ModelLoaded(Message):
    """A model is ready."""

    info: ModelInfo


@dataclass
class ModelFailed(Message):
    """A model could not be loaded."""

    error: LocalknobsError


@dataclass
class PromptProgressed(Message):
    """The prompt is being read."""

    answer: Answer
    progress: PromptRead


@dataclass
class AnswerGrew(Message):
    """More of an answer came; the screen takes it out of `answer`."""

    answer: Answer


@dataclass
class AnswerEnded(Message):
    """An answer is complete: `finished` says why, or `error` what went wrong."""

    answer: Answer
    finished: Finished | None = None
    error: LocalknobsError | None = None


class Bridge:
    """Holds the engine. `load` and `answer` run in threads and report by messages; the rest returns at once.

    Args:
        post: Takes a message from any thread (`Widget.post_message`).
    """

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self.engine: Engine | None = None

    @property
    def ready(self) -> bool:
        """Whether a model is loaded."""
        return self.engine is not None

    def load(self, settings: LoadSettings) -> None:
        """Load a model in place of the present one."""

        def progressed(done: float) -> None:
            self._post(ModelLoading(done))

        previous, self.engine = self.engine, None
        try:
            if previous:
                previous.close()
            self.engine = load(settings, progressed)
        except LocalknobsError as error:
            self._post(ModelFailed(error))
        else:
            self._post(ModelLoaded(self.engine.info))

    def answer(
        self, answer: Answer, messages: list[Turn], values: Mapping[str, Value], threads: int, *, continue_last: bool
    ) -> None:
        """Write an answer and post what comes."""
        engine = self.engine
        if engine is None:
            self._post(AnswerEnded(answer, error=LocalknobsError("No model is loaded", "Press F3 to choose one.")))
            return
        finished: Finished | None = None
        failure: LocalknobsError | None = None
        try:
            if engine.settings.threads != threads:
                engine.set_threads(threads)
            for event in engine.stream(messages, values, continue_last=continue_last):
                if isinstance(event, Finished):
                    finished = event
                elif isinstance(event, PromptRead):
                    self._post(PromptProgressed(answer, event))
                elif answer.put(event):
                    self._post(AnswerGrew(answer))
        except LocalknobsError as error:
            failure = error
        self._post(AnswerEnded(answer, finished, failure))

    def set_sampler(self, changes: Mapping[str, Value]) -> None:
        """Change knobs of the answer being written."""
        if self.engine:
            self.engine.set_sampler(changes)

    def stop(self) -> None:
        """Stop the answer being written."""
        if self.engine:
            self.engine.stop()

    def close(self) -> None:
        """End the engine."""
        engine, self.engine = self.engine, None
        if engine:
            engine.close()
