"""Tiny checkpoints, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the folder of a family's tiny checkpoint, which no test may change."""
    made: dict[tuple[str, str, str], Path] = {}

    def get(case: str, dtype: str = "float32", **changes: object) -> Path:
        key = case, dtype, repr(sorted(changes.items()))
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp("checkpoint") / case, case, dtype, **changes)
        return made[key]

    return get


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Llama with a tokenizer, to put adapters on."""
    from tiny_adapters import save_llama, save_tokenizer

    folder = save_llama(tmp_path_factory.mktemp("base") / "llama")
    save_tokenizer(folder)
    return folder
