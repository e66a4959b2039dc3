"""The screens of the program, as rows of a table: the menu that goes to them (F7) is made from it."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A screen that the menu goes to.

    Args:
        action: The chat screen's action that opens it, without `action_`.
        name: What it is called everywhere.
        key: Its own key, as the footer writes it; empty when it has none.
        help: What one does there.
    """

    action: str
    name: str
    key: str
    help: str


PLACES: tuple[Place, ...] = (
    Place("models", "Models", "F3", "what is on this machine, and what it would take"),
    Place("get", "Get models", "F12", "search the hub, see what fits, fetch it"),
    Place("forge", "Forge", "^g", "merge adapters, convert checkpoints, quantize"),
    Place("context", "Context", "F6", "how far the model sees, by what means, at what price"),
    Place("levers", "Cards", "F10", "every lever and knob: what it does, costs, and did here"),
)
