"""What a screen that shows models returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants done with a model.

    Args:
        what: Chat with it, make files of it in the Forge, or get others from the hub.
        model: Its path, or its name in the library; empty for `get`.
    """

    what: Literal["chat", "forge", "get"]
    model: str = ""
