"""Distances between two models' logits, and the likeliest tokens, against the plain definitions in 64 bits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from localknobs.errors import LocalknobsError
from localknobs.evaluate.distances import compare, score
from localknobs.evaluate.kept import KeptLogits, compare_with_kept, likeliest

WIDTHS = [(256, 256), (300, 256), (3000, 256), (32_000, 256), (70_001, 256), (50, 3)]
SHAPES = [(1, 7), (5, 300), (40, 3000), (3, 70_000)]


def logits_of(shape, seed, spread=3.0):
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def log_shares(logits):
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def targets_of(shape):
    return np.random.default_rng(9).integers(0, shape[1], shape[0], np.int32)


@pytest.mark.parametrize("shape", SHAPES)
def test_surprises_and_tops_are_those_of_the_definition(shape):
    logits, targets = logits_of(shape, 1), targets_of(shape)
    scores = score(logits, targets)
    np.testing.assert_allclose(scores.surprises, -log_shares(logits)[np.arange(shape[0]), targets], rtol=1e-6)
    assert (scores.tops == logits.argmax(axis=1)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("apart", [40.0, 5.0, 1.0, 1e-2, 1e-4])
def test_the_divergence_of_each_model_is_that_of_the_definition(shape, apart):
    base, targets = logits_of(shape, 1), targets_of(shape)
    others = [base + logits_of(shape, seed, apart) for seed in (2, 3)]
    scores, found = compare(base, others, targets)
    assert (scores.surprises == compare(base, [], targets)[0].surprises).all()
    np.testing.assert_allclose(scores.surprises, score(base, targets).surprises, rtol=1e-12)
    logs = log_shares(base)
    for other, one in zip(others, found, strict=True):
        theirs = log_shares(other)
        np.testing.assert_allclose(one.kls, (np.exp(logs) * (logs - theirs)).sum(axis=1), rtol=1e-5, atol=1e-14)
        np.testing.assert_allclose(one.surprises, score(other, targets).surprises, rtol=1e-12)
        assert (one.same_top == (base.argmax(axis=1) == other.argmax(axis=1))).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_is_nothing_apart_from_itself_and_no_divergence_is_below_nothing(shape):
    base, targets = logits_of(shape, 1), targets_of(shape)
    _, (same, shifted, close) = compare(
        base, [base.copy(), base + np.float32(0.5), base * np.float32(1 + 1e-6)], targets
    )
    assert (same.kls == 0).all() and same.same_top.all()
    assert (np.abs(shifted.kls) < 1e-11).all()
    assert (close.kls >= 0).all()


@pytest.mark.parametrize(
    ("columns", "count"), [(256, 256), (300, 256), (3000, 256), (32_000, 256), (70_001, 256), (50, 3)]
)
def test_the_likeliest_tokens_are_the_largest_logits(columns, count):
    logits = logits_of((6, columns), 4)
    found = likeliest(logits, count)
    assert found.shape == (6, count)
    expected = np.argsort(logits, axis=1)[:, -count:]
    assert (np.sort(found, axis=1) == np.sort(expected, axis=1)).all()


def test_the_likeliest_of_equal_logits_are_as_many_as_asked_for_and_different():
    logits = np.zeros((2, 40_000), np.float32)
    logits[1, 7] = 1
    found = likeliest(logits, 256)
    assert all(len(set(row)) == 256 for row in found.tolist()) and 7 in found[1]


def test_what_is_kept_gives_a_bound_that_is_whole_where_all_tokens_are_kept(tmp_path):
    for columns, whole in ((200, True), (3000, False), (20_000, False)):
        base, targets = logits_of((50, columns), 1), targets_of((50, columns))
        other = base + logits_of(base.shape, 2, 0.3)
        kept = KeptLogits(tmp_path / f"{columns}.kept")
        kept.create(tmp_path / f"{columns}.kept", 60, columns)
        scores, outside = kept.write(10, base, targets)
        np.testing.assert_allclose(scores.surprises, score(base, targets).surprises, rtol=1e-12)
        bound = compare_with_kept(kept.read(10, 50), other, targets)
        (exact,) = compare(base, [other], targets)[1]
        np.testing.assert_allclose(bound.surprises, exact.surprises, rtol=1e-12)
        assert (bound.same_top == exact.same_top).all()
        if whole:
            assert (outside < 1e-290).all()
            np.testing.assert_allclose(bound.kls, exact.kls, rtol=1e-4)
        else:
            assert (bound.kls < exact.kls).all() and (0 < outside).all() and (outside < 1).all()
        assert np.abs(compare_with_kept(kept.read(10, 50), base, targets).kls).max() < 1e-6


def test_a_disk_that_refuses_what_is_kept_is_an_error_in_words(tmp_path):
    base = logits_of((5, 300), 1)
    KeptLogits.create(tmp_path / "a.kept", 5, 300)
    (tmp_path / "a.kept").unlink()
    with pytest.raises(LocalknobsError, match="cannot be kept in"):
        KeptLogits(tmp_path / "a.kept").write(0, base, targets_of(base.shape))


@pytest.mark.parametrize(
    ("cores", "threads", "devices", "expected"),
    [(2, 1, ["CPU"], (1, True)), (2, 2, ["CPU"], (2, False)), (16, 8, ["CPU"], (4, True)),
     (16, 13, ["CPU"], (16, False)), (8, 8, ["CUDA0", "CPU"], (2, True))],
)  # fmt: skip
def test_logits_are_looked_at_beside_the_model_where_cores_are_idle(monkeypatch, cores, threads, devices, expected):
    pytest.importorskip("llama_cpp")
    from localknobs.evaluate import reading

    monkeypatch.setattr(reading, "logical_cores", lambda: cores)
    monkeypatch.setattr(reading, "physical_cores", lambda: cores // 2)
    model = SimpleNamespace(prompt_threads=threads, devices=devices)
    assert reading.looking_threads([SimpleNamespace(model=model)]) == expected


def test_logits_that_are_no_numbers_end_in_no_error_here():
    logits = logits_of((2, 40_000), 5)
    logits[0, 3] = np.nan
    assert likeliest(logits, 256).shape == (2, 256)
