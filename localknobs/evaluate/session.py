"""The parent's side of the measuring process: open models, give orders, take records, keep to a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from time import monotonic
from typing import Any

from localknobs.engine.process import WorkerProcess
from localknobs.engine.settings import LoadSettings
from localknobs.errors import EngineDied
from localknobs.evaluate.config import Variant

_COMMAND = (sys.executable, "-P", "-m", "localknobs.evaluate.worker")


class Session:
    """One measuring process.

    Args:
        threads: CPU threads of every model.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._worker = WorkerProcess(_COMMAND)

    def open(self, models: Sequence[tuple[int, Variant]], context: int, *, extra: bool = False) -> list[dict[str, Any]]:
        """Load models in place of those that are open; return what each says of itself.

        Args:
            models: Each with its number in the run.
            context: Tokens that each can hold.
            extra: Let llama.cpp repack weights, as it does for a chat.
        """
        order = [
            {
                "number": number,
                "label": variant.label,
                "settings": _plain(variant.settings),
            }
            for number, variant in models
        ]
        self._worker.send({"do": "open", "models": order, "context": context, "threads": self.threads, "extra": extra})
        label, opened = "", []
        try:
            for message in self._messages("open"):
                label = message.get("loading", label)
                if "opened" in message:
                    opened.append(message)
        except EngineDied as died:
            if label:
                died.message = f"The engine ended while it loaded {label}"
                died.args = (died.message,)
            raise
        return opened

    def ask(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        """Give a short order; return all answers."""
        self._worker.send(order)
        return list(self._messages(order["do"]))

    def records(self, order: dict[str, Any], enough: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Give a long order; yield its records as they come.

        Args:
            order: What to do.
            enough: Asked after every record; when true, the order ends after the unit that is being worked on.
        """
        self._worker.send(order)
        told = False
        for message in self._messages(order["do"]):
            if "record" in message:
                yield message["record"]
            if not told and enough():
                self._worker.send({"do": "enough"})
                told = True

    def _messages(self, order: str) -> Iterator[dict[str, Any]]:
        while (message := self._worker.receive()).get("finished") != order:
            yield message

    def restart(self) -> None:
        """Begin anew with a fresh process."""
        self._worker.kill()
        self._worker = WorkerProcess(_COMMAND)

    def close(self) -> None:
        """End the process at once: what it has said is kept, and it has nothing else."""
        self._worker.kill()


def _plain(settings: LoadSettings) -> dict[str, Any]:
    plain = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {**plain, "model": str(settings.model)}


class Clock:
    """The time that measuring may take, shared out among stages, and within a stage among groups of models.

    Args:
        minutes: 0 for no end.
    """

    def __init__(self, minutes: float) -> None:
        self._end = monotonic() + 60 * minutes if minutes else 0.0
        self._stage_end = self._group_end = self._end

    @property
    def runs(self) -> bool:
        """Whether there is an end."""
        return bool(self._end)

    def begin_stage(self, weight: float, weight_left: float) -> None:
        """Begin a stage that may take its share of the time that is left.

        Args:
            weight: Of this stage.
            weight_left: Of this and all later ones.
        """
        self._stage_end = self._group_end = _share(self._end, weight, weight_left)

    def begin_group(self, weight: float, weight_left: float) -> None:
        """Begin a group of models within the stage; arguments as for a stage."""
        self._group_end = _share(self._stage_end, weight, weight_left)

    def is_over(self) -> bool:
        """Whether the group's time is over."""
        return bool(self._end) and monotonic() >= self._group_end


def _share(end: float, weight: float, weight_left: float) -> float:
    now = monotonic()
    return now + max(0.0, end - now) * weight / weight_left
