"""A hub on loopback for every test here, named by HF_ENDPOINT, and a cache of the test's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_files import small_gguf
from loopback_hub import LoopbackHub, Repo


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """Return the hub, with one repository `maker/small-GGUF`."""
    with LoopbackHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setattr("localknobs.hub.transfer.FIRST_PAUSE_S", 0.01)
        hub.repos["maker/small-GGUF"] = Repo(
            {
                "README.md": b"# Small\n",
                "small-Q4_K_M.gguf": small_gguf("Small") + b"\0" * 1000,
                "small-Q8_0.gguf": small_gguf("Small") + b"\0" * 3000,
                "UD-IQ1_S/small-UD-IQ1_S-00001-of-00002.gguf": small_gguf("Small"),
                "UD-IQ1_S/small-UD-IQ1_S-00002-of-00002.gguf": small_gguf("Small") + b"\1" * 500,
                "mmproj-F16.gguf": small_gguf("Eyes"),
            }
        )
        yield hub


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the cache's folder."""
    folder = tmp_path / "hub-cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def noise() -> bytes:
    """Return 24 MiB that do not repeat."""
    return random.Random(7).randbytes(24 * 2**20)


@pytest.fixture
def big(hub: LoopbackHub, cache: Path, noise: bytes) -> bytes:
    """Return the bytes of `maker/big/big.gguf`, 24 MiB."""
    hub.repos["maker/big"] = Repo({"big.gguf": noise, "notes.md": b"read me"})
    return noise
