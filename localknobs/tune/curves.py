"""The curves of a training: kept as JSON lines while it runs, and read again while they grow or after a crash.

The training process writes a line for every step, look and sample; one that goes on from a saved state first drops the
lines past it, so that a stopped or killed run has one curve. Nothing here knows torch or how a curve is drawn.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localknobs.journal import Journal
from localknobs.paths import written_whole

Points = list[tuple[int, float]]
"""(step, value) pairs, by step."""
ENDING = ".curves.jsonl"
_LATE_STEPS = 20
"""Steps over which speeds are averaged."""


def curves_file(adapter: Path) -> Path:
    """Return where the curves of an adapter are, beside its folder."""
    return adapter.with_name(adapter.name + ENDING)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model answered to a fixed prompt at a step."""

    step: int
    prompt: str
    answer: str


@dataclass(slots=True)
class Curves:
    """What was measured in a training so far.

    Args:
        steps: Steps that are planned.
        loss: Of the batch of each step, nats a token.
        rate: Learning rate of each step.
        drift: How far each step was from the base at old rows, as divergence at temperature 2; empty without rehearsal.
        held_out, general: Losses at the looks, the first at step 0.
        next_token: Share of held-out tokens that are the likeliest.
        samples: Answers, oldest first.
        kept: Step whose adapter was kept; 0 before the end.
    """

    steps: int = 0
    loss: Points = field(default_factory=list)
    rate: Points = field(default_factory=list)
    drift: Points = field(default_factory=list)
    held_out: Points = field(default_factory=list)
    general: Points = field(default_factory=list)
    next_token: Points = field(default_factory=list)
    speed: Points = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    kept: int = 0

    @property
    def step(self) -> int:
        """The last step that was made."""
        return self.loss[-1][0] if self.loss else 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second over the last steps; 0 before the first."""
        late = [value for _, value in self.speed[-_LATE_STEPS:]]
        return sum(late) / len(late) if late else 0.0

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the lowest held-out loss."""
        return min(self.held_out, key=lambda point: point[1], default=None)

    def add(self, record: Any) -> None:
        """Take in a line of the file; what is no such line is left out."""
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(step, int):
            return
        self.steps = int(record.get("steps", self.steps))
        self.kept = int(record.get("kept", self.kept))
        for name in ("loss", "rate", "drift", "held_out", "general", "next_token"):
            if isinstance(record.get(name), int | float):
                getattr(self, name).append((step, float(record[name])))
        if record.get("tokens") and record.get("took"):
            self.speed.append((step, record["tokens"] / record["took"]))
        for prompt, answer in record.get("samples", ()):
            self.samples.append(Sample(step, str(prompt), str(answer)))


class CurveLog:
    """Writes the curves, from what the training process tells; its messages are those of `tune.training`.

    Args:
        file: Where to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._journal = Journal(file, "training")

    def take(self, message: Mapping[str, Any]) -> None:
        """Keep what a message measures.

        Raises:
            LocalknobsError: another training writes there, or the disk refuses.
        """
        if "begun" in message:
            self._begin(message["begun"], message["steps"])
        elif "before" in message:
            self._append(0, message["before"])
        elif "step" in message:
            self._append(message["step"], {name: value for name, value in message.items() if name != "step"})
        elif "look" in message:
            self._append(message["at"], message["look"])
        elif "samples" in message:
            self._append(message["at"], {"samples": message["samples"]})
        elif "finished" in message:
            found = message["finished"]
            self._append(found["step"], {"kept": found["best_step"] or found["step"]})
            self._journal.close()

    def _begin(self, step: int, steps: int) -> None:
        kept = []
        if self._file.exists():
            kept = [one for one in self._journal.read() if step and one.get("step", 0) <= step]
            self._journal.append([])  # refused where another training writes there
            self._journal.close()
        with written_whole(self._file) as beside, contextlib.closing(Journal(beside, "training")) as whole:
            whole.append(kept)
        self._journal.read()
        self._append(step, {"steps": steps})

    def _append(self, step: int, values: Mapping[str, Any]) -> None:
        sound = {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
        self._journal.append([{"step": step, **sound}])


class CurveReader:
    """Reads curves while another process writes them.

    Args:
        file: The file; it need not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at, self._inode = 0, 0
        self.curves = Curves()

    def read(self) -> bool:
        """Read what is new; return whether anything is. A file that was begun anew is read from its beginning."""
        try:
            with self._file.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._at:
                    self._at, self._inode, self.curves = 0, status.st_ino, Curves()
                file.seek(self._at)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]  # the last line may be half written
        self._at += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, RecursionError, TypeError):
                self.curves.add(json.loads(line))
        return bool(whole)


def read_curves(file: Path) -> Curves:
    """Return the curves of a file; empty ones when there is none."""
    reader = CurveReader(file)
    reader.read()
    return reader.curves


def thinned(points: Sequence[tuple[int, float]], most: int) -> Points:
    """Return at most so many points: means of neighbours, each at the last of their steps."""
    if len(points) <= most:
        return list(points)
    found = []
    for at in range(most):
        part = points[at * len(points) // most : (at + 1) * len(points) // most]
        found.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return found
