"""What other threads may ask of an answer being written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localknobs.knobs import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How an answer is written, beyond what the knobs say.

    Args:
        beginning: Tokens that it begins with, drawn by nobody: a branch of another answer. Its text includes theirs.
        score: Whether `TokensScored` events tell how sure the model was of each token.
        likeliest: How many of the likeliest tokens these events name beside each token; -1 names not even that token.
        write: False reads the prompt alone, so that the next token can be looked at.
        fresh: Whether the prompt is read from its beginning, whatever the cache holds.
        piece: Tokens of the prompt that are read at once; 0 chooses by speed.
    """

    beginning: tuple[int, ...] = ()
    score: bool = False
    likeliest: int = -1
    write: bool = True
    fresh: bool = False
    piece: int = 0


AS_USUAL = Plan()
"""An answer like any other."""


@dataclass(slots=True)
class Controls:
    """What is asked of one answer: before it, and while it is written.

    Args:
        stop: Set when it shall end.
        changes: Sampler changes that wait for its next token.
        looks: Looks at the samplers that wait for its next token; shared by all answers, as one may wait for the next.
        plan: How it is to be written.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    changes: deque[dict[str, Value]] = field(default_factory=deque)
    looks: deque[Mapping[str, Any]] = field(default_factory=deque)
    plan: Plan = AS_USUAL
