"""What the tests of the sampler view share: a prompt read without an answer, and a stage compared with numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
from random_model import byte_tokens

from localknobs.engine.controls import Plan

PROMPT = "what was said, and said, and said"
TOKENS = [1, *byte_tokens(PROMPT)]
FILLERS = 700
SIZE = 261 + FILLERS
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0, "seed": 5}
READ = Plan(write=False)


def read(engine, values=None, prompt=PROMPT):
    """Read a prompt without writing, so that its next token can be looked at."""
    list(engine.stream(prompt, {**OFF, **(values or {})}, plan=READ))


def raw_scores(view, size=SIZE) -> np.ndarray:
    assert len(view.candidates) == size
    scores = np.empty(size)
    scores[[one.token for one in view.candidates]] = [one.score for one in view.candidates]
    return scores


def after(view, stage: int) -> np.ndarray:
    """Return the view's probabilities before the first stage (0) or after the stage of that number."""
    found = np.empty(len(view.candidates))
    found[[one.token for one in view.candidates]] = [one.probabilities[stage] for one in view.candidates]
    return found


def same(view, name: str, wanted: np.ndarray, count: int | None = None, before: np.ndarray | None = None) -> None:
    """Compare a stage's numbers with a distribution."""
    at = next(at for at, stage in enumerate(view.stages) if stage.name == name)
    stage = view.stages[at]
    np.testing.assert_allclose(after(view, at + 1), wanted, atol=2e-6, rtol=2e-4)
    before = after(view, at) if before is None else before
    assert stage.moved == pytest.approx(np.abs(wanted - before).sum() / 2, abs=1e-5)
    assert stage.removed == pytest.approx(before[wanted == 0].sum(), abs=1e-5)
    if count is not None:
        assert stage.after == count
    assert stage.active
