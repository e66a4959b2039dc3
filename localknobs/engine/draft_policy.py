"""Whether to draft, by whom and how far, decided from what steps and drafts really cost and how often they are right.

With acceptance `a` and `g` drafted tokens a step gives (1 - a^(g+1)) / (1 - a) tokens (Leviathan 2022,
arXiv:2211.17192, equation 1). What it costs is measured, not assumed: on a CPU a batch of two can take twice the
time of one token, and the cost of more grows unevenly. Plain Python without llama.cpp, since nothing here computes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

PLAIN_FIRST = 3
"""Steps without a draft at the very beginning: what everything else is measured against."""
PLAIN_AGAIN_FIRST = 1
"""The same after steps that nobody timed."""
PLAIN_AGAIN = 48
"""Steps with a draft after which one without is taken, so that the measure stays fresh."""
TRIAL = 4
"""Drafts of a new drafter that are looked at before it is judged."""
RETRIAL = 2
FIRST_PAUSE, LONGEST_PAUSE = 64, 2048
"""Steps until a drafter that did not pay is looked at again; doubled each time it still does not."""
WAIT = 4
"""Steps until a draft that is too dear at present is thought of again."""
WORTH = 1.02
"""Predicted speed, against plain steps, from which on a draft is made."""
ALLOWED_SHARE, ALLOWED_TOKENS = 0.006, 3
"""Time that trials may lose: a share of all time so far, and what so many plain tokens take."""
LOOK_S, LOOK_SHARE, LONGEST_SILENCE = 60e-6, 0.01, 16
"""Seconds it costs to look for a guess and to keep accounts of a step (ten times what it takes in a loop of its own:
the weights have pushed it out of the processor's cache), the share of the time that may cost where nobody has a guess,
and the most steps between two looks."""
SLEEP = 32
"""Steps without a look while no drafter pays. A text may begin to repeat itself in a new way at any time."""
HOPE = 0.75
"""Acceptance that a drafter nobody has tried yet is believed to have."""
FORGET = 0.97
"""How much of the past counts a draft later."""


def drafter_of(kind: str) -> str:
    """Return who makes a kind of draft: of `ngram 6`, `ngram`."""
    return kind.partition(" ")[0]


class StepCosts:
    """How long a step of so many rows takes; ratios to one row, since that changes with the context and the machine.

    Args:
        most: Rows of the longest step.
    """

    def __init__(self, most: int) -> None:
        self._one: deque[float] = deque(maxlen=15)
        self._plain: deque[float] = deque(maxlen=15)
        self._seen: dict[int, deque[float]] = {}
        self._plains = 0
        self._guesses = 0  # records until the rows nobody measured are guessed anew
        self.ratios = [0.0, *(1 + 0.2 * more for more in range(most))]
        self.one = 0.0
        self.plain = 0.0

    def record(self, rows: int, decode_s: float, whole_s: float) -> None:
        """Take the times of a step: of the decode alone, and from its beginning to that of the next one."""
        if rows == 1:
            self._one.append(decode_s)
            self._plain.append(whole_s)
            self._plains += 1
            if self._plains < 16 or not self._plains & 3:  # a median takes microseconds, and such a step may be short
                self.one, self.plain = median(self._one), median(self._plain)
        elif self.one:
            seen = self._seen.get(rows)
            if seen is None:
                seen = self._seen[rows] = deque(maxlen=7)
                self._guesses = 0
            seen.append(decode_s / self.one)
            self.ratios[rows] = median(seen)
            self._guesses -= 1
            if self._guesses <= 0:
                self._guess()

    def _guess(self) -> None:
        """Guess the ratios of rows that were not measured from those that were."""
        self._guesses = 16
        known = sorted({1, *self._seen})
        for rows in range(2, len(self.ratios)):
            if rows in self._seen:
                continue
            below = max(one for one in known if one < rows)
            above = min((one for one in known if one > rows), default=0)
            low = self.ratios[below]
            # Beyond the longest: half the slope so far, so that longer drafts are tried once rather than never.
            slope = (self.ratios[above] - low) / (above - below) if above else 0.5 * (low - 1) / max(1, below - 1)
            self.ratios[rows] = low + max(0.02, slope) * (rows - below)

    @property
    def between(self) -> float:
        """Seconds of a token outside the decode: sampling, text."""
        return max(0.0, self.plain - self.one)


@dataclass(slots=True)
class Track:
    """What is known of one kind of draft.

    Args:
        right, tried: Drafted tokens that were accepted, and that were judged; older ones count less.
        cost: Seconds to draft one token, typically.
        left: Drafts still to be made before it is judged.
        pause: Step at which it is looked at again; 0 when it may draft.
        refused: Whether it pauses since it did not pay, and not since nothing may be lost at present.
        next_pause: The pause after the next verdict against it.
        best: Length that promises most, and the speed it promises against plain steps.
    """

    right: float = 0.0
    tried: float = 0.0
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    cost: float = 0.0
    left: int = TRIAL
    pause: int = 0
    refused: bool = False
    next_pause: int = FIRST_PAUSE
    best: tuple[int, float] | None = None

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens that are accepted, with two hopeful ones before the first."""
        return (self.right + 2 * HOPE) / (self.tried + 2)


class DraftPolicy:
    """Chooses drafts.

    Args:
        longest: Most tokens of a draft.
        shortest: Fewest; shorter ones are not worth a verification.
        measured: Drafts only where that is faster, and little is lost on finding out. Without it, whatever
            can draft does, and only the length follows the measurements.
    """

    def __init__(self, longest: int, shortest: int, *, measured: bool) -> None:
        self.longest = longest
        self.shortest = max(1, shortest)
        self.measured = measured
        self.costs = StepCosts(longest + 1)
        self.tracks: dict[str, Track] = {}
        self._awake: dict[str, int] = {}  # kinds of each drafter that may draft
        self._steps = 0
        self._plain_until = PLAIN_FIRST
        self._drafted_in_a_row = 0
        self._elapsed = 0.0
        self._loss = 0.0

    def plain_turn(self) -> bool:
        """Whether the next step is to be a plain one whatever can be drafted; called once a step."""
        self._steps += 1
        return self._steps <= self._plain_until or self._drafted_in_a_row >= PLAIN_AGAIN

    def sleep(self) -> int:
        """Return how many plain steps to take without asking or timing anything; they count as taken.

        0 while something may draft, or has not been judged yet.
        """
        if not self._awake or any(self._awake.values()):
            return 0
        longest = max(SLEEP, 4 * self._silence())
        count = min(longest, min(track.pause for track in self.tracks.values()) - self._steps)
        if count <= 0:
            return 0
        self._plain_until = self._steps + count + PLAIN_AGAIN_FIRST
        return self._skip(count)

    def nobody_guesses(self) -> int:
        """Return how many further plain steps to take before asking again, when nobody had a guess for this one."""
        return self._skip(self._silence() - 1) if self.measured and self._steps > PLAIN_FIRST else 0

    def _silence(self) -> int:
        """Return the steps from look to look while nobody has a guess: to a small model each of them is dear."""
        return max(1, min(LONGEST_SILENCE, round(LOOK_S / max(1e-9, LOOK_SHARE * self.costs.plain))))

    def _skip(self, count: int) -> int:
        self._steps += count
        self._elapsed += count * self.costs.plain
        return count

    def worth_looking(self, drafter: str) -> bool:
        """Whether to ask a drafter at all: one whose drafts do not pay is asked at every fourth step only."""
        return bool(self._awake.get(drafter, 1)) or not self._steps & 3

    def length(self, kind: str, room: int, extra_s: float = 0.0) -> int:
        """Return how many tokens to draft, 0 for none.

        Args:
            kind: What would draft, such as `model`.
            room: Most tokens that the context and the batch have room for.
            extra_s: Seconds it would take to bring the drafter up to date first.
        """
        track = self.tracks.get(kind) or self._new_track(kind)
        if track.pause:
            if self._steps < track.pause:
                return 0
            track.pause = 0
            self._awake[drafter_of(kind)] += 1
            if track.refused:  # it may be another part of the text now: the past counts little
                track.refused = False
                track.left, track.best, track.right, track.tried = RETRIAL, None, 0.3 * track.right, 0.3 * track.tried
        count, speed = track.best or self._best(track)
        if self.measured:
            on_trial = track.left > 0
            if not on_trial and speed < WORTH:
                self._put_off(kind, track)
                return 0
            if not self._may_lose(count, track, extra_s, on_trial=on_trial):
                self._rest(kind, track, WAIT)
                return 0
        return 0 if room < self.shortest else min(count, room)

    def speed(self, kind: str) -> float:
        """Return the speed that a kind of draft promises, against plain steps."""
        track = self.tracks.get(kind)
        return (track.best or self._best(track))[1] if track else 0.0

    def record_plain(self, decode_s: float, whole_s: float) -> None:
        """Take the times of a step without a draft."""
        self._drafted_in_a_row = 0
        self._elapsed += whole_s
        self.costs.record(1, decode_s, whole_s)

    def record(self, kind: str, drafted: int, accepted: int, draft_s: float, decode_s: float, whole_s: float) -> None:
        """Take what a draft cost and how much of it was right.

        Args:
            kind: What drafted.
            drafted: Tokens guessed.
            accepted: Those of them that were drawn.
            draft_s: Seconds of drafting.
            decode_s: Seconds of the verification.
            whole_s: Seconds from the beginning of the draft to that of the next step.
        """
        track = self.tracks.get(kind) or self._new_track(kind)
        track.right = track.right * FORGET + accepted
        track.tried = track.tried * FORGET + accepted + (accepted < drafted)
        track.costs.append(draft_s / drafted)
        track.cost = median(track.costs)
        track.left = max(0, track.left - 1)
        self.costs.record(drafted + 1, decode_s, whole_s)
        track.best = self._best(track)
        self._drafted_in_a_row += 1
        self._elapsed += whole_s
        lost = whole_s - (accepted + 1) * self.costs.plain
        limit = 20 * self.costs.plain  # a hiccup of the machine is not the draft's fault, its own time is
        self._loss = max(-limit, self._loss + min(lost, limit + draft_s))
        if self.measured and not track.left:
            if track.best[1] < WORTH:
                self._put_off(kind, track)
            else:
                track.next_pause = FIRST_PAUSE

    def record_nothing(self, kind: str, draft_s: float) -> None:
        """Take the time of a draft that came to nothing."""
        track = self.tracks.get(kind) or self._new_track(kind)
        track.left = max(0, track.left - 1)
        self._elapsed += draft_s
        self._loss += draft_s

    @property
    def plain_s(self) -> float:
        """Seconds a token takes without drafts; 0 when not known yet."""
        return self.costs.plain

    def _best(self, track: Track) -> tuple[int, float]:
        """Return the length that promises most, and its speed against plain steps."""
        costs, rate = self.costs, min(track.acceptance, 0.995)
        best, fastest = self.shortest, 0.0
        tokens = sum(rate**place for place in range(self.shortest))
        for count in range(self.shortest, self.longest + 1):
            tokens += rate**count
            seconds = count * track.cost + costs.ratios[count + 1] * costs.one + tokens * costs.between
            if seconds and (speed := tokens * costs.plain / seconds) > fastest:
                best, fastest = count, speed
        return best, fastest

    def _may_lose(self, count: int, track: Track, extra_s: float, *, on_trial: bool) -> bool:
        """Whether what was lost so far leaves room for what this draft loses at worst."""
        costs = self.costs
        at_risk = extra_s
        if on_trial:
            at_risk += count * track.cost + (costs.ratios[count + 1] - 1) * costs.one
        return self._loss + at_risk <= ALLOWED_TOKENS * costs.plain + ALLOWED_SHARE * self._elapsed

    def _new_track(self, kind: str) -> Track:
        drafter = drafter_of(kind)
        self._awake[drafter] = self._awake.get(drafter, 0) + 1
        self.tracks[kind] = track = Track()
        return track

    def _put_off(self, kind: str, track: Track) -> None:
        self._rest(kind, track, track.next_pause)
        track.refused = True
        track.next_pause = min(LONGEST_PAUSE, 2 * track.next_pause)

    def _rest(self, kind: str, track: Track, steps: int) -> None:
        if not track.pause:
            self._awake[drafter_of(kind)] -= 1
        track.pause = self._steps + steps
