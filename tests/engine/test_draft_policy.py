"""Who drafts and how far, on a clock that the test moves: what wins is used, what loses costs next to nothing.

The steps, the policy and the drafter of the text's own repetitions are the real ones; the model, the clock and a
drafter of chosen skill are pretended.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from localknobs.engine import speculation, steps
from localknobs.engine.draft_costs import StepCosts
from localknobs.engine.draft_policy import DraftPolicy
from localknobs.engine.drafter_ngram import NgramDrafter
from localknobs.engine.drafters import Verdict
from localknobs.engine.speculation import SpeculativeSteps, Tally

# Time of a batch against one token's, by rows, as measured on two cores: F32, F16, and Q8_0 of one core.
STEEP = [0, 1, 2.6, 3.0, 3.4, 4.2, 4.6, 4.9, 5.1, 6.0]
MIDDLE = [0, 1, 1.6, 1.72, 1.81, 1.99, 2.18, 2.5, 2.84, 3.05]
FLAT = [0, 1, 1.19, 1.28, 1.35, 1.41, 1.48, 1.65, 1.85, 1.94]
OUTSIDE = 0.02
"""Time of drawing a token and sending it, against its decode."""
READING = 0.3
"""Time of reading a token of a prompt, against writing one."""


@dataclass
class Machine:
    """A clock, and a model whose next tokens are known beforehand.

    Args:
        rows: Time of a batch against one token's, by its rows.
        token_s: Seconds of one token.
        noise: Spread of every time; one in a hundred is eight times as long.
        seed: Of all that is random.
    """

    rows: list[float]
    token_s: float = 0.02
    noise: float = 0.1
    seed: int = 1
    now: float = 0.0
    work: float = 0.0  # the same without noise, by which speeds are compared
    text: list[int] = field(default_factory=list)  # all of it, the future too
    tokens: list[int] = field(default_factory=list)  # what the cache holds
    ahead: int = 0

    def __post_init__(self) -> None:
        self.luck = random.Random(self.seed)
        self.model = SimpleNamespace(
            batch_size=512, decode=self.decode_all, decode_all=self.decode_all, drop_last=lambda count: True
        )

    room = 10_000

    def took(self, tokens: float) -> None:
        hiccup = 8 if self.luck.random() < 0.01 else 1
        self.now += self.token_s * tokens * self.luck.lognormvariate(0, self.noise) * hiccup
        self.work += self.token_s * tokens

    def decode_all(self, tokens: Sequence[int]) -> int:
        self.took(self.rows[len(tokens)])
        return 0

    def add(self, tokens: Sequence[int]) -> int:
        self.tokens += tokens
        return self.decode_all(tokens)


@dataclass(eq=False)
class Guesser:
    """A draft model of chosen skill.

    Args:
        machine: Knows the future.
        acceptance: Chance that a token it guesses is right.
        share: Time of one of its tokens, against one of the model's.
        match: Chance that it has anything to guess.
        reading: Time in which it reads a token, against one that it writes.
    """

    machine: Machine
    acceptance: float
    share: float
    match: float = 1.0
    reading: float = READING
    name = "one"
    kinds: tuple[str, ...] = ("one",)
    auditions = True
    read_s = 0.0
    known = 0

    def _guessed(self, place: int, count: int) -> list[int]:
        text = self.machine.text
        return [text[at] if self.machine.luck.random() < self.acceptance else -1 for at in range(place, place + count)]

    def __post_init__(self) -> None:
        self.guess: list[int] = []

    def follow(self, tokens: Sequence[int], *, judge: bool) -> tuple[int, list[Verdict]]:
        guess, self.guess = self.guess, []
        right = next((at for at, token in enumerate(guess) if token < 0), len(guess))
        return (1, [Verdict("one", 1, right, right + (right < len(guess)))]) if guess else (0, [])

    def price(self, tokens: Sequence[int]) -> float:
        return 16 * self.reading * self.share * self.machine.token_s

    def audition(self, tokens: Sequence[int], written: int, allowed_s: float) -> list[Verdict]:
        self.machine.took(16 * self.reading * self.share)
        self.known = len(tokens)
        right = sum(token >= 0 for token in self._guessed(0, 12))
        return [Verdict("one", 1, right, 12)]

    def look(self, tokens: Sequence[int], allowed_s: float) -> tuple[str, float] | None:
        if self.machine.luck.random() >= self.match:
            return None
        behind = min(64, len(tokens) - self.known)
        return "one", max(0, behind - 10) * self.share * self.reading * self.machine.token_s

    def draft(self, tokens: Sequence[int], count: int) -> list[int]:
        began = self.machine.now
        behind, self.known = min(64, len(tokens) - self.known), len(tokens)
        self.machine.took(max(0, behind - 10) * self.share * self.reading)
        self.read_s = self.machine.now - began
        self.machine.took(count * self.share)
        self.guess = self._guessed(len(tokens), count)
        return list(self.guess)


@pytest.fixture
def write(monkeypatch):
    """Return a function that writes so many tokens on a pretended clock, and returns the speed against plain steps.

    The time of reading the prompt counts on both sides. Looking and keeping accounts take 60 microseconds a step.
    """

    def write(machine: Machine, policy: DraftPolicy, drafter, tokens: int, prompt: Sequence[int]) -> float:
        monkeypatch.setattr(speculation, "perf_counter", lambda: machine.now)
        monkeypatch.setattr(steps, "perf_counter", lambda: machine.now)
        began = machine.work
        machine.took(READING * len(prompt))
        policy.earn(machine.work - began)
        threads = SimpleNamespace(took_one=lambda seconds: None)
        run = SpeculativeSteps(machine, threads, (drafter,), policy, Tally())  # type: ignore[arg-type]
        looks = policy.looks
        monkeypatch.setattr(policy, "looks", lambda: (machine.took(60e-6 / machine.token_s), looks())[1])
        machine.tokens[:] = prompt
        for at in range(tokens):
            machine.took(OUTSIDE)
            run.advance(machine.text[len(prompt) + at])
        run.settle()
        monkeypatch.setattr(policy, "looks", looks)
        plain = READING * len(prompt) + tokens * (1 + OUTSIDE)
        return plain * machine.token_s / (machine.work - began)

    return write


def guessing(rows: list[float], acceptance: float, share: float, *, seed: int = 1, measured: bool = True, **more):
    """Return a machine, a policy, and its drafter of chosen skill."""
    machine = Machine(rows, seed=seed)
    machine.text = list(range(20_000))
    guesser = Guesser(machine, acceptance, share, **more)
    policy = DraftPolicy(8, 0, measured=measured)
    policy.add(guesser)
    return machine, policy, guesser


LOSING = {
    "nothing is right": (FLAT, 0.02, 0.125),
    "hardly anything is right": (FLAT, 0.15, 0.125),
    "a batch is dear": (STEEP, 0.7, 0.125),
    "the draft is as large as the model": (MIDDLE, 0.9, 1.0),
    "a draft of half the size": (MIDDLE, 0.6, 0.5),
    "it just does not pay": (MIDDLE, 0.45, 0.1),
}


@pytest.mark.parametrize("tokens", [60, 256, 1000])
@pytest.mark.parametrize("case", LOSING)
def test_what_does_not_pay_costs_next_to_nothing_in_a_first_answer(case, tokens, write):
    found = []
    for seed in range(max(10, 4000 // tokens)):
        machine, policy, guesser = guessing(*LOSING[case], seed=seed)
        found.append(write(machine, policy, guesser, tokens, range(50)))
    assert sum(found) / len(found) > 0.97, found


WINNING = {
    "a small draft that is mostly right": (MIDDLE, 0.85, 0.125, 1.25),
    "acceptance of 0.7 where batches are cheap": (FLAT, 0.7, 0.125, 1.3),
    "nearly everything is right": (STEEP, 0.97, 0.02, 1.15),
}


@pytest.mark.parametrize("case", WINNING)
@pytest.mark.parametrize("measured", [True, False])
def test_what_pays_is_found_and_used(case, measured, write):
    *settings, least = WINNING[case]
    found = []
    for seed in range(16):
        machine, policy, guesser = guessing(*settings, seed=seed, measured=measured)
        found.append(write(machine, policy, guesser, 800, range(50)))
    assert sum(found) / len(found) > least, found


def test_short_answers_of_one_conversation_lose_little_together(write):
    found = []
    for seed in range(30):
        machine, policy, guesser = guessing(MIDDLE, 0.1, 0.125, seed=seed)
        found += [write(machine, policy, guesser, 60, range(50)) for _ in range(20)]
    assert sum(found) / len(found) > 0.98


def test_a_drafter_that_begins_to_be_right_is_found_again(write):
    before, after, again = [], [], []
    for seed in range(8):
        machine, policy, guesser = guessing(MIDDLE, 0.05, 0.05, seed=seed)
        before.append(write(machine, policy, guesser, 400, range(50)))
        guesser.acceptance = 0.95
        after.append(write(machine, policy, guesser, 2000, range(50)))
        guesser.acceptance = 0.05
        again.append(write(machine, policy, guesser, 800, range(50)))
    assert sum(before) / 8 > 0.97 and sum(after) / 8 > 1.5 and sum(again) / 8 > 0.95, (before, after, again)


@pytest.mark.parametrize(("token_s", "least"), [(0.05, 0.99), (0.0025, 0.98), (0.0005, 0.97)])
def test_looking_for_repetitions_in_a_text_without_any_costs_little_of_a_small_model_too(token_s, least, write):
    machine = Machine(FLAT, token_s=token_s)
    machine.text = [machine.luck.randrange(3000) for _ in range(20_000)]
    policy = DraftPolicy(8, 0, measured=True)
    policy.add(drafter := NgramDrafter(3, 8))
    assert write(machine, policy, drafter, 10_000, machine.text[:50]) > least


@pytest.mark.parametrize("token_s", [0.05, 0.0025])
def test_repetitions_are_used_and_accidental_ones_are_not(token_s, write):
    def speed(text):
        machine = Machine(MIDDLE, token_s=token_s, text=text)
        policy = DraftPolicy(8, 0, measured=True)
        policy.add(drafter := NgramDrafter(3, 8))
        return write(machine, policy, drafter, 4000, text[:50])

    luck = random.Random(1)
    # Of four tokens: the last three nearly always stood somewhere, and say nothing of the next.
    assert speed([luck.randrange(4) for _ in range(5000)]) > 0.97
    page = [luck.randrange(500) for _ in range(400)]
    assert speed([token if luck.random() > 0.03 else luck.randrange(500) for token in page * 13]) > 1.3


def test_the_length_follows_the_acceptance_within_its_limits(write):
    def lengths(acceptance, **limits):
        machine, _, guesser = guessing(MIDDLE, acceptance, 0.1, measured=False)
        policy = DraftPolicy(**{"longest": 8, "shortest": 0, "measured": False, **limits})
        policy.add(guesser)
        write(machine, policy, guesser, 600, range(10))
        return policy.length("one", 8)

    assert lengths(0.3) < lengths(0.75) <= lengths(0.98) == 8
    assert lengths(0.98, longest=5) == 5 and lengths(0.05, shortest=4) >= 4
    assert lengths(0.5, shortest=4) and not guessing(MIDDLE, 0.5, 0.1)[1].length("one", 0)


def test_costs_between_and_beyond_what_was_seen():
    costs = StepCosts(9)
    assert costs.hoped[4] < costs.feared(4)
    costs.record_plain(1.0, 1.1)
    costs.record_batch(4, 2.0, 0.05)
    assert costs.ratios[1] == 1 and costs.ratios[4] == 2
    assert costs.ratios[2] == pytest.approx(1 + 1 / 3) and costs.ratios[3] == pytest.approx(1 + 2 / 3)
    assert 2 < costs.ratios[5] < costs.ratios[8] < 3.5
    assert costs.between == pytest.approx(0.1) and costs.overhead == 0.05
    costs.record_batch(4, 900.0, 0.0)
    assert costs.ratios[4] < 6  # that was the machine: no batch takes so many single tokens
    for _ in range(3):
        costs.record_batch(4, 2.0, 0.0)
    assert costs.hoped[4] == costs.feared(4) == 2
    costs.doubt()
    assert costs.hoped[4] < 2 < costs.feared(8)
    costs.reach(12)
    assert len(costs.ratios) == len(costs.hoped) == 13
