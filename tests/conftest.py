"""What every test gets: a home of its own, no network, no animations.

Set through the environment wherever possible, so that child processes get it too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import REPOSITORY

os.environ["TEXTUAL_ANIMATIONS"] = "none"  # read when Textual is imported, so set before any test module is
# Hundreds of processes are started here. Without kept bytecode each compiles the program again, a quarter of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    # Its processes ignore Ctrl+C, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_CLEARED = (
    "LOCALKNOBS_MODELS", "LOCALKNOBS_DEBUG", "LOCALKNOBS_OFFLINE",
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LLAMA_CACHE", "OLLAMA_MODELS", "LLMFIT_MODELS_DIR",
     "HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE",
    "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES",
)  # fmt: skip
_XDG = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_CACHE_HOME": ".cache",
    "XDG_STATE_HOME": ".local/state",
}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home folder of its own; return localknobs's folder in it, which does not exist yet."""
    user = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(user))
    for name, folder in _XDG.items():
        monkeypatch.setenv(name, str(user / folder))
    for name in _CLEARED:
        monkeypatch.delenv(name, raising=False)
    own = user / "localknobs"
    monkeypatch.setenv("LOCALKNOBS_HOME", str(own))
    return own


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection but those within this machine; tests marked `online` may."""
    if request.node.get_closest_marker("online"):
        return
    allow = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}

    def refuse_or(name: str) -> Callable[[socket.socket, Any], Any]:
        def guarded(self: socket.socket, address: Any) -> Any:
            inside = self.family == getattr(socket, "AF_UNIX", None) or address[0] in ("127.0.0.1", "::1", "localhost")
            if not inside:
                raise AssertionError(f"a test tried to connect to {address}")
            return allow[name](self, address)

        return guarded

    for name in allow:
        monkeypatch.setattr(socket.socket, name, refuse_or(name))


@pytest.fixture(scope="session")
def built_in() -> Path:
    """Return the built-in model's path, from the tree."""
    path = REPOSITORY / "models" / "built-in.gguf"
    assert path.is_file(), f"{path} is missing"
    return path
