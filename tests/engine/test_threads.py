"""The thread tuner on a simulated machine: the same random numbers every time, so the limits can be asserted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from localknobs.engine.threads import ThreadTuner, candidates

TOKENS = 1000
QUIET_TO_BUSY: dict[str, Callable[[float], int]] = {
    "quiet": lambda place: 0,
    "busy": lambda place: 1,
    "getting busy half-way": lambda place: int(place > 0.5),
    "getting quiet half-way": lambda place: int(place < 0.5),
}


def seconds(count: int, cores: int, taken: int, *, serial: float, waiting: float) -> float:
    """Return the time of one token: 1.0 for one thread on a quiet machine.

    Args:
        count: Threads.
        cores: Cores of the machine.
        taken: Cores that other programs use.
        serial: Share of the work that threads cannot divide.
        waiting: Time every further thread costs at the meeting points.
    """
    time = serial + (1 - serial) / count + waiting * (count - 1)
    if count > cores - taken:
        return 3 * time  # all wait, at every operation, for the thread that has no core (measured: 3 times)
    return 1.1 * time if taken else time


def ratio_to_best_fixed(cores: int, first: int, schedule: Callable[[float], int], seed: int, **shape: float) -> float:
    """Return the tuner's time over that of the best fixed count, for the same run with the same noise."""
    noise = random.Random(seed)
    tuner = ThreadTuner(candidates(cores), first)
    fixed = dict.fromkeys(tuner.counts, 0.0)
    total, before = 0.0, tuner.threads
    for token in range(TOKENS):
        taken = schedule(token / TOKENS)
        factor = noise.lognormvariate(0, 0.06) * (noise.uniform(2, 6) if noise.random() < 0.01 else 1)
        for count in fixed:
            fixed[count] += factor * seconds(count, cores, taken, **shape)
        time = factor * seconds(tuner.threads, cores, taken, **shape)
        time *= 1.3 if tuner.threads != before else 1  # threads are started or sent to sleep
        before = tuner.threads
        total += time
        tuner.record(time)
    return total / min(fixed.values())


@pytest.mark.parametrize("shape", [(0.05, 0.01), (0.3, 0.05), (0.02, 0.0)], ids=["usual", "small model", "large model"])
@pytest.mark.parametrize("cores", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("schedule", QUIET_TO_BUSY.values(), ids=QUIET_TO_BUSY.keys())
def test_never_worse_than_the_best_fixed_count_by_more_than_a_tenth(schedule, cores, shape):
    serial, waiting = shape
    for first in {min(8, cores), min(8, max(1, cores // 2))}:
        found = [ratio_to_best_fixed(cores, first, schedule, seed, serial=serial, waiting=waiting) for seed in range(8)]
        assert max(found) <= 1.10, (first, found)


def run(tuner: ThreadTuner, time_of: Callable[[int], float], tokens: int) -> list[int]:
    used = []
    for _ in range(tokens):
        used.append(tuner.threads)
        tuner.record(time_of(tuner.threads))
    return used


def test_it_finds_a_good_count_from_either_end():
    times = {count: seconds(count, 16, 0, serial=0.1, waiting=0.01) for count in candidates(16)}
    for first in times:
        used = run(ThreadTuner(candidates(16), first), times.__getitem__, 150)
        settled = sorted(times[count] for count in used[-50:])
        assert settled[25] <= 1.05 * min(times.values()), used


def test_it_leaves_a_count_that_became_slow_within_a_few_tokens():
    tuner = ThreadTuner(candidates(2), 2)
    assert run(tuner, lambda count: {1: 1.0, 2: 0.55}[count], 300)[-1] == 2
    used = run(tuner, lambda count: {1: 1.0, 2: 3.0}[count], 20)
    assert used[-1] == 1 and used.count(2) <= 8, used


def test_one_slow_sample_changes_nothing():
    tuner = ThreadTuner(candidates(2), 2)
    run(tuner, lambda count: {1: 1.0, 2: 0.55}[count], 300)
    chosen = tuner.chosen
    tuner.record(50.0)
    run(tuner, lambda count: {1: 1.0, 2: 0.55}[count], 20)
    assert tuner.chosen == chosen


def test_with_one_core_there_is_nothing_to_try():
    tuner = ThreadTuner(candidates(1), 1)
    assert run(tuner, lambda count: 1.0, 100) == [1] * 100
    assert not tuner.record(100.0)


def test_record_tells_when_the_count_changes():
    tuner = ThreadTuner(candidates(8), 8)
    for _ in range(500):
        before = tuner.threads
        changed = tuner.record(1.0 / tuner.threads)
        assert changed == (tuner.threads != before)


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 6, 12, 24, 128])
def test_candidates_ascend_from_one_to_all_cores(cores):
    counts = candidates(cores)
    assert counts[0] == 1 and counts[-1] == cores and list(counts) == sorted(set(counts))
