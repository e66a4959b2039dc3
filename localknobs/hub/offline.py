"""Whether connections are allowed at all. Looked at before any socket is made, not when one fails."""

from __future__ import annotations

import os

from localknobs.errors import Offline

VARIABLES = ("LOCALKNOBS_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "LLAMA_ARG_OFFLINE")
"""What asks for offline work: ours, huggingface_hub's two, llama.cpp's."""
_YES = ("1", "ON", "YES", "TRUE")


def is_set(name: str) -> bool:
    """Say whether a switch of the environment is on, as huggingface_hub reads them."""
    return os.environ.get(name, "").strip().upper() in _YES


def offline_because() -> str:
    """Return what asks for offline work, such as `HF_HUB_OFFLINE`; empty when connections are allowed."""
    return next(filter(is_set, VARIABLES), "")


def refuse_offline(what: str) -> None:
    """Refuse work that needs a connection while offline work is asked for.

    Args:
        what: What would need it, as the beginning of a sentence: `pull`.

    Raises:
        Offline: offline work is asked for.
    """
    if name := offline_because():
        asked = "--offline or LOCALKNOBS_OFFLINE asks for that" if name == VARIABLES[0] else f"{name} is set"
        raise Offline(
            f"{what} needs a connection, and none is opened: {asked}",
            f"Leave out --offline, or unset {name}; `localknobs ls` lists what is here.",
        )


def go_offline() -> None:
    """Ask for offline work, of this process and of every one it starts."""
    for name in VARIABLES[:3]:
        os.environ[name] = "1"
