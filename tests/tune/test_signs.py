"""Each way in which a training fails is named by its curves, and a good one is not."""

from __future__ import annotations

import math

import pytest

from localknobs.tune.curves import Curves
from localknobs.tune.signs import signs_of


def curves(losses=(), held_out=(), general=(), steps: int | None = None) -> Curves:
    """Return curves of these values; looks are 10 steps apart, the first at step 0."""
    found = Curves(steps=len(losses) if steps is None else steps)
    found.loss = list(enumerate(losses, 1))
    found.held_out = [(10 * at, value) for at, value in enumerate(held_out)]
    found.general = [(10 * at, value) for at, value in enumerate(general)]
    return found


FALLING = [0.1 + 2.9 * math.exp(-step / 15) for step in range(100)]
CASES = {
    "good": (curves(FALLING, [3.0, 1.0, 0.4, 0.3], [2.0, 2.01, 2.04]), []),
    "a loss near 0 doubles by nothing": (curves(general=[0.02, 0.04]), []),
    "forgetting": (curves(FALLING, [3.0, 0.3], [2.0, 2.3, 2.3]), ["Forgetting"]),
    "forgotten and found again": (curves(FALLING, [3.0, 0.3], [2.0, 2.5, 2.05]), []),
    "overfitting": (curves(FALLING, [3.0, 2.0, 1.0, 1.3, 1.4]), ["Overfitting"]),
    "no overfitting: noise": (curves(FALLING, [3.0, 2.0, 1.0, 1.03, 1.04]), []),
    "no overfitting: one outlier": (curves(FALLING, [3.0, 2.0, 1.0, 1.4]), []),
    "rank too small": (curves([3.0] * 10 + [1.9] * 90, [3.0, 1.9, 1.9]), ["Plateau"]),
    "rate too low": (curves([3.0 - step / 2000 for step in range(100)], [3.0, 2.96]), ["Plateau"]),
    "a plateau early on says nothing": (curves([3.0] * 10 + [1.9] * 90, steps=1000), []),
    "nothing left to learn": (curves([0.1] * 100, [0.1, 0.1]), []),
    "rate too high": (curves([3.0 + step / 20 for step in range(60)], [3.0, 5.5]), ["Divergence"]),
    "too few steps": (curves([3.0, 5.0, 4.0]), []),
    "nothing yet": (curves(), []),
}


@pytest.mark.parametrize("case", CASES)
def test_signs_of_failure_are_named(case):
    seen, expected = CASES[case]
    assert [sign.partition(":")[0] for sign in signs_of(seen)] == expected


def test_each_sign_says_what_to_change():
    said = {name: " ".join(signs_of(seen)) for name, (seen, _) in CASES.items()}
    assert "higher rank" in said["rank too small"] and "-r" in said["rank too small"]
    assert "learning rate is probably too low" in said["rate too low"] and "--lr" in said["rate too low"]
    assert "learning rate is too high" in said["rate too high"] and "--restart" in said["rate too high"]
    assert "--lora-dropout" in said["overfitting"] and "15%" in said["forgetting"]


def test_at_the_end_only_the_adapter_that_is_kept_counts_for_forgetting():
    seen, _ = CASES["forgetting"]
    assert signs_of(seen, {"general": 2.02}) == []
