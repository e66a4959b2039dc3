"""How many CPU threads: measured while an answer is written, and changed when the machine gets busy.

The best count depends on the model and on what else runs: on two cores with one of them taken by
another program, two threads can be three times slower than one, since they wait for each other at
every operation. So the tuner keeps measuring.
"""

from __future__ import annotations

from collections import deque
from statistics import median

BLOCK = 4
"""Samples of a candidate in one trial."""
FIRST_PAUSE, LONGEST_PAUSE = 24, 384
"""Samples between two trials: it doubles while the choice is confirmed."""
BETTER = 0.96
"""A candidate must take at most this share of the present time to be chosen."""
GIVE_UP = 1.35
"""A trial ends at once when one sample takes this many times the present time."""
CHANGED = 1.25
"""When the present count becomes this many times slower than it was, trials begin again at once."""


def candidates(cores: int) -> tuple[int, ...]:
    """Return the counts worth trying on that many cores: 1, 2, 3, 4, 6, 8, 12, 16 ... and the number itself."""
    counts = {1, cores}
    power = 2
    while power < cores:
        counts.update(count for count in (power, power * 3 // 2) if count < cores)
        power *= 2
    return tuple(sorted(counts))


class ThreadTuner:
    """Chooses among thread counts by the time each takes for the same work.

    Feed it every measured time with `record`; use what `threads` says for the next piece of work.

    Args:
        counts: Candidates, ascending.
        first: Where to begin.
    """

    def __init__(self, counts: tuple[int, ...], first: int) -> None:
        self.counts = counts
        self.chosen = min(range(len(counts)), key=lambda index: abs(counts[index] - first))
        self._trial: int | None = None
        self._direction = -1  # fewer threads first: too many costs more than too few
        self._recent: deque[float] = deque(maxlen=16)
        self._trial_times: list[float] = []
        self._settled = 0.0  # median time of the chosen count when it was last confirmed
        self._pause, self._since = 8, 0
        self._skip = 0

    @property
    def threads(self) -> int:
        """The count to use for the next piece of work."""
        return self.counts[self.chosen if self._trial is None else self._trial]

    def record(self, seconds: float) -> bool:
        """Take the time of one piece of work done with `threads`; return whether the count changes now."""
        before = self.threads
        if self._skip:  # the first piece after a change pays for starting or stopping threads
            self._skip -= 1
            return False
        if self._trial is None:
            self._record_chosen(seconds)
        else:
            self._record_trial(seconds)
        if self.threads != before:
            self._skip = 1
            return True
        return False

    def _record_chosen(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._since += 1
        if len(self.counts) == 1:
            return
        slower = (
            self._settled
            and len(self._recent) >= BLOCK
            and median(list(self._recent)[-BLOCK:]) > CHANGED * self._settled
        )
        if slower:
            self._pause, self._settled = FIRST_PAUSE, 0.0
        if slower or self._since >= self._pause:
            self._begin_trial()

    def _begin_trial(self) -> None:
        neighbour = self.chosen + self._direction
        if not 0 <= neighbour < len(self.counts):
            self._direction = -self._direction
            neighbour = self.chosen + self._direction
        self._trial, self._trial_times, self._since = neighbour, [], 0

    def _record_trial(self, seconds: float) -> None:
        self._trial_times.append(seconds)
        present = median(list(self._recent)[-2 * BLOCK :])
        if seconds > GIVE_UP * present:
            self._end_trial(present, better=False)
        elif len(self._trial_times) >= BLOCK:
            self._end_trial(present, better=median(self._trial_times) < BETTER * present)

    def _end_trial(self, present: float, *, better: bool) -> None:
        if better and self._trial is not None:
            self.chosen = self._trial
            self._recent = deque(self._trial_times, maxlen=16)
            self._settled = median(self._trial_times)
            self._pause = BLOCK  # go on in the same direction soon
        else:
            self._settled = present
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._direction = -self._direction
        self._trial = None
