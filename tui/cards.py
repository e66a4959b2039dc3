"""The texts of help: the keys, a knob's card, a lever's card, written as Markdown from the tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from localknobs.knobs import Knob, LeverCard, Value, knob_boxes
from localknobs.measured_effects import MeasuredEffect, effects_of_knob, effects_of_lever

MOST_EFFECTS = 8
"""Measured effects that a card shows; the command line has all."""


def knob_card(row: Knob, value: Value | None = None) -> str:
    """Return a knob's card: the four boxes, its price, how it fails, its range and source, and what it did here.

    Args:
        row: The knob.
        value: Its value now; None where there is none.
    """
    facts = [
        ("Now", "" if value is None else row.show(value) or "none"),
        ("Default", row.show(row.default) or "none"),
        ("Why this default", row.default_reason),
        ("Allowed", row.range_text() + (f"; in {row.unit}" if row.unit else "")),
        ("Flag", " ".join(row.flags)),
        ("Source", row.source),
    ]
    measured = _measured(effects_of_knob(row), f"localknobs knobs {row.name}")
    return "\n\n".join([_boxes(knob_boxes(row)), _list((name, _plain(text)) for name, text in facts if text), measured])


def lever_card(card: LeverCard) -> str:
    """Return a lever's card: the four boxes, its price, how it fails, its sources, and what it did here."""
    measured = _measured(effects_of_lever(card.lever), f"localknobs knobs {card.lever}")
    return "\n\n".join([card.summary, _boxes(card.boxes), f"Sources: {', '.join(card.sources)}", measured])


def keys_help(sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    """Return the help page.

    Args:
        sections: Heading, then (key, what it does) pairs.
    """
    return "\n\n".join(f"### {heading}\n\n" + "\n".join(f"- **{key}**  {what}" for key, what in rows)
                       for heading, rows in sections)  # fmt: skip


def _boxes(boxes: Iterable[tuple[str, str]]) -> str:
    return _list((question, _plain(answer)) for question, answer in boxes)


def _list(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}:** {text}" for name, text in facts)


def _measured(effects: Sequence[MeasuredEffect], command: str) -> str:
    """Return what was measured on this machine, each with the command that prints it."""
    if not effects:
        return (
            "### Measured here\n\nNothing yet. `localknobs eval` with `--base`, `bench`, `determinism` and `finetune` "
            "add what they find."
        )
    lines = []
    for effect in effects[:MOST_EFFECTS]:
        lines.append(
            f"- **{_plain(effect.turned)}** on {_plain(effect.model)}, against {_plain(effect.against)}: "
            f"{_plain(effect.text)}. ({effect.when[:10]})"
        )
        if effect.command:
            lines.append(f"\n    `{effect.command.replace('`', '')}`")
    if len(effects) > MOST_EFFECTS:
        lines.append(f"\n{len(effects) - MOST_EFFECTS} more: `{command} --json`")
    return "### Measured here\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    """Return a text that Markdown leaves as it is."""
    for sign in "\\`*_[]<>":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", "⏎")
