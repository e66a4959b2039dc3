"""Models made once a run, and an engine that is closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from random_model import END, byte_tokens, write_random_model, write_scripted_model

from localknobs.engine import LoadSettings, load
from localknobs.engine.client import Engine

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Engine]]:
    """Return `open_engine(model, **settings)`; every engine is closed at the end of the test."""
    engines = []

    def start(model: Path, **settings: Any) -> Engine:
        engine = load(LoadSettings(**{"model": model, "threads": 1, **settings}))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def random_model(folder: Path) -> Path:
    """A model of random weights: its text means nothing and never ends soon."""
    return write_random_model(folder / "random.gguf", context=2048)


@pytest.fixture(scope="session")
def alphabet_model(folder: Path) -> Path:
    """Writes the letters after the prompt's last one, then ends."""
    return write_scripted_model(folder / "alphabet.gguf", [*byte_tokens(ALPHABET), END])


@pytest.fixture(scope="session")
def endless_model(folder: Path) -> Path:
    """Writes the alphabet again and again, until its large context is full."""
    return write_scripted_model(folder / "endless.gguf", byte_tokens(ALPHABET + "a"), context=65_536)
