"""The determinism check: what it finds on real models, and what it concludes from findings no machine here has."""

from __future__ import annotations

import pytest

from localknobs.determinism import DeterminismConfig, Parting, Trial, check_determinism, conclusion
from localknobs.jobs import Advanced, Started, drain
from localknobs.knobs import defaults


def check(engine, events=None, **values):
    config = DeterminismConfig(
        "what was said, and said, and said", {**defaults("sampling"), **values}, runs=3, tokens=12, threads=1
    )
    return drain(check_determinism(engine, config), events.append if events is not None else None)


def trial(verdict, name):
    return next(one for one in verdict.trials if one.name == name)


def test_a_random_seed_is_found_to_be_the_cause(random_model, open_engine):
    events = []
    engine = open_engine(random_model)
    verdict = check(engine, events)
    assert not verdict.repeats and verdict.causes[:2] == ("temperature", "seed")
    assert trial(verdict, "temperature 0").repeats and trial(verdict, "seed").repeats
    parted = trial(verdict, "settings").parting
    assert parted and 0 <= parted.token < 12 and parted.first != parted.second
    assert "do not give the same answer" in verdict.lines[0] and any("--seed" in line for line in verdict.lines)
    (started,) = [event for event in events if isinstance(event, Started)]
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == started.total
    assert engine.settings.threads == 1  # as it was


def test_a_fixed_seed_repeats_and_temperature_0_leaves_nothing_to_draw(random_model, open_engine):
    engine = open_engine(random_model)
    fixed = check(engine, seed=4)
    assert fixed.repeats and "temperature" in fixed.causes and "seed" not in fixed.causes
    cold = check(engine, temp=0.0)
    assert cold.repeats and not {"temperature", "seed", "hardware"} & set(cold.causes)
    assert trial(cold, "other seed").repeats


def test_the_gap_at_the_parting_is_the_difference_of_the_two_scores(random_model, open_engine):
    engine = open_engine(random_model)
    parted = trial(check(engine, seed=4), "other seed").parting
    assert parted.gap >= 0 and 0 < min(parted.before) <= max(parted.before) < 1


def test_stopping_it_leaves_the_engine_usable_with_its_threads(random_model, open_engine):
    engine = open_engine(random_model, threads=2)
    config = DeterminismConfig("abc", defaults("sampling"), runs=3, tokens=8, threads=1)
    for count in (1, 2, 9):
        job = check_determinism(engine, config)
        for _ in range(count):
            next(job)
        job.close()
        assert engine.settings.threads == 2 and engine.count_tokens("abc") == 4


# ---- conclusions


PARTED = Parting(3, " a", " the", (0.4, 0.39), 0.01)
NAMES = ("temperature 0", "settings", "seed", "other seed", "threads", "batch", "cache")


@pytest.mark.parametrize(
    ("parted", "seed", "repeats", "causes"),
    [
        ((), 7, True, ()),
        (("other seed",), 7, True, ("temperature",)),
        (("other seed",), -1, False, ("temperature", "seed")),
        (("settings", "other seed"), -1, False, ("temperature", "seed")),
        (("threads",), 7, True, ("threads",)),
        (("batch", "cache"), 7, True, ("batch", "cache")),
        (("temperature 0", "settings", "seed", "other seed", "batch"), 7, False, ("hardware", "temperature")),
    ],
)
def test_what_follows_from_what(parted, seed, repeats, causes):
    trials = [Trial(name, name, 4, 4, 12, PARTED if name in parted else None, 0.0) for name in NAMES]
    verdict = conclusion(trials, seed)
    assert (verdict.repeats, verdict.causes) == (repeats, causes)
    assert ("do not give the same" in verdict.lines[0]) is not repeats
    assert ("only while" in verdict.lines[0]) == (repeats and bool({"threads", "batch", "cache"} & set(causes)))


def test_scores_that_differ_without_changing_the_answer_are_told():
    trials = [Trial(name, name, 1, 1, 12, None, 0.0012 if name == "batch" else 0.0) for name in NAMES]
    lines = conclusion(trials, 7).lines
    assert "How much of the prompt is read at once changes the scores, by up to 0.0012, and these answers not." in lines
    assert "The count of threads changes nothing." in lines
