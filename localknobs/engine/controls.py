"""What other threads may ask of an answer being written."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from localknobs.knobs import Value


@dataclass(slots=True)
class Controls:
    """One answer's stop flag and the sampler changes that wait for its next token."""

    stop: threading.Event = field(default_factory=threading.Event)
    changes: deque[dict[str, Value]] = field(default_factory=deque)
