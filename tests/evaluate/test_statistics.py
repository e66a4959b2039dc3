"""Intervals and tests against published values, and against plain simulation where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from localknobs.evaluate.pareto import front
from localknobs.evaluate.statistics import (
    interval_of_means,
    mcnemar,
    mean_of,
    paired_t_test,
    perplexity_of,
    student_t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (2000, 1.96)],
)
def test_quantiles_of_student_are_those_of_the_tables(degrees, quantile):
    assert student_t_quantile(degrees) == pytest.approx(quantile, abs=2e-3 if degrees == 2000 else 1e-4)


def test_shares_have_wilsons_interval():
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998
    assert wilson_interval(0, 20)[0] == 0.0 and wilson_interval(20, 20)[1] == 1.0
    assert math.isnan(wilson_interval(0, 0)[0])


def test_changed_answers_are_tested_exactly():
    assert mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(5, 5) == 1.0 and mcnemar(0, 0) == 1.0


def test_paired_differences_are_tested_by_student():
    # Student's own sleep data (1908): t = 4.0621 at 9 degrees of freedom.
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert paired_t_test(sleep) == pytest.approx(0.002833, abs=1e-5)
    assert paired_t_test([0.0, 0.0]) == 1.0 and paired_t_test([0.5, 0.5]) == 0.0
    assert math.isnan(paired_t_test([1.0]))


def test_the_interval_of_chunks_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        # Tokens of a chunk go together: an interval that took them as independent would hold it half as often.
        chunks = [random.normal(random.normal(0, 1), 1, 50) for _ in range(8)]
        low, high = interval_of_means(chunks)
        held += low <= 0 <= high
    assert 0.92 < held / 400 < 0.98


def test_one_chunk_is_no_sample():
    found = mean_of([np.array([1.0, 2.0])])
    assert found.value == 1.5 and math.isnan(found.low)
    assert perplexity_of([np.array([0.0, 0.0])]).value == 1.0


def test_the_front_is_what_nothing_beats():
    assert front([(4, 0.1), (3, 0.2), (5, 0.3), (3, 0.4), (6, 0.05)]) == {0, 1, 4}
    assert front([(1, 1.0), (1, 1.0)]) == {0, 1}
