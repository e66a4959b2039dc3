"""What a screen that shows models or work returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants next.

    Args:
        what: Chat with a model, make files of it in the Forge, measure it, get others from the hub, or go to a screen.
        model: Its path, or its name in the library; empty for `get`; for `go` the action that opens the screen.
        adapter: An adapter that goes with it: live in the chat, merged in the Forge; empty for none.
    """

    what: Literal["chat", "forge", "measure", "get", "go"]
    model: str = ""
    adapter: str = ""
