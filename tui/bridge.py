"""Between the engine and the screen: threads that load and answer, and the messages they send, about ten a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
"""Time between two messages of one answer: eyes follow no more, and every redraw takes time from the engine."""

Piece = str | SamplerChanged | Noted
"""What an answer brings, in order: text, a change of knobs, a note."""


@dataclass(slots=True, eq=False)
class Answer:
    """An answer being written.

    Args:
        conversation: Where it belongs, also when another one is shown meanwhile.
        node: Its message; None until its first text came.
        unsaved: Whether the disk refused to take a part of it, which was said once.
    """

    conversation: Conversation
    node: Node | None = None
    unsaved: bool = False


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
    """More of an answer came."""

    answer: Answer
    pieces: list[Piece]
    last: TextArrived | None


@dataclass
class AnswerEnded(Message):
    """An answer is complete: `finished` says why, or `error` what went wrong."""

    answer: Answer
    finished: Finished | None = None
    error: LocalknobsError | None = None


@dataclass(slots=True)
class _Gathered:
    """What came since the last message to the screen."""

    pieces: list[Piece] = field(default_factory=list)
    last: TextArrived | None = None

    def take(self, piece: Piece) -> None:
        if isinstance(piece, str) and self.pieces and isinstance(self.pieces[-1], str):
            self.pieces[-1] += piece
        else:
            self.pieces.append(piece)


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
        gathered, sent = _Gathered(), 0.0
        finished: Finished | None = None
        try:
            if engine.settings.threads != threads:
                engine.set_threads(threads)
            for event in engine.stream(messages, values, continue_last=continue_last):
                if isinstance(event, TextArrived):
                    gathered.take(event.text)
                    gathered.last = event
                elif isinstance(event, Finished):
                    finished = event
                elif isinstance(event, PromptRead):
                    self._post(PromptProgressed(answer, event))
                else:
                    gathered.take(event)
                if gathered.pieces and (now := monotonic()) - sent >= PAUSE_S:
                    self._post(AnswerGrew(answer, gathered.pieces, gathered.last))
                    gathered, sent = _Gathered(), now
        except LocalknobsError as error:
            self._flush(answer, gathered)
            self._post(AnswerEnded(answer, error=error))
        else:
            self._flush(answer, gathered)
            self._post(AnswerEnded(answer, finished=finished))

    def _flush(self, answer: Answer, gathered: _Gathered) -> None:
        if gathered.pieces:
            self._post(AnswerGrew(answer, gathered.pieces, gathered.last))

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
