"""What steps of an answer cost, as measured: one token alone, and several in one batch.

Facts of the model and the machine, not of an answer: they are kept over answers and over other drafting settings.
Plain Python without llama.cpp, since nothing here computes.
"""

from __future__ import annotations

from collections import deque
from statistics import median

SURE = 3
"""Batches of one size after which their cost is believed: a first one may have met a hiccup of the machine."""
FIRST_LOOK_S = 100e-6
"""Guess of what looking for a guess takes: ten times what it does in a loop of its own, since the weights have pushed
all that out of the processor's cache."""
HOPED_ROW, FEARED_ROW = 0.2, 0.5
"""What a further row of a batch adds to the cost of one, at best and as may well be, until batches were measured."""


class StepCosts:
    """How long a step of so many rows takes; ratios to one row, since that changes with the context and the machine.

    Args:
        most: Rows of the longest step.

    Attributes:
        ratios: Cost of a batch against one row, by its rows; guessed from its neighbours where not measured.
        hoped: The same, where batches that were measured less than `SURE` times are hoped to be cheap.
        one: Seconds of the decode of one token; 0 when not known yet.
        plain: Seconds of a whole step with one token; 0 when not known yet.
        plains: Such steps so far.
        look: Seconds of looking for a guess that nobody has.
        overhead: Seconds that a step with a draft takes besides drafting, decoding, and what each token takes anyway.
    """

    def __init__(self, most: int) -> None:
        self._one: deque[float] = deque(maxlen=15)
        self._plain: deque[float] = deque(maxlen=15)
        self._overhead: deque[float] = deque(maxlen=15)
        self._look = deque([FIRST_LOOK_S], maxlen=9)
        self._seen: dict[int, deque[float]] = {}
        self.plains = 0
        self.ratios = [0.0, 1.0]
        self.hoped = [0.0, 1.0]
        self.one = self.plain = self.overhead = 0.0
        self.look = FIRST_LOOK_S
        self.reach(most)

    def reach(self, most: int) -> None:
        """Know of batches of so many rows too."""
        for rows in range(len(self.ratios), most + 1):
            self.ratios.append(1.0)
            self.hoped.append(1 + HOPED_ROW * (rows - 1))
        self._guess()

    @property
    def longest_seen(self) -> int:
        """Rows of the longest batch that was measured; 1 before the first."""
        return max(self._seen, default=1)

    @property
    def between(self) -> float:
        """Seconds of a token outside the decode: sampling, text."""
        return max(0.0, self.plain - self.one)

    def record_plain(self, decode_s: float, whole_s: float) -> None:
        """Take the times of a step with one token: of the decode alone, and from its beginning to the next one's."""
        self._one.append(decode_s)
        self._plain.append(whole_s)
        self.plains += 1
        if self.plains < 16 or not self.plains & 3:  # a median takes microseconds, and such a step may be short
            self.one, self.plain = median(self._one), median(self._plain)

    def record_look(self, seconds: float) -> None:
        """Take the time of looking for a guess that nobody had."""
        self._look.append(seconds)
        self.look = min(self._look)  # so short a time is many times as long when another program comes between

    def record_batch(self, rows: int, decode_s: float, overhead_s: float) -> None:
        """Take the times of a step with more rows; those of one token must be known."""
        seen = self._seen.get(rows)
        if seen is None:
            seen = self._seen[rows] = deque(maxlen=7)
        # More than so many single tokens no batch takes: that was the machine.
        seen.append(min(decode_s / self.one, 1.5 * rows))
        self._overhead.append(max(0.0, overhead_s))
        self.overhead = median(self._overhead)
        self.ratios[rows] = median(seen)
        if len(seen) >= SURE:
            self.hoped[rows] = self.ratios[rows]
        if len(seen) <= SURE or len(seen) == seen.maxlen:
            self._guess()

    def doubt(self) -> None:
        """Hope again that batches are cheap: the machine may be another one than when they were measured."""
        self.hoped = [0.0, *(1 + HOPED_ROW * rows for rows in range(len(self.ratios) - 1))]

    def feared(self, rows: int) -> float:
        """Return what a batch may well cost against one row, as far as is known."""
        if len(self._seen.get(rows, ())) >= SURE:
            return self.ratios[rows]
        if any(len(seen) >= SURE for seen in self._seen.values()):
            return 1.25 * self.ratios[rows]
        prior = 1 + FEARED_ROW * (rows - 1)
        return max(prior, self.ratios[rows]) if self._seen else prior

    def _guess(self) -> None:
        """Guess the ratios of rows that were not measured from those that were."""
        known = sorted({1, *self._seen})
        for rows in range(2, len(self.ratios)):
            if rows in self._seen:
                continue
            below = max(one for one in known if one < rows)
            above = min((one for one in known if one > rows), default=0)
            low = self.ratios[below]
            if above:
                slope = (self.ratios[above] - low) / (above - below)
            elif below > 1:
                # Beyond the longest: half the slope so far, so that longer drafts are tried once rather than never.
                slope = 0.5 * (low - 1) / (below - 1)
            else:
                slope = HOPED_ROW
            self.ratios[rows] = low + max(0.02, slope) * (rows - below)
