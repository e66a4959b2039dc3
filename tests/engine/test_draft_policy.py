"""Who drafts and how far, on a clock that the test moves: what wins is used, what loses costs next to nothing."""

from __future__ import annotations

import random

import pytest

from localknobs.engine.draft_policy import DraftPolicy, StepCosts

# Time of a batch against one token's, by rows, as measured on two cores: F32, F16, and Q8_0 of one core.
STEEP = [0, 1, 2.6, 3.0, 3.4, 4.2, 4.6, 4.9, 5.1, 6.0]
MIDDLE = [0, 1, 1.6, 1.72, 1.81, 1.99, 2.18, 2.5, 2.84, 3.05]
FLAT = [0, 1, 1.19, 1.28, 1.35, 1.41, 1.48, 1.65, 1.85, 1.94]


def speed(
    policy: DraftPolicy, tokens: int, *, rows: list[float], acceptance: float, cost: float, noise: float = 0.1,
    match: float = 1.0, behind: float = 0.0, seed: int = 1,
) -> float:  # fmt: skip
    """Write so many tokens on a pretended clock; return the speed against plain steps.

    Args:
        policy: Decides.
        tokens: To write.
        rows: Time of a batch against one token's.
        acceptance: Chance that a drafted token is right, each for itself.
        cost: Time of drafting one token, against one token's.
        noise: Spread of every time.
        match: Chance that there is anything to draft.
        behind: Time the drafter needs before its first draft, against one token's.
        seed: Of all that is random.
    """
    luck = random.Random(seed)
    clock, written = 0.0, 0

    def took(seconds: float) -> float:
        return seconds * luck.lognormvariate(0, noise) * (8 if luck.random() < 0.01 else 1)

    asleep = 0
    while written < tokens:
        count = 0
        asleep = asleep - 1 if asleep else policy.sleep()
        if asleep:
            clock, written = clock + took(1) + 0.02, written + 1
            continue
        if not policy.plain_turn() and luck.random() < match:
            count = policy.length("one", 8, behind)
        decode = took(rows[count + 1])
        if count:
            right = next((place for place in range(count) if luck.random() > acceptance), count)
            draft, behind = took(count * cost) + behind, 0.0
            whole = draft + decode + 0.02 * (right + 1)
            policy.record("one", count, right, draft, decode, whole)
        else:
            right, whole = 0, decode + 0.02
            policy.record_plain(decode, whole)
        clock += whole
        written += right + 1
    plain = sum(took(1) + 0.02 for _ in range(20_000)) / 20_000
    return tokens * plain / clock


LOSING = {
    "nothing is right": {"rows": FLAT, "acceptance": 0.02, "cost": 0.125},
    "a batch is dear": {"rows": STEEP, "acceptance": 0.7, "cost": 0.125},
    "the draft is as large as the model": {"rows": MIDDLE, "acceptance": 0.9, "cost": 1.0},
    "rarely anything, and wrong": {"rows": MIDDLE, "acceptance": 0.2, "cost": 0.0, "match": 0.1},
    "a long prompt to catch up with": {"rows": STEEP, "acceptance": 0.6, "cost": 0.125, "behind": 40.0},
}


@pytest.mark.parametrize("case", LOSING)
def test_what_does_not_pay_costs_next_to_nothing(case):
    found = [speed(DraftPolicy(8, 0, measured=True), 500, **LOSING[case], seed=seed) for seed in range(12)]
    assert sum(found) / len(found) > 0.97, found


WINNING = {
    "a small draft that is mostly right": ({"rows": MIDDLE, "acceptance": 0.85, "cost": 0.125}, 1.25),
    "acceptance of 0.7 where batches are cheap": ({"rows": FLAT, "acceptance": 0.7, "cost": 0.125}, 1.3),
    "repetitions": ({"rows": STEEP, "acceptance": 0.97, "cost": 0.0}, 1.15),
}


@pytest.mark.parametrize("case", WINNING)
@pytest.mark.parametrize("measured", [True, False])
def test_what_pays_is_used(case, measured):
    settings, least = WINNING[case]
    found = [speed(DraftPolicy(8, 0, measured=measured), 800, **settings, seed=seed) for seed in range(16)]
    assert sum(found) / len(found) > least, found


def test_a_drafter_that_begins_to_be_right_is_found_again():
    before, after, again = [], [], []
    for seed in range(6):
        policy = DraftPolicy(8, 0, measured=True)
        before.append(speed(policy, 400, rows=MIDDLE, acceptance=0.05, cost=0.05, seed=seed))
        after.append(speed(policy, 2000, rows=MIDDLE, acceptance=0.95, cost=0.05, seed=seed))
        again.append(speed(policy, 800, rows=MIDDLE, acceptance=0.05, cost=0.05, seed=seed))
    assert sum(before) / 6 > 0.95 and sum(after) / 6 > 1.5 and sum(again) / 6 > 0.93


def test_the_length_follows_the_acceptance_within_its_limits():
    def lengths(acceptance, **limits):
        policy = DraftPolicy(**{"longest": 8, "shortest": 0, "measured": False, **limits})
        speed(policy, 600, rows=MIDDLE, acceptance=acceptance, cost=0.1)
        return policy.length("one", 8)

    assert lengths(0.3) < lengths(0.75) <= lengths(0.98) == 8
    assert lengths(0.98, longest=5) == 5 and lengths(0.05, shortest=4) >= 4
    policy = DraftPolicy(8, 4, measured=False)
    assert policy.length("one", 3) == 0  # too little room for the shortest


def test_costs_between_and_beyond_what_was_seen():
    costs = StepCosts(9)
    costs.record(1, 1.0, 1.1)
    costs.record(4, 2.0, 2.2)
    assert costs.ratios[1] == 1 and costs.ratios[4] == 2
    assert costs.ratios[2] == pytest.approx(1 + 1 / 3) and costs.ratios[3] == pytest.approx(1 + 2 / 3)
    assert 2 < costs.ratios[5] < costs.ratios[8] < 3.5
    assert costs.between == pytest.approx(0.1)


def test_while_nothing_pays_nobody_is_asked_and_nothing_timed():
    policy = DraftPolicy(8, 0, measured=True)
    assert policy.sleep() == 0  # nobody was judged yet
    speed(policy, 4000, rows=STEEP, acceptance=0.02, cost=0.2)
    track = policy.tracks["one"]
    while not track.refused or track.pause - policy._steps < 32:  # until it was looked at once more, and refused
        policy.sleep() or policy.plain_turn()
        if count := policy.length("one", 8):
            policy.record("one", count, 0, 0.2, 5.0, 5.3)
    before = policy._steps
    asleep = policy.sleep()
    assert asleep == 32 and policy._steps == before + asleep
    assert policy.plain_turn() and not policy.plain_turn()  # then one step is timed again


def test_where_nobody_has_a_guess_small_models_are_asked_less_often():
    def silence(plain_s, *, measured=True):
        policy = DraftPolicy(8, 0, measured=measured)
        for _ in range(10):
            policy.plain_turn()
            policy.record_plain(0.9 * plain_s, plain_s)
        return policy.nobody_guesses()

    assert silence(20e-3) == 0 and silence(1e-3) == 5 and silence(1e-5) == 15
    assert silence(1e-3, measured=False) == 0
