"""What every test gets: a home of its own, no network, no animations.

Set through the environment wherever possible, so that child processes get it too.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ["TEXTUAL_ANIMATIONS"] = "none"  # read when Textual is imported, so set before any test module is

REPOSITORY = Path(__file__).resolve().parent.parent
_CLEARED = (
    "LOCALKNOBS_MODELS", "LOCALKNOBS_DEBUG", "LOCALKNOBS_OFFLINE",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE",
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


# ---- GGUF files written by hand, so that tests can also write wrong ones -------------------------

U32, F32, BOOL, TEXT, ARRAY, U64 = 4, 6, 7, 8, 9, 10
_PACK = {0: "<B", 1: "<b", 2: "<H", 3: "<h", U32: "<I", 5: "<i", F32: "<f", BOOL: "<?", U64: "<Q", 11: "<q", 12: "<d"}


def gguf_text(text: str | bytes) -> bytes:
    """Return a text as GGUF stores it."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_key(name: str, kind: int, value: Any, element: int = U32) -> bytes:
    """Return one key with its value; `element` is the type of an array's elements."""
    return gguf_text(name) + struct.pack("<I", kind) + _value(kind, value, element)


def _value(kind: int, value: Any, element: int) -> bytes:
    if kind == TEXT:
        return gguf_text(value)
    if kind == ARRAY:
        return struct.pack("<IQ", element, len(value)) + b"".join(_value(element, item, element) for item in value)
    return struct.pack(_PACK[kind], value)


def gguf_bytes(
    keys: Sequence[bytes] = (),
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]] | None = None,
    *,
    version: int = 3,
    data: bytes = b"",
    alignment: int = 32,
) -> bytes:
    """Return a GGUF file.

    Args:
        keys: What `gguf_key` returned.
        tensors: Name to (shape, type number, offset).
        version: GGUF version.
        data: Bytes of all tensors.
        alignment: Padding before the data.
    """
    tensors = tensors or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    for name, (shape, kind, offset) in tensors.items():
        head += gguf_text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", kind, offset)
    return head + b"\0" * (-len(head) % alignment) + data


def small_gguf(name: str = "Small") -> bytes:
    """Return a whole small GGUF file of architecture `llama`, with two tensors; too small for llama.cpp to run."""
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("general.name", TEXT, name),
        gguf_key("llama.block_count", U32, 1),
        gguf_key("llama.context_length", U32, 128),
        gguf_key("llama.embedding_length", U32, 32),
        gguf_key("llama.attention.head_count", U32, 4),
    ]
    tensors = {"token_embd.weight": ((32, 4), 0, 0), "output_norm.weight": ((32,), 0, 512)}
    return gguf_bytes(keys, tensors, data=b"\0" * 640)
