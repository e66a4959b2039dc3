"""The texts of help: the keys, a knob's card, a lever's card, written as Markdown from the tables."""

from __future__ import annotations

from collections.abc import Iterable

from localknobs.knobs import Knob, Value
from localknobs.knobs.levers import LEVERS


def knob_card(row: Knob, value: Value) -> str:
    """Return a knob's card: what it does, its range, when it acts, its price, how it fails, where it is from."""
    facts = [
        ("Now", row.show(value) or "none"),
        ("Default", row.show(row.default) or "none"),
        ("Allowed", row.range_text()),
        ("Takes effect", "when the model is loaded again" if row.applies == "reload" else f"at the {row.applies}"),
        ("Price", row.cost),
        ("How it fails", row.fails),
        ("Flag", " ".join(row.flags)),
        ("Source", row.source),
    ]
    return f"{row.help}\n\n" + "\n".join(f"- **{name}:** {_plain(text)}" for name, text in facts if text)


def lever_cards() -> str:
    """Return the five levers with the four questions of each."""
    parts = []
    for card in LEVERS:
        boxes = "\n".join(f"- **{question}:** {answer}" for question, answer in card.boxes)
        parts.append(f"## {card.title}\n\n{card.summary}\n\n{boxes}\n\nSources: {', '.join(card.sources)}")
    return "\n\n".join(parts)


def keys_help(sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    """Return the help page.

    Args:
        sections: Heading, then (key, what it does) pairs.
    """
    parts = []
    for heading, rows in sections:
        lines = "\n".join(f"- **{key}**  {what}" for key, what in rows)
        parts.append(f"### {heading}\n\n{lines}")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Return a text that Markdown leaves as it is."""
    for sign in "\\`*_[]<>":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", "⏎")
