"""The frequency picture in numbers: how far each pair of values turns, before and after scaling, and what training saw.

Pure; a screen draws the curves, and only scales them to its cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from localknobs.engine.rope import Rope

Curve = tuple[tuple[float, float], ...]
"""Points from left to right."""

_TURN = 2 * math.pi
_SLACK = 1.001
"""Rounding of a file's float32 must not make a rotation look unseen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPicture:
    """Curves over one axis; the height is turns.

    Args:
        seen: What training saw: everything from 0 up to this curve, as far as it goes to the right.
        unscaled: At the wished length, with the rotations as the file has them.
        scaled: The same with the settings.
    """

    seen: Curve
    unscaled: Curve
    scaled: Curve


@dataclass(frozen=True, slots=True)
class Rotations:
    """One model's rotations as its file has them, and as a load makes them, up to some length.

    Args:
        before: Of the file.
        after: With the settings.
        length: Tokens of context.
    """

    before: Rope
    after: Rope
    length: int

    @property
    def pairs(self) -> int:
        """How many pairs of values are rotated."""
        return self.before.size // 2

    @property
    def critical(self) -> int:
        """The fastest pair that training never turned all the way round; the slowest when there is none."""
        turns = self._turns(self.before, self.before.trained)
        return next((pair for pair, turn in enumerate(turns) if turn < 1), max(0, self.pairs - 1))

    def by_pair(self) -> RotationPicture:
        """Return the turns of each pair at the end of the context, the fastest pair at the left."""
        return RotationPicture(
            # Whoever turned all the way round has seen every angle: there is no upper end.
            seen=_numbered([
                turn if turn < 1 else math.inf for turn in self._turns(self.before, self.before.trained)
            ]),
            unscaled=_numbered(self._turns(self.before, self.length)),
            scaled=_numbered(self._turns(self.after, self.length)),
        )  # fmt: skip

    def by_position(self, pair: int) -> RotationPicture:
        """Return the turns of one pair at every position.

        Args:
            pair: Which, 0 the fastest.
        """
        old, new = self.before.speeds()[pair] / _TURN, self.after.speeds()[pair] / _TURN
        trained, length = float(self.before.trained), float(self.length)
        seen = old * trained if old * trained < 1 else math.inf
        return RotationPicture(
            seen=((0.0, seen), (min(trained, length), seen)),
            unscaled=((0.0, 0.0), (length, old * length)),
            scaled=((0.0, 0.0), (length, new * length)),
        )

    def unseen(self, rope: Rope) -> int:
        """Return how many pairs reach angles within the length that training never saw, with these rotations."""
        seen = self._turns(self.before, self.before.trained)
        reached = self._turns(rope, self.length)
        return sum(was < 1 and now > was * _SLACK for was, now in zip(seen, reached, strict=True))

    @property
    def text(self) -> str:
        """What the picture shows, in words."""
        before, after = self.unseen(self.before), self.unseen(self.after)
        if self.length <= self.before.trained and self.after == self.before:
            return f"Within the trained {self.before.trained:,} tokens: every rotation is as training saw it."
        if not before:
            return f"Up to {self.length:,} tokens no rotation reaches an angle that training never saw."
        if after:
            alone = f"; unscaled, {before}" if self.after != self.before else ""
            return f"{after} of {self.pairs} pairs turn to angles that training never saw{alone}."
        return f"Unscaled, {before} of {self.pairs} pairs would turn to angles that training never saw; scaled, none."

    @staticmethod
    def _turns(rope: Rope, length: int) -> list[float]:
        return [speed * length / _TURN for speed in rope.speeds()]


def _numbered(values: list[float]) -> Curve:
    return tuple((float(at), value) for at, value in enumerate(values))
