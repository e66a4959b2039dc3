"""Servers that several tests share, and one for a test alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from random_model import byte_tokens, write_scripted_model
from served import Served

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the alphabet again and again, until its large context is full."""
    path = tmp_path_factory.mktemp("models") / "endless.gguf"
    return write_scripted_model(path, byte_tokens(ALPHABET + "a"), context=65_536)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The built-in model."""
    served = Served("--preset", "deterministic", "--alias", "tiny", home=tmp_path_factory.mktemp("server"))
    yield served
    served.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Return `start(*arguments)`; every server is ended at the end of the test."""
    started: list[Served] = []

    def begin(*arguments: str | Path, **more: Any) -> Served:
        started.append(Served(*arguments, home=tmp_path / "home", **more))
        return started[-1]

    yield begin
    for served in started:
        served.close()
