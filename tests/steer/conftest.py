"""What the tests of control vectors share: vectors made in a moment, and states read in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steering import make, write_lists


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    """Return two short lists, of questions the built-in model does not know and of some that it does."""
    return write_lists(tmp_path)


@pytest.fixture(scope="session")
def vector(built_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a vector of these lists, as messages; it is only read."""
    folder = tmp_path_factory.mktemp("vector")
    make(built_in, write_lists(folder), folder / "v.gguf", chat=True)
    return folder / "v.gguf"


@pytest.fixture(scope="session")
def states_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function for the states of prompts after every layer, (prompts, layers, width), and their tokens."""

    def states(model: Path, prompts: list[str], *, vectors: tuple[str, ...] = (), layers: str = "", missing: int = 0):
        out = tmp_path_factory.mktemp("states") / "states.npy"
        order = {"model": str(model), "prompts": prompts, "vectors": vectors, "layers": layers, "out": str(out),
                 "missing": missing}  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("states_of.py"))],
            input=json.dumps(order), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return np.load(out), json.loads(done.stdout)

    return states
