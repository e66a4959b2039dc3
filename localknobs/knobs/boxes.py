"""A knob's card: the four boxes of every card, then price and failure, for the TUI, `localknobs knobs` and the docs."""

from __future__ import annotations

from typing import NamedTuple

from localknobs.knobs.record import Knob

_REQUEST = "In the request and in presets; the model's file stays as it is."
_LOADED = "In the settings a model is loaded with; its file stays as it is."
_TRAINING = "In the training, so in the adapter it makes; the adapter's card keeps the value."


class GroupBoxes(NamedTuple):
    """What the knobs of a group share.

    Args:
        lives: Where the choice is kept.
        trade_off: What is given for what.
    """

    lives: str
    trade_off: str


GROUPS: dict[str, GroupBoxes] = {
    "Randomness": GroupBoxes(_REQUEST, "Repeatability against variety."),
    "Truncation": GroupBoxes(_REQUEST, "Fewer wrong turns against fewer surprises: what is cut can never be drawn."),
    "Repetition": GroupBoxes(
        _REQUEST, "Fewer loops against words that have to come again, such as names and brackets."
    ),
    "DRY": GroupBoxes(_REQUEST, "Fewer copied passages against quotes, lists and code, which repeat on purpose."),
    "XTC": GroupBoxes(_REQUEST, "Less usual wording against accuracy: the likeliest token is what is left out."),
    "Adaptive-p": GroupBoxes(_REQUEST, "A steady degree of surprise against the model's own sureness."),
    "Mirostat": GroupBoxes(_REQUEST, "A steady perplexity of the answer against control of the single token."),
    "Advanced": GroupBoxes(_REQUEST, "Control of the form of an answer against what the model would have said."),
    "Run": GroupBoxes(_REQUEST, "Length and repeatability of one answer; nothing of the model."),
    "Load": GroupBoxes(_LOADED, "Memory and the machine's attention against length and speed."),
    "Placement": GroupBoxes(_LOADED, "Speed against graphics memory."),
    "Speculation": GroupBoxes(
        _LOADED, "Memory and idle computing power against speed; the distribution of answers stays the same."
    ),
    "RoPE": GroupBoxes(
        "In the settings a model is loaded with, or as keys in the header of a GGUF (`localknobs context -o`).",
        "Reach against sharpness within the length the model was trained with.",
    ),
    "Cache": GroupBoxes(_LOADED, "Memory a token against fidelity of what was read."),
    "When full": GroupBoxes(
        "In the conversation; what is dropped stays in its transcript.", "Going on against remembering."
    ),
    "Put aside": GroupBoxes(
        "In a file of the cache folder beside a conversation, or in memory.", "Disk against reading the chat again."
    ),
    "Live adapters": GroupBoxes(
        "In files beside the model, which stays as it is.", "What the files were made for against all the rest."
    ),
    "Method": GroupBoxes(
        "In the training; what it makes is an adapter beside the base, or (full) a model of its own.",
        "Memory against how much of the model can change.",
    ),
    "Watching": GroupBoxes(
        "In the training and its curves, which lie beside the adapter.", "Time for a look against knowing early."
    ),
    "Adapter": GroupBoxes(_TRAINING, "Room to learn against memory, time, and what the model knew before."),
    "Training": GroupBoxes(_TRAINING, "Time and memory against how well, and how narrowly, the examples are learned."),
    "Against forgetting": GroupBoxes(_TRAINING, "What the model knew before against the time of a step."),
    "Data": GroupBoxes(_TRAINING, "More to see in an example against memory and time."),
}
"""By a knob's group."""

WHEN = {
    "next token": "At the next token, also while an answer is being written.",
    "next answer": "With the next answer.",
    "reload": "When the model is loaded (again).",
    "new file": "Once, in what is made.",
}
"""By a knob's `applies`."""


def knob_boxes(row: Knob) -> tuple[tuple[str, str], ...]:
    """Return question and answer of a knob's boxes: the four of every card, then price and failure.

    Args:
        row: The knob.
    """
    group = GROUPS[row.group]
    return (
        ("What changes", row.help), ("When", WHEN[row.applies]), ("Where it lives", group.lives),
        ("Trade-off", group.trade_off), ("What it costs", row.cost),
        ("How it fails", row.fails or "No failure is known."),
    )  # fmt: skip
