"""Whether to draft, by whom and how far, decided from what steps and drafts really cost and how often they are right.

With acceptance `a` and `g` drafted tokens a step gives (1 - a^(g+1)) / (1 - a) tokens (Leviathan 2022,
arXiv:2211.17192, equation 1). What it costs is measured, not assumed: on a CPU a batch of two can take twice the
time of one token, and the cost of more grows unevenly.

How right a drafter is, is seen first on text that was written without it: that costs little or nothing. Only one that
promises to pay gets a batch. All that may be lost by finding out comes from a purse, into which a small share of all
time goes, and what drafts have won. Plain Python without llama.cpp, since nothing here computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from localknobs.engine.draft_costs import SURE, StepCosts
from localknobs.engine.drafters import Drafter, Verdict

PLAIN_FIRST = 3
"""Steps without a draft at the very beginning: what everything else is measured against."""
PLAIN_AGAIN = 48
"""Steps with a draft after which one without is taken, so that the measure stays fresh."""
EARNED = 0.012
"""Share of all time, that of reading prompts too, which may be lost by finding out."""
MOST_EARNED, MOST_WON = 3, 16
"""Plain tokens' time that the purse may hold of what was earned, and with what drafts have won."""
DEBT, MOST_DEBT = 0.25, 2
"""Plain tokens' time of debt from which on nothing is even looked at: where nothing promises to pay, and at all."""
NEEDED = 3
"""Judged tokens without which a kind of draft is not believed in."""
HEARD = 13
"""Tokens of an answer without which no audition is held."""
TRIALS = 2
"""Drafts that are hoped to be cheap before their measured cost decides; one again after every pause."""
FIRST_PAUSE, LONGEST_PAUSE = 64, 2048
"""Steps until a drafter that did not pay is looked at again; doubled each time it still does not."""
WORTH = 1.02
"""Predicted speed, against plain steps, from which on a draft is made."""
LOOK_SHARE = 0.005
"""Share of the time that looking for a guess and keeping accounts may cost where nobody has one."""
ACCOUNTS = 3
"""What a look costs with the accounts before and after it, against the look alone."""
LONGEST_REST = 32
"""Most steps without a look. A text may begin to repeat itself at any time."""
HOPE = 0.75
"""Acceptance that a drafter is believed to have before anything was judged."""
FORGET = 0.97
"""How much of the past counts a draft later."""


def drafter_of(kind: str) -> str:
    """Return who makes a kind of draft: of `ngram 6`, `ngram`."""
    return kind.partition(" ")[0]


@dataclass(slots=True)
class Track:
    """What is known of one kind of draft.

    Args:
        share: Guess of what drafting a token costs against a plain one, until it was measured.
        less_sure: The kind before it, which is right less often; what is known of that counts here too.
        auditions: Whether judging it takes work.
        right, tried: Judged tokens that were right, and all; older ones count less.
        rate: Share of the steps in which it has a guess.
        costs: Seconds to draft one token.
        cost: Typically.
        trials: Drafts still to be made whose cost is hoped for rather than measured.
        pause: Step until which it rests.
        next_pause: Steps of the next pause.
        won: Seconds that its drafts have won so far, less than 0 if they lost.
        best: Length that promises most, the speed it promises against plain steps, and the seconds it wins;
            None to be computed anew.
    """

    share: float
    less_sure: Track | None = None
    auditions: bool = False
    right: float = 0.0
    tried: float = 0.0
    rate: float = 0.0
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    cost: float = 0.0
    trials: int = TRIALS
    pause: int = 0
    next_pause: int = FIRST_PAUSE
    won: float = 0.0
    best: tuple[int, float, float] | None = None

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens that are accepted, with two hopeful ones before the first."""
        hope = self.less_sure.acceptance if self.less_sure and self.less_sure.tried >= NEEDED else HOPE
        return (self.right + 2 * hope) / (self.tried + 2)

    @property
    def believed(self) -> bool:
        """Whether enough was judged."""
        return self.tried >= NEEDED or (self.less_sure is not None and self.less_sure.believed)


class DraftPolicy:
    """Chooses drafts.

    Args:
        longest: Most tokens of a draft.
        shortest: Fewest; shorter ones are not worth a verification.
        measured: Drafts only where that is faster, and little is lost on finding out. Without it, whatever
            can draft does, and only the length follows the measurements.
        costs: Of steps, as far as they are known.
    """

    def __init__(self, longest: int, shortest: int, *, measured: bool, costs: StepCosts | None = None) -> None:
        self.longest = longest
        self.shortest = max(1, shortest)
        self.measured = measured
        self.costs = costs or StepCosts(longest + 1)
        self.costs.reach(longest + 1)
        self.tracks: dict[str, Track] = {}
        self._steps = 0
        self._drafted_in_a_row = 0
        self._purse = 0.0

    def add(self, drafter: Drafter) -> None:
        """Know of a drafter's kinds."""
        less_sure: Track | None = None
        for kind in drafter.kinds:
            self.tracks[kind] = less_sure = Track(drafter.share, less_sure, drafter.auditions)

    @property
    def plain_s(self) -> float:
        """Seconds a token takes without drafts; 0 when not known yet."""
        return self.costs.plain

    # ---- what may be spent ----------------------------------------------------------------------

    def earn(self, seconds: float) -> None:
        """Take time that was spent without drafts: of reading a prompt, of plain steps."""
        most = MOST_EARNED * self.costs.plain if self.costs.plain else float("inf")
        self._purse = max(self._purse, min(self._purse + EARNED * seconds, most))

    def spend(self, seconds: float, kind: str = "") -> None:
        """Take time that was lost on finding out, or on what the drafts of a kind need beforehand."""
        self._purse -= seconds
        if kind:
            self.tracks[kind].won -= seconds

    def may_read(self, kind: str) -> float:
        """Return the seconds that a drafter may take to know more of the text."""
        return max(0.0, self._purse, self.tracks[kind].won / 2) if self.measured else float("inf")

    # ---- what is asked before a step ------------------------------------------------------------

    def looks(self) -> bool:
        """Whether anybody is asked at all before this step."""
        costs = self.costs
        if not self.measured or costs.plains < PLAIN_FIRST:
            return costs.plains >= PLAIN_FIRST
        if self._purse >= -DEBT * costs.plain:
            return True
        return self._purse >= -MOST_DEBT * costs.plain and any(map(self._promises, self.tracks.values()))

    def plain_turn(self) -> bool:
        """Whether the next step is to be a plain one whatever can be drafted."""
        return self._drafted_in_a_row >= PLAIN_AGAIN

    def asks(self, kind: str) -> bool:
        """Whether a drafter is asked now: one whose auditions cost something rests after a bad one."""
        track = self.tracks[kind]
        return not self.measured or not track.auditions or self._steps >= track.pause

    def hears(self, kind: str, written: int, price_s: float) -> float:
        """Return the seconds that an audition may take now, 0 for none."""
        track = self.tracks[kind]
        if not self.measured or not track.auditions or track.believed or written < HEARD:
            return 0.0
        return self._purse if price_s <= self._purse else 0.0

    def length(self, kind: str, room: int, extra_s: float = 0.0) -> int:
        """Return how many tokens to draft, 0 for none.

        Args:
            kind: What would draft, such as `model`.
            room: Most tokens that the context and the batch have room for.
            extra_s: Seconds it would take to bring the drafter up to date first.
        """
        track = self.tracks[kind]
        if not self.measured:
            count = (track.best or self._best(track))[0]
            return 0 if room < self.shortest else min(count, room)
        if not track.believed:
            return 0
        if not track.trials and not track.auditions and self._steps >= track.pause:
            self._pause(track)
        count, speed, _ = track.best or self._best(track)
        if speed < WORTH:
            if track.auditions:  # after the pause it is judged anew
                self._pause(track)
                track.right = track.tried = 0.0
            return 0
        if room < self.shortest:
            return 0
        most = max(0.0, self._purse, track.won / 2 if extra_s else 0.0)
        for shorter in range(min(count, room), self.shortest - 1, -1):
            if extra_s + self._at_risk(track, shorter) <= most:
                return shorter
        return 0

    def speed(self, kind: str) -> float:
        """Return the speed that a kind of draft promises, against plain steps."""
        return (self.tracks[kind].best or self._best(self.tracks[kind]))[1]

    def rest(self) -> int:
        """Return how many further plain steps to take before asking again, when nobody had a guess for this one."""
        costs = self.costs
        if not self.measured or costs.plains < PLAIN_FIRST:
            return 0
        if not self.looks():
            return LONGEST_REST
        look_s = ACCOUNTS * costs.look
        silence = max(1, min(LONGEST_REST, round(look_s / (LOOK_SHARE * costs.plain)))) - 1
        if not silence:
            return 0
        # Looking at every step pays where guesses that pay, and may be made, are frequent enough.
        wins, most = 0.0, max(0.0, self._purse)
        for track in self.tracks.values():
            if not track.auditions and track.rate and self._promises(track):
                count, _, won = track.best or self._best(track)
                if self._at_risk(track, count) <= most or self._at_risk(track, self.shortest) <= most:
                    wins += track.rate * won
        return 0 if wins > 2 * look_s else silence

    # ---- what is learned ------------------------------------------------------------------------

    def judged(self, drafter: Drafter, steps: int, verdicts: Sequence[Verdict]) -> None:
        """Take how right a drafter was, or would have been, in the last so many steps."""
        if steps:
            fade = 0.98**steps
            for kind in drafter.kinds:
                self.tracks[kind].rate *= fade
        for verdict in verdicts:
            track = self.tracks[verdict.kind]
            fade = FORGET**verdict.drafts
            track.right = track.right * fade + verdict.right
            track.tried = track.tried * fade + verdict.tried
            if steps:
                track.rate += (1 - 0.98**steps) * verdict.drafts / steps
        if verdicts:
            for kind in drafter.kinds:  # what is known of one counts for the next
                self.tracks[kind].best = None

    def heard(self, drafter: Drafter, verdicts: Sequence[Verdict]) -> None:
        """Take what came of an audition; where that says nothing, the drafter rests."""
        self.judged(drafter, 0, verdicts)
        track = self.tracks[drafter.kinds[0]]
        if not track.believed:
            self._pause(track)

    def record_plain(self, decode_s: float, whole_s: float, count: int = 1) -> None:
        """Take the times of steps without a draft: of one's decode alone, and of a whole one, typically."""
        self._steps += count
        self._drafted_in_a_row = 0
        if whole_s:
            self.costs.record_plain(decode_s, whole_s)
        self.earn(count * (whole_s or self.costs.plain))

    def record(self, kind: str, drafted: int, accepted: int, draft_s: float, decode_s: float, whole_s: float) -> None:
        """Take what a draft cost.

        Args:
            kind: What drafted.
            drafted: Tokens guessed.
            accepted: Those of them that were drawn.
            draft_s: Seconds of drafting.
            decode_s: Seconds of the verification.
            whole_s: Seconds from the beginning of the draft to that of the next step.
        """
        track, costs = self.tracks[kind], self.costs
        self._steps += accepted + 1
        self._drafted_in_a_row += 1
        track.costs.append(draft_s / drafted)
        if len(track.costs) >= SURE:
            track.cost = median(track.costs)
        else:
            track.cost = min(*track.costs, track.share * costs.one or draft_s)
        track.trials = max(0, track.trials - 1)
        costs.record_batch(drafted + 1, decode_s, whole_s - draft_s - decode_s - (accepted + 1) * costs.between)
        track.best = None
        # From typical times: a hiccup of the machine is not the draft's fault.
        ratio = min(costs.ratios[drafted + 1], drafted + 1.0)
        seconds = drafted * track.cost + ratio * costs.one + costs.overhead
        won = (accepted + 1) * (costs.plain - costs.between) - seconds
        track.won += won
        self.earn((accepted + 1) * costs.plain)
        self._purse = min(self._purse + won, max(self._purse, MOST_WON * costs.plain))
        if won > 0 and track.won > 0:
            track.next_pause = FIRST_PAUSE

    # ---- how ------------------------------------------------------------------------------------

    def _promises(self, track: Track) -> bool:
        return track.believed and (track.best or self._best(track))[1] >= WORTH

    def _best(self, track: Track) -> tuple[int, float, float]:
        """Return the length that promises most, its speed against plain steps, and the seconds it wins."""
        costs, rate = self.costs, min(track.acceptance, 0.995)
        ratios = costs.hoped if self.measured and track.trials else costs.ratios
        cost = track.cost or track.share * costs.one
        longest = self.longest
        if self.measured:  # no leap in the dark: twice what was measured
            longest = min(longest, max(self.shortest, 3, 2 * (costs.longest_seen - 1)))
        best, fastest, most = self.shortest, 0.0, 0.0
        tokens = sum(rate**place for place in range(self.shortest))
        for count in range(self.shortest, longest + 1):
            tokens += rate**count
            seconds = count * cost + ratios[count + 1] * costs.one + tokens * costs.between + costs.overhead
            if seconds and (speed := tokens * costs.plain / seconds) > fastest:
                best, fastest, most = count, speed, tokens * costs.plain - seconds
        track.best = best, fastest, most
        return track.best

    def _at_risk(self, track: Track, count: int) -> float:
        """Return the seconds that a draft is expected to lose where what was not measured may be dear."""
        costs, rate = self.costs, track.acceptance
        tokens = sum(rate**place for place in range(count + 1))
        cost = track.cost or track.share * costs.one
        seconds = count * cost + costs.feared(count + 1) * costs.one + tokens * costs.between + costs.overhead
        return seconds - tokens * costs.plain

    def _pause(self, track: Track) -> None:
        """Let a kind rest; the cost of one more draft is hoped for, and what nobody looked at for long is doubted."""
        if track.next_pause == LONGEST_PAUSE:
            self.costs.doubt()
        track.trials = max(1, track.trials)
        track.pause = self._steps + track.next_pause
        track.next_pause = min(LONGEST_PAUSE, 2 * track.next_pause)
        track.best = None
