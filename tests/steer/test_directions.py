"""From differences of states to a direction: against eigenvectors, its sign, its length, where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from localknobs.errors import BadValue
from localknobs.steer.directions import direction_of, vector_of


def differences(pairs: int = 12, width: int = 20, shift: float = 3.0) -> np.ndarray:
    random = np.random.default_rng(1)
    found = random.standard_normal((pairs, width)).astype(np.float32)
    found[:, 4] -= shift
    return found


def test_pca_is_the_first_eigenvector_of_the_uncentred_products_turned_towards_the_mean():
    rows = differences()
    found = direction_of(1, rows, 7.0, "pca")
    values, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)
    assert abs(float(vectors[:, -1] @ found.unit)) == pytest.approx(1, abs=1e-6)
    assert found.unit[4] < -0.8 and float(rows.mean(axis=0) @ found.unit) > 0
    assert found.explained == pytest.approx(values[-1] / values.sum(), rel=1e-5)
    assert found.apart == pytest.approx(float((rows @ found.unit).mean()), rel=1e-5)
    assert found.agree == 1 and found.state == 7.0


def test_the_mean_is_the_mean_of_length_one():
    rows = differences()
    mean = rows.mean(axis=0)
    assert direction_of(2, rows, 1.0, "mean").unit == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


@pytest.mark.parametrize("method", ["pca", "mean"])
def test_one_pair_gives_its_difference(method):
    rows = differences(pairs=1)
    found = direction_of(1, rows, 1.0, method)
    assert found.unit * found.apart == pytest.approx(rows[0], rel=1e-4)


def test_with_more_numbers_than_pairs_no_square_matrix_of_the_width_is_needed():
    assert np.linalg.norm(direction_of(1, differences(pairs=3, width=4096), 1.0, "pca").unit) == pytest.approx(1)


def test_the_length_is_one_or_all_layers_together_go_the_mean_difference():
    found = direction_of(1, differences(), 1.0, "pca")
    assert np.linalg.norm(vector_of(found, "unit", 5)) == pytest.approx(1, rel=1e-6)
    assert 5 * np.linalg.norm(vector_of(found, "difference", 5)) == pytest.approx(found.apart, rel=1e-5)


@pytest.mark.parametrize("method", ["pca", "mean"])
def test_equal_states_have_no_direction(method):
    with pytest.raises(BadValue, match="same states in layer 3"):
        direction_of(3, np.zeros((4, 8), np.float32), 1.0, method)


def test_pairs_that_only_swap_places_have_no_mean():
    row = differences(pairs=1)
    with pytest.raises(BadValue, match="same states"):
        direction_of(1, np.concatenate([row, -row]), 1.0, "mean")
