"""Models made once a run, and an engine that is closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from random_model import END, byte_tokens, write_random_model, write_scripted_model
from views import FILLERS

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


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Callable[..., Engine]]:
    """Return `shared_engine(model, **settings)`: one engine for all tests of a module that ask for the same.

    For tests to which it does not matter what was asked before. It is loaded by the first of them, in its home.
    """
    engines: dict[str, Engine] = {}

    def get(model: Path, **settings: Any) -> Engine:
        key = repr((model, sorted(settings.items())))
        if key not in engines:
            engines[key] = load(LoadSettings(**{"model": model, "threads": 1, **settings}))
        return engines[key]

    yield get
    for engine in engines.values():
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


@pytest.fixture(scope="session")
def viewed_model(folder: Path) -> Path:
    """The random model that the sampler view is tried on; `views.py` knows its size."""
    return write_random_model(folder / "viewed.gguf", fillers=FILLERS, context=1024, seed=5)


@pytest.fixture
def viewed(viewed_model: Path, shared_engine: Callable[..., Engine]) -> Engine:
    """An engine on it, which other tests have asked before."""
    return shared_engine(viewed_model)
