"""The engines of an A/B chat: loads the two sides, lets them answer at once or in turn, and tells the screen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from textual.message import Message

from localknobs.ab.price import BothBills, price_sides
from localknobs.ab.side import Side
from localknobs.ab.votes import Contestant, Tally, contestant_of, tally_of
from localknobs.engine import Finished, Looked, ModelInfo, PromptRead, load
from localknobs.engine import Message as Turn
from localknobs.engine.client import Engine
from localknobs.errors import LocalknobsError
from localknobs.hardware import physical_cores
from localknobs.tui.bridge import Growing, LoadDropped, as_ours

Order = Literal["at once", "in turn"]


@dataclass
class SidesPriced(Message):
    """It is known what both sides take, and whether both are loaded at once."""

    contest: Contest
    bills: BothBills | None
    trouble: str = ""


@dataclass
class SideTold(Message):
    """A side is being loaded (0 to 1), is ready (`info`), or could not be loaded (`error`)."""

    contest: Contest
    side: int
    done: float = 0.0
    info: ModelInfo | None = None
    error: LocalknobsError | None = None


@dataclass
class SideGrew(Message):
    """More of a side's answer came; the screen takes it out of `answer`. `done` is how much of the prompt is read."""

    contest: Contest
    side: int
    answer: Growing
    done: float = 1.0


@dataclass
class SideEnded(Message):
    """A side's answer is over: `finished` says why, or `error` what went wrong; neither when it was stopped unbegun."""

    contest: Contest
    side: int
    answer: Growing
    finished: Finished | None = None
    error: LocalknobsError | None = None


class Contest:
    """Holds the engines of two sides. Every call returns at once; threads report by messages.

    Args:
        sides: Both of them.
        post: Takes messages from any thread.
        make_room: Called in a thread when both do not fit: frees memory if it can, and says whether it did.
    """

    def __init__(
        self, sides: Sequence[Side], post: Callable[[Message], object], make_room: Callable[[], bool] = lambda: False
    ) -> None:
        self.sides = tuple(sides)
        self.contestants: tuple[Contestant, Contestant] | None = None  # known when both files were read
        self.tally: Tally | None = None
        self.shared = sides[0].loads_like(sides[1])
        self.one_at_a_time = False
        self.order: Order = "at once"
        self._post = post
        self._make_room = make_room
        self._lock = threading.Lock()
        self._loading = (threading.Lock(), threading.Lock())
        self._engines: dict[int, Engine] = {}
        self._answers: tuple[Growing, ...] = ()
        self._closed = False

    # ---- loading ------------------------------------------------------------------------------

    def load(self, bills: BothBills | None = None) -> None:
        """Price both sides, then load them; where memory is too little for both, the first alone.

        Args:
            bills: What they take, where that is known already.
        """
        threading.Thread(target=self._load, args=(bills,), daemon=True).start()

    def _load(self, bills: BothBills | None) -> None:
        try:
            bills = bills or price_sides(self.sides)
            if not bills.fits and not bills.refusals and self._make_room():
                bills = price_sides(self.sides)
            a, b = map(contestant_of, self.sides)
            self.contestants, self.tally = (a, b), tally_of(a, b)
        except Exception as error:
            self._post(SidesPriced(self, None, str(as_ours(error, "pricing the sides"))))
            return
        self.one_at_a_time = not (self.shared or bills.fits or bills.refusals)
        self._post(SidesPriced(self, bills))
        for side in self.loads_first:
            try:
                self._engine(side)
            except LoadDropped:
                return
            except Exception:  # told already; the other side lives
                continue

    def _engine(self, side: int) -> Engine:
        """Return the engine of a side, loaded when it is not; its failure is told, and raised."""
        place = 0 if self.shared else side
        with self._loading[place]:
            with self._lock:
                known = self._engines.get(place)
            return known or self._loaded(side, place)

    def _loaded(self, side: int, place: int) -> Engine:
        if self.one_at_a_time:
            self._close_engines()

        def progressed(done: float) -> None:
            if self._closed or (self._answers and all(answer.stop_asked for answer in self._answers)):
                raise LoadDropped
            self._post(SideTold(self, side, done))

        try:
            engine = load(self.sides[side].load_settings, progressed)
        except LoadDropped:
            raise
        except Exception as error:
            self._post(SideTold(self, side, error=as_ours(error, "loading the model")))
            raise
        with self._lock:
            if not self._closed:
                self._engines[place] = engine
        if self._closed:
            engine.close()
            raise LoadDropped
        self._post(SideTold(self, side, 1.0, engine.info))
        return engine

    # ---- answering ----------------------------------------------------------------------------

    @property
    def loads_first(self) -> tuple[int, ...]:
        """The sides that are loaded before the first prompt."""
        return (0,) if self.one_at_a_time or self.shared else (0, 1)

    @property
    def in_turn(self) -> bool:
        """Whether one answers after the other: by choice, or because there is one engine at a time."""
        return self.shared or self.one_at_a_time or self.order == "in turn"

    def ask(self, turns: Sequence[Sequence[Turn]], seed: int) -> tuple[Growing, ...]:
        """Let both sides answer.

        Args:
            turns: What each side has heard and said so far, with the new prompt.
            seed: Both answers are drawn with it.

        Returns:
            The answers, the first side's first.
        """
        answers = self._answers = (Growing(), Growing())
        with self._lock:
            sides = [0, 1] if 0 in self._engines or not self.one_at_a_time else [1, 0]  # what is loaded goes first
        for run in [sides] if self.in_turn else [[side] for side in sides]:
            threading.Thread(target=self._run, args=(run, turns, seed, answers), daemon=True).start()
        return answers

    def _run(
        self, sides: Sequence[int], turns: Sequence[Sequence[Turn]], seed: int, answers: Sequence[Growing]
    ) -> None:
        for side in sides:
            finished: Finished | None = None
            failure: LocalknobsError | None = None
            try:
                finished = self._answer(side, turns[side], seed, answers[side])
            except LoadDropped:
                pass
            except Exception as error:
                failure = as_ours(error, "writing the answer")
            self._post(SideEnded(self, side, answers[side], finished, failure))

    def _answer(self, side: int, turns: Sequence[Turn], seed: int, answer: Growing) -> Finished | None:
        if answer.stop_asked:
            return None
        engine = self._engine(side)
        self._settle(side, engine)
        values = self.sides[side].values(engine.info.recommended, seed)
        answer.begin()
        begun = False
        for event in engine.stream(list(turns), values):
            if answer.stop_asked and not begun:
                engine.stop()  # the stop came before the engine knew of this answer
            begun = True
            if isinstance(event, Finished):
                return event
            if isinstance(event, PromptRead):
                self._post(SideGrew(self, side, answer, event.done / max(1, event.total)))
            elif not isinstance(event, Looked) and answer.put(event):
                self._post(SideGrew(self, side, answer))
        return None

    def _settle(self, side: int, engine: Engine) -> None:
        """Use a side's settings that need no new load; each of two that answer at once gets half of the cores."""
        wanted = self.sides[side].live_settings
        if "threads" not in self.sides[side].words.loading:
            wanted["threads"] = 0 if self.in_turn else max(1, physical_cores() // 2)
        changes = {name: value for name, value in wanted.items() if getattr(engine.settings, name) != value}
        if changes:
            engine.use_settings(changes)

    def stop(self) -> None:
        """Stop both answers."""
        for answer in self._answers:
            answer.stop_asked = True
        with self._lock:
            engines = list(self._engines.values())
        for engine in engines:
            engine.stop()

    def close(self) -> None:
        """End both engines, also one that is still being loaded."""
        self._closed = True
        self._close_engines()

    def _close_engines(self) -> None:
        with self._lock:
            engines, self._engines = list(self._engines.values()), {}
        for engine in engines:
            engine.close()
