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
ENOUGH = 2
"""Samples after which a trial ends when they all say clearly the same."""
FIRST_PAUSE, LONGEST_PAUSE = 24, 384
"""Samples between two trials in one direction: it doubles each time the candidate there is no better."""
LONGEST_STRIDE = 4
BETTER = 0.96
"""A candidate must take at most this share of the present time to be chosen."""
CLEARLY_BETTER, CLEARLY_WORSE, FAR_WORSE = 0.75, 1.35, 2.0
"""Shares of the present time at which a trial ends early; at the last one after a single sample."""
SLOWER, FASTER = 1.25, 0.87
"""When the present count takes this share of the time it took, the machine has changed: trials begin again."""


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

    It walks from the present count to fewer and to more threads, in strides that double while they help,
    and stays where both neighbours are no better. After that it looks at the neighbours again from time
    to time, and at once when the present count becomes slower or faster than it was.

    Feed it every measured time with `record`; use what `threads` says for the next piece of work.

    Args:
        counts: Candidates, ascending.
        first: Where to begin.
    """

    def __init__(self, counts: tuple[int, ...], first: int) -> None:
        self.counts = counts
        self.chosen = min(range(len(counts)), key=lambda index: abs(counts[index] - first))
        self._recent: deque[float] = deque(maxlen=2 * BLOCK)  # times of the chosen count
        self._settled = 0.0  # its median time when it was last compared
        self._trial: int | None = None
        self._trial_times: list[float] = []
        self._direction = -1
        self._skip = 0
        self._skipped = 0.0
        self._look_again()

    def _look_again(self) -> None:
        """Let trials in both directions begin at once; fewer threads first: too many costs more than too few."""
        self._stride = 1
        self._pause = {-1: FIRST_PAUSE, 1: FIRST_PAUSE}
        self._due = {-1: 0, 1: 0}  # samples of the chosen count until the next trial there

    @property
    def threads(self) -> int:
        """The count to use for the next piece of work."""
        return self.counts[self.chosen if self._trial is None else self._trial]

    def record(self, seconds: float) -> bool:
        """Take the time of one piece of work done with `threads`; return whether the count changes now."""
        before = self.threads
        if self._skip:  # the first piece after a change pays for starting or stopping threads
            self._skip -= 1
            self._skipped = seconds
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
        recent, due = self._recent, self._due
        recent.append(seconds)
        if len(self.counts) == 1:
            return
        due[-1] -= 1
        due[1] -= 1
        if self._settled and len(recent) >= BLOCK:
            last = list(recent)
            if median(last[-BLOCK:]) > SLOWER * self._settled or (
                len(recent) == recent.maxlen and median(last) < FASTER * self._settled
            ):
                self._settled = 0.0
                del last[:-BLOCK]
                self._recent = deque(last, maxlen=recent.maxlen)
                self._look_again()
        if len(self._recent) < ENOUGH + 1:
            return
        for direction in (self._direction, -self._direction):
            if self._due[direction] <= 0 and self._begin_trial(direction):
                return

    def _begin_trial(self, direction: int) -> bool:
        """Try the count one stride away; False where there is none."""
        last = len(self.counts) - 1
        if not 0 <= self.chosen + direction <= last:
            self._due[direction] = LONGEST_PAUSE
            return False
        if direction != self._direction:
            self._direction, self._stride = direction, 1
        self._trial = min(last, max(0, self.chosen + direction * self._stride))
        self._trial_times = []
        return True

    def _record_trial(self, seconds: float) -> None:
        times = self._trial_times
        times.append(seconds)
        present = median(self._recent)
        enough = len(times) >= ENOUGH
        if (enough and min(times) > CLEARLY_WORSE * present) or min(*times, self._skipped) > FAR_WORSE * present:
            self._end_trial(present, better=False, clearly=True)
        elif enough and max(times) < CLEARLY_BETTER * present:
            self._end_trial(present, better=True)
        elif len(times) >= BLOCK:
            self._end_trial(present, better=median(times) < BETTER * present)

    def _end_trial(self, present: float, *, better: bool, clearly: bool = False) -> None:
        direction, trial = self._direction, self._trial
        assert trial is not None
        self._trial = None
        if better:
            self.chosen = trial
            self._recent = deque(self._trial_times, maxlen=self._recent.maxlen)
            self._settled = median(self._trial_times)
            self._stride = min(LONGEST_STRIDE, 2 * self._stride)
            # On in this direction; where it came from was worse just now.
            self._pause[direction], self._due[direction] = FIRST_PAUSE, 0
            self._due[-direction] = self._pause[-direction] if self._stride <= 2 else 0
            return
        self._settled = present
        if abs(trial - self.chosen) > 1:
            self._stride = max(1, self._stride // 2)  # it may have been a step too far
            return
        self._stride = 1
        patience = 4 if clearly else 1  # such a trial costs much, and noise does not turn its outcome
        self._due[direction] = min(LONGEST_PAUSE, patience * self._pause[direction])
        self._pause[direction] = min(LONGEST_PAUSE, 2 * patience * self._pause[direction])
        self._direction = -direction
