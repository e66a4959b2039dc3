"""The frequency picture's numbers: what training saw, what a length reaches, before and after scaling."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from localknobs.engine.rope import Rope
from localknobs.engine.rope_picture import Rotations

OWN = Rope(method="none", factor=1.0, base=10_000.0, size=64, original=1024, trained=1024)


def turns(rope: Rope, pair: int, length: int) -> float:
    return rope.speeds()[pair] * length / (2 * math.pi)


def test_linear_scaling_brings_every_rotation_back_into_what_was_seen():
    linear = replace(OWN, method="linear", factor=4.0)
    rotations = Rotations(OWN, linear, 4096)
    assert rotations.unseen(OWN) == sum(turns(OWN, pair, 1024) < 1 for pair in range(32)) == 14
    assert rotations.unseen(linear) == 0
    assert rotations.text == "Unscaled, 14 of 32 pairs would turn to angles that training never saw; scaled, none."


def test_too_small_a_factor_leaves_rotations_outside():
    assert Rotations(OWN, replace(OWN, method="linear", factor=2.0), 4096).unseen(OWN) == 14
    assert "14 of 32 pairs" in Rotations(OWN, replace(OWN, method="linear", factor=2.0), 4096).text
    assert "unscaled" not in Rotations(OWN, OWN, 4096).text
    assert "as training saw it" in Rotations(OWN, OWN, 512).text


def test_a_pair_that_went_all_the_way_round_has_no_upper_end():
    picture = Rotations(OWN, OWN, 2048).by_pair()
    for pair, seen in picture.seen:
        once = turns(OWN, int(pair), 1024)
        assert seen == (math.inf if once >= 1 else pytest.approx(once))
    assert [height for _, height in picture.unscaled] == pytest.approx([turns(OWN, pair, 2048) for pair in range(32)])


def test_the_critical_pair_is_the_first_that_never_went_round_and_its_lines_end_at_the_length():
    linear = replace(OWN, method="linear", factor=2.0)
    rotations = Rotations(OWN, linear, 2048)
    assert rotations.critical == 18 and turns(OWN, 17, 1024) >= 1 > turns(OWN, 18, 1024)
    picture = rotations.by_position(18)
    assert picture.seen[-1] == (1024, pytest.approx(turns(OWN, 18, 1024)))
    assert picture.unscaled[-1] == (2048, pytest.approx(2 * picture.seen[-1][1]))
    assert picture.scaled[-1] == (2048, pytest.approx(picture.seen[-1][1]))


def test_a_length_within_the_trained_one_is_shaded_no_further_than_the_picture_goes():
    assert Rotations(OWN, OWN, 256).by_position(0).seen == ((0.0, math.inf), (256.0, math.inf))
    assert Rotations(replace(OWN, size=0), replace(OWN, size=0), 256).critical == 0
