"""Speculative decoding: several tokens are guessed, and the model checks all of them in one batch.

The checking is *sample and match*: at every guessed place the token is drawn from the model's own logits by the
answer's own sampler, and what was drawn is what is written. A guess that is the same saves a decode; one that is
not is thrown away. So the distribution is exactly that of plain decoding, the sampler sees exactly the tokens that
are kept, and knobs, stop texts and limits work between any two tokens. The random numbers are the same ones too:
where a batch gives the same logits to the bit as single tokens (which depends on the weights' type), so is the text.

Source: Leviathan 2022, arXiv:2211.17192; sample-and-match as in llama.cpp common/sampling.cpp.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from time import perf_counter

from localknobs.engine.cache import TokenCache
from localknobs.engine.draft_policy import DraftPolicy, drafter_of
from localknobs.engine.drafters import Drafter
from localknobs.engine.steps import LAST_ROW, PlainSteps
from localknobs.engine.threads import AdaptiveThreads


@dataclass(slots=True)
class Tally:
    """Counts of one answer's drafts.

    Args:
        drafted, accepted: Tokens.
        tokens: Tokens of the steps with a guess that are over.
        seconds: Time of these steps.
        plain_seconds: What the same tokens would have taken one by one, as it was measured at that time.
        accepted_of: Tokens accepted, by who guessed them: `ngram`, `model`.
    """

    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    seconds: float = 0.0
    plain_seconds: float = 0.0
    accepted_of: Counter[str] = field(default_factory=Counter)

    def gain(self, tokens: int, plain_s: float) -> float:
        """Return the speed of an answer against the same without drafts; 0 when nothing was guessed.

        Args:
            tokens: Of the whole answer; those without a guess take the same time either way.
            plain_s: Seconds of one of them.
        """
        if not self.seconds:
            return 0.0
        others = max(0, tokens - self.tokens) * plain_s
        return (self.plain_seconds + others) / (self.seconds + others)


@dataclass(slots=True)
class _Step:
    """The step being worked on: who guessed, rows of its batch, guesses accepted, and when its parts began."""

    kind: str
    rows: int
    accepted: int
    began: float
    drafted_at: float
    decoded_at: float


class SpeculativeSteps:
    """Steps that look ahead; of one answer.

    Args:
        cache: Of the model that writes.
        threads: Takes the time of plain decodes.
        drafters: Who may guess, the cheapest first.
        policy: Who decides; kept from answer to answer.
        tally: Counts what is guessed.
    """

    def __init__(
        self,
        cache: TokenCache,
        threads: AdaptiveThreads,
        drafters: tuple[Drafter, ...],
        policy: DraftPolicy,
        tally: Tally,
    ) -> None:
        self._cache = cache
        self._threads = threads
        self._drafters = drafters
        self._policy = policy
        self._ahead: deque[int] = deque()  # guessed tokens that the model has computed and nobody has drawn yet
        self._row = 0
        self._step: _Step | None = None
        self._plain = PlainSteps(cache, threads)
        self._asleep = 0  # steps until somebody may guess again
        self.tally = tally

    def advance(self, token: int) -> int:
        """Use the logits that are there when the token was guessed; else decode it, with new guesses behind it."""
        if self._asleep:
            self._asleep -= 1
            return self._plain.advance(token)
        if self._ahead and self._ahead[0] == token:
            self._ahead.popleft()
            self._cache.tokens.append(token)
            self._row += 1
            self.tally.accepted += 1
            if self._step:
                self._step.accepted += 1
            return self._row
        cache = self._cache
        began = perf_counter()
        if self._step:
            self._record(self._step, began)
            self._step = None
        self._drop_ahead()
        if asleep := self._policy.sleep():
            self._asleep = asleep - 1
            return self._plain.advance(token)
        room = min(cache.room, cache.model.batch_size) - 1
        cache.tokens.append(token)
        kind, draft = self._draft(room)
        drawn = perf_counter()
        code = cache.model.decode_all((token, *draft)) if draft else cache.model.decode((token,))
        if code:
            raise cache.failed(code)
        ended = perf_counter()
        self._step = _Step(kind, 1 + len(draft), 0, began, drawn, ended)
        if not draft:
            self._threads.took_one(ended - drawn)
            return LAST_ROW
        self._ahead.extend(draft)
        self._row = 0
        self.tally.drafted += len(draft)
        return 0

    def settle(self) -> None:
        """Take out of the cache what was computed ahead."""
        self._step = None
        self._drop_ahead()

    def _drop_ahead(self) -> None:
        if self._ahead:
            count = len(self._ahead)
            self._ahead.clear()
            if not self._cache.model.drop_last(count):
                raise self._cache.failed(0)

    def _draft(self, room: int) -> tuple[str, list[int]]:
        """Return guesses for what follows the text, and who made them; none when a plain step is better."""
        policy, text = self._policy, self._cache.tokens
        if policy.plain_turn() or room < 1:
            return "", []
        best: tuple[float, int, str, Drafter] | None = None
        for drafter in self._drafters:
            found = drafter.look(text) if policy.worth_looking(drafter.name) else None
            if found and (count := policy.length(found[0], room, found[1])):
                speed = policy.speed(found[0])
                if best is None or speed > best[0]:
                    best = speed, count, found[0], drafter
        if best is None:
            self._asleep = policy.nobody_guesses()
            return "", []
        _, count, kind, drafter = best
        began = perf_counter()
        draft = drafter.draft(text, count)
        if len(draft) < policy.shortest:
            policy.record_nothing(kind, perf_counter() - began)
            return "", []
        return kind, draft

    def _record(self, step: _Step, now: float) -> None:
        decode_s = step.decoded_at - step.drafted_at
        whole_s = now - step.began
        if step.rows == 1:
            # Without the time of a draft that came to nothing: that is not what a plain step takes.
            self._policy.record_plain(decode_s, now - step.drafted_at)
            return
        self.tally.tokens += 1 + step.accepted
        self.tally.seconds += whole_s
        self.tally.plain_seconds += (1 + step.accepted) * self._policy.plain_s
        self.tally.accepted_of[drafter_of(step.kind)] += step.accepted
        draft_s = step.drafted_at - step.began
        self._policy.record(step.kind, step.rows - 1, step.accepted, draft_s, decode_s, whole_s)
