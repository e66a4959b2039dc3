"""How many CPU threads: measured while an answer is written, and changed when the machine gets busy.

The best count depends on the model and on what else runs: on two cores with one of them taken by
another program, two threads can be three times slower than one, since they wait for each other at
every operation. So the tuner keeps measuring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from statistics import median_low

STAGES = ((2, 0.75, 1.35), (4, 0.90, 1.15), (8, 0.96, 0.96))
"""A trial ends after so many samples when they take less than the first share of the present time (the
candidate is chosen) or more than the second (it is not)."""
FAR_WORSE = 2.0
"""Share of the present time at which the first two samples end a trial, the one that pays for the change included."""
FIRST_PAUSE, LONGEST_PAUSE = 24, 384
"""Samples between two trials in one direction: it doubles each time the candidate there is no better."""
LONGEST_STRIDE = 4
CLEARLY_WORSE = 1.35
"""Share of the present time above which a candidate is tried less often."""
CHANGE_SEEN = 6
"""Samples over which a change is noticed: one slow token says nothing."""
SLOWER, FASTER = 1.25, 0.87
"""When the present count takes this share of the time it took, the machine has changed."""


def typical(times: Collection[float]) -> float:
    """Return the time that three quarters of the samples stay within.

    Not the median: threads that wait for a core make some tokens many times slower and leave others as
    they were. Not the mean: a program that comes up for a moment makes one token 20 times slower.
    """
    return sorted(times)[(3 * len(times) - 1) // 4]


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
        self._recent: deque[float] = deque(maxlen=16)  # times of the chosen count
        self._settled = 0.0  # its median time when it was last compared
        self._trial: int | None = None
        self._trial_times: list[float] = []
        self._direction = -1  # fewer threads first: too many cost more than too few
        self._skip = 0
        self._skipped = 0.0
        self._stride = 1
        self._pause = {-1: FIRST_PAUSE, 1: FIRST_PAUSE}
        self._due = {-1: 0, 1: 0}  # samples of the chosen count until the next trial in that direction

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
        if self._settled and len(recent) >= CHANGE_SEEN:
            self._notice_change(list(recent))
        if len(self._recent) >= 3:
            # The direction of the last success first.
            for direction in (self._direction, -self._direction):
                if self._due[direction] <= 0 and self._begin_trial(direction):
                    return

    def _notice_change(self, recent: list[float]) -> None:
        """Look again where a change of the machine points to: slower, at fewer threads; faster, at more."""
        last = recent[-CHANGE_SEEN:]
        if (middle := median_low(last)) > SLOWER * self._settled:
            # The other way a look would be dear if another program took a core, and its time comes anyway.
            self._settled = middle
            self._recent = deque(last, maxlen=self._recent.maxlen)
            self._pause[-1], self._due[-1] = FIRST_PAUSE, 0
        elif len(recent) == self._recent.maxlen and (middle := median_low(recent)) < FASTER * self._settled:
            self._settled = middle
            self._due[1] = min(self._due[1], 4 * FIRST_PAUSE)  # not at once: a busy machine has its moments

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
        present = typical(self._recent)
        if len(times) == 1 and min(seconds, self._skipped) > FAR_WORSE * present:
            self._end_trial(better=False, clearly=True)
        for count, better, worse in STAGES:
            if len(times) != count:
                continue
            share = typical(times) / present
            if share < better:
                self._end_trial(better=True)
            elif share >= worse and (count > 2 or min(times) >= worse * present):
                self._end_trial(better=False, clearly=median_low(times) > CLEARLY_WORSE * present)

    def _end_trial(self, *, better: bool, clearly: bool = False) -> None:
        direction, trial = self._direction, self._trial
        assert trial is not None
        self._trial = None
        if better:
            self.chosen = trial
            self._recent = deque(self._trial_times, maxlen=self._recent.maxlen)
            self._settled = median_low(self._trial_times)
            self._stride = min(LONGEST_STRIDE, 2 * self._stride)
            # On in this direction at once; back soon, in case noise decided.
            self._pause = {-1: FIRST_PAUSE, 1: FIRST_PAUSE}
            self._due = {direction: 0, -direction: FIRST_PAUSE if self._stride <= 2 else 0}
            return
        self._settled = median_low(self._recent)
        if abs(trial - self.chosen) > 1:
            self._stride = max(1, self._stride // 2)  # it may have been a step too far
            return
        self._stride = 1
        patience = 4 if clearly else 1  # such a trial costs much, and noise does not turn its outcome
        self._due[direction] = min(LONGEST_PAUSE, patience * self._pause[direction])
        self._pause[direction] = min(LONGEST_PAUSE, 2 * patience * self._pause[direction])
        self._direction = -direction


class AdaptiveThreads:
    """The thread counts of one model, for one token and for many: fixed, or tuned by what is measured.

    Args:
        tuners: For one token and for many, or None for a fixed count.
        fixed: The fixed count; not used with tuners.
        use: Takes the counts for one token and for many, at once and whenever one changes.
    """

    MANY = 64
    """Tokens from which on a call says how fast many are read."""

    def __init__(
        self, tuners: tuple[ThreadTuner, ThreadTuner] | None, fixed: int, use: Callable[[int, int], None]
    ) -> None:
        self._tuners = tuners
        self._fixed = fixed
        self._use = use
        use(self.one, self.many)

    @property
    def one(self) -> int:
        """Threads for one token."""
        return self._tuners[0].threads if self._tuners else self._fixed

    @property
    def many(self) -> int:
        """Threads for several tokens at once."""
        return self._tuners[1].threads if self._tuners else self._fixed

    def took_one(self, seconds: float) -> None:
        """Take the time of one token."""
        if self._tuners and self._tuners[0].record(seconds):
            self._use(self.one, self.many)

    def took_many(self, seconds: float, tokens: int) -> None:
        """Take the time of a call with several tokens."""
        if self._tuners and tokens >= self.MANY and self._tuners[1].record(seconds / tokens):
            self._use(self.one, self.many)
