"""The engine: a model in a process of its own, answers as a stream of events.

Importing this loads neither llama.cpp nor numpy; only the worker process does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localknobs.engine.client import Engine
    from localknobs.engine.events import (
        ContextDropped,
        Event,
        Finished,
        FinishReason,
        Looked,
        Message,
        ModelInfo,
        Noted,
        PromptRead,
        SamplerChanged,
        Stats,
        TextArrived,
        TokensScored,
    )
    from localknobs.engine.settings import LoadSettings

__all__ = [
    "ContextDropped",
    "Event",
    "FinishReason",
    "Finished",
    "LoadSettings",
    "Looked",
    "Message",
    "ModelInfo",
    "Noted",
    "PromptRead",
    "SamplerChanged",
    "Stats",
    "TextArrived",
    "TokensScored",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: a process that only cuts text into tokens needs none of it (20 ms)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "settings" if name == "LoadSettings" else "events"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def load(settings: LoadSettings, on_progress: Callable[[float], None] | None = None) -> Engine:
    """Load a model into a worker process and return when it is ready.

    Args:
        settings: Which file, and how.
        on_progress: Called with 0 to 1 while the weights are read, from this thread.

    Raises:
        NotFound, BadFile, Unsupported: the file is missing, damaged or of a kind that cannot be run.
        NotEnough: the context does not fit the free memory.
        EngineDied: the worker ended while loading; `log_tail` holds the last log lines.
    """
    from localknobs.engine.client import Engine

    return Engine(settings, on_progress)
