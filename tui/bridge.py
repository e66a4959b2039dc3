"""Between the engine and the screen: threads that load and answer, and the messages they send, about ten a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, process_time

from textual.message import Message

from localknobs.conversations import Conversation, Node
from localknobs.engine import (
    ContextDropped,
    Finished,
    LoadSettings,
    Looked,
    ModelInfo,
    Noted,
    PromptRead,
    SamplerChanged,
    TextArrived,
    TokensScored,
    load,
)
from localknobs.engine import Message as Turn
from localknobs.engine.client import Engine
from localknobs.engine.controls import Plan
from localknobs.errors import LocalknobsError
from localknobs.fit.speed import remember_answer
from localknobs.knobs import Value
from localknobs.tui.looking import Looker

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.09, 0.5
"""Time between two looks at a growing answer: eyes follow no more, and every redraw takes time from the engine."""
SCREEN_SHARE = 0.05
"""Share of a processor core that the screen may take while an answer is written; beyond, it looks less often."""

Piece = str | SamplerChanged | Noted | TokensScored | ContextDropped
"""What an answer brings, in order: text, changed knobs, notes, how sure the model was, what the context dropped."""


class Growing:
    """A text being written: the engine's thread puts in what comes, the screen takes it out.

    Attributes:
        stop_asked: Whether the user wants it stopped, also before its first token.
        last: The newest text event: counts and speed.
        first_text_s: Seconds until the first text came, as the reader sees it; 0 before.
    """

    def __init__(self) -> None:
        self.stop_asked = False
        self.last: TextArrived | None = None
        self.first_text_s = 0.0
        self._began = monotonic()
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._told = False

    def begin(self) -> None:
        """Its time counts from now on."""
        self._began = monotonic()

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


class Answer(Growing):
    """An answer of the chat being written.

    Args:
        conversation: Where it belongs, also when another one is shown meanwhile.
        node: Its message; None until its first text came.

    Attributes:
        begun_with: Text of the message before this answer, which continues it; empty for a new one.
        model: Name of the model that writes it.
        adapters: Those that act on it, as `FILE:SCALE`.
        unsaved: Whether the disk refused to take a part of it, which was said once.
    """

    def __init__(self, conversation: Conversation, model: str, node: Node | None = None) -> None:
        super().__init__()
        self.conversation = conversation
        self.model = model
        self.adapters: tuple[str, ...] = ()
        self.node = node
        self.begun_with = node.text if node else ""
        self.unsaved = False


@dataclass
class ModelLoading(Message):
    """Progress of loading, from 0 to 1."""

    settings: LoadSettings
    done: float


@dataclass
class ModelLoaded(Message):
    """A model is ready."""

    settings: LoadSettings
    info: ModelInfo


@dataclass
class ModelFailed(Message):
    """A model could not be loaded."""

    settings: LoadSettings
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
    """An answer is complete: `finished` says why, or `error` what went wrong; neither when it was stopped unbegun."""

    answer: Answer
    finished: Finished | None = None
    error: LocalknobsError | None = None


class Pace:
    """How often to look at a growing answer: often while that is cheap, less where drawing takes too much time."""

    def __init__(self) -> None:
        self.pause_s = SHORTEST_PAUSE_S
        self._wall, self._processor = monotonic(), process_time()

    def next_pause_s(self) -> float:
        """Return the time until the next look, from what the screen took since the last one."""
        wall, processor = monotonic(), process_time()
        share = (processor - self._processor) / max(wall - self._wall, 1e-3)
        self._wall, self._processor = wall, processor
        wanted = self.pause_s * (1.25 if share > SCREEN_SHARE else 0.8)
        self.pause_s = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, wanted))
        return self.pause_s


class LoadDropped(Exception):
    """Nobody wants the model any more that is being loaded."""


class Bridge:
    """Holds the engine. Loading and answering run in threads and report by messages; every call returns at once.

    The threads are daemons: a program that is left waits for none of them, and the engine's process ends with it.

    Args:
        post: Takes a message from any thread (`Widget.post_message`).
    """

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self.engine: Engine | None = None
        self._wanted: LoadSettings | None = None
        self._lock = threading.Lock()
        self._changing_caches = threading.Lock()  # an answer waits for it
        self._answers = 0  # being written
        self.looker = Looker(lambda: self.engine, lambda: self._answers > 0, post)

    @property
    def ready(self) -> bool:
        """Whether a model is loaded."""
        return self.engine is not None

    @property
    def loading(self) -> bool:
        """Whether one is being loaded."""
        return self._wanted is not None and self.engine is None

    def load(self, settings: LoadSettings) -> None:
        """Load a model in place of the present one; of several loads the last one counts."""
        with self._lock:
            self._wanted = settings
            previous, self.engine = self.engine, None
        threading.Thread(target=self._load, args=(settings, previous), daemon=True).start()

    def _load(self, settings: LoadSettings, previous: Engine | None) -> None:
        def progressed(done: float) -> None:
            if self._wanted is not settings:
                raise LoadDropped
            self._post(ModelLoading(settings, done))

        try:
            if previous:
                previous.close()
            engine = load(settings, progressed)
        except LoadDropped:
            return
        except Exception as error:
            self._failed(settings, error)
            return
        with self._lock:
            wanted = self._wanted is settings
            if wanted:
                self.engine = engine
        if wanted:
            self._post(ModelLoaded(settings, engine.info))
        else:
            engine.close()

    def _failed(self, settings: LoadSettings, error: Exception) -> None:
        with self._lock:
            wanted = self._wanted is settings
            if wanted:
                self._wanted = None
        if wanted:
            self._post(ModelFailed(settings, as_ours(error, "loading the model")))

    def answer(
        self,
        answer: Answer,
        messages: list[Turn],
        values: Mapping[str, Value],
        settings: Mapping[str, Value],
        plan: Plan,
        *,
        continue_last: bool,
    ) -> None:
        """Write an answer and post what comes; `settings` are the loading knobs that need no new load."""

        def run() -> None:
            finished: Finished | None = None
            failure: LocalknobsError | None = None
            try:
                finished = self._answer(answer, messages, values, settings, plan, continue_last)
            except Exception as error:
                failure = as_ours(error, "writing the answer")
            self._answers -= 1
            self._post(AnswerEnded(answer, finished, failure))

        self._answers += 1
        threading.Thread(target=run, daemon=True).start()

    def _answer(
        self,
        answer: Answer,
        messages: list[Turn],
        values: Mapping[str, Value],
        settings: Mapping[str, Value],
        plan: Plan,
        continue_last: bool,
    ) -> Finished | None:
        engine = self.engine
        if engine is None:
            raise LocalknobsError("No model is loaded", "Press F3 to choose one.")
        with self._changing_caches:
            pass
        if changed := {name: value for name, value in settings.items() if getattr(engine.settings, name) != value}:
            engine.use_settings(changed)
        if answer.stop_asked:
            return None
        begun = False
        for event in engine.stream(messages, values, continue_last=continue_last, plan=plan):
            if answer.stop_asked and not begun:
                engine.stop()  # the stop came before the engine knew of this answer
            begun = True
            if isinstance(event, Finished):
                remember_answer(engine.info, engine.settings, event.stats)
                return event
            if isinstance(event, PromptRead):
                self._post(PromptProgressed(answer, event))
                continue
            if isinstance(event, Looked):
                self.looker.arrived(event)
                continue
            if answer.put(event):
                self._post(AnswerGrew(answer))
        return None

    def change_caches(self, where: str, leaving: str = "", entering: str = "") -> str:
        """Put the cache of one conversation aside and take back that of another; call it beside the screen.

        Args:
            where: The knob `park_cache`.
            leaving: Name of the conversation that is left; empty for none.
            entering: The same of the one that is opened.

        Returns:
            What the user should know, empty when all is well.
        """
        engine = self.engine
        if engine is None or where == "off":
            return ""
        notes = []
        with self._changing_caches:
            try:
                if engine.settings.park_cache != where:
                    engine.use_settings({"park_cache": where})
                if leaving:
                    notes.append(engine.save_cache(leaving).note)
                if entering:
                    notes.append(engine.restore_cache(entering).note)
            except LocalknobsError as error:
                notes.append(str(error))  # what is not put aside is read again
        return "\n".join(filter(None, notes))

    def set_sampler(self, changes: Mapping[str, Value]) -> None:
        """Change knobs of the answer being written."""
        if self.engine:
            self.engine.set_sampler(changes)

    def stop(self, answer: Answer) -> None:
        """Stop an answer."""
        answer.stop_asked = True
        if self.engine:
            self.engine.stop()

    def close(self) -> None:
        """End the engine, also one that is still being loaded."""
        with self._lock:
            self._wanted = None
            engine, self.engine = self.engine, None
        if engine:
            engine.close()


def as_ours(error: Exception, what: str) -> LocalknobsError:
    """Return an error that can be shown: ours as it is, any other as a fault of the program."""
    if isinstance(error, LocalknobsError):
        return error
    return LocalknobsError(f"Unexpected {type(error).__name__} while {what}: {error}")
