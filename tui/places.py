"""The screens of the program, as rows of a table: the menu that goes to them (F7) is made from it."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A screen that the menu goes to.

    Args:
        action: The chat screen's action that opens it, without `action_`.
        name: What it is called everywhere.
        key: Its own key, as the texts write it; empty when it has none.
        help: What one does there.
        works: Verbs of the long work that it starts and shows.
    """

    action: str
    name: str
    key: str
    help: str
    works: tuple[str, ...] = ()


PLACES: tuple[Place, ...] = (
    Place("models", "Models", "F3", "what is on this machine, and what it would take"),
    Place("get", "Get models", "F12", "search the hub, see what fits, fetch it", ("pull",)),
    Place("adapters", "Adapters", "Alt+A", "LoRA adapters and control vectors on the model, a slider each"),
    Place("forge", "Forge", "Ctrl+G", "merge adapters, convert checkpoints, quantize", ("quantize",)),
    Place("tune", "Tune", "Alt+U", "teach a model: from a file of examples to an adapter", ("finetune",)),
    Place("context", "Context", "F6", "how far the model sees, by what means, at what price", ("context",)),
    Place(
        "measure", "Measure", "Alt+M", "what a change did: quality against size, before and after", ("eval", "reports")
    ),
    Place("diagnose", "Diagnose", "Alt+S", "from what you see to the first lever, probed here", ("diagnose",)),
    Place("levers", "Cards", "F10", "every lever and knob: what it does, costs, and did here"),
    Place("ab", "A/B", "Alt+V", "two models or settings answer the same prompt; vote, blind if wished"),
    Place("jobs", "Jobs", "Alt+J", "what runs and what ran: how far, what it made, stop it"),
)
