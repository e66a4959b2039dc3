"""The texts of help: the keys, a knob's card, a lever's card, written as Markdown from the tables."""

from __future__ import annotations

from collections.abc import Iterable

from localknobs.knobs import Knob, Value
from localknobs.knobs.levers import LEVERS


def knob_card(row: Knob, value: Value) -> str:
    """Return a knob's card: what it does, its range, when it acts, its price, how it fails, where it is from."""
    lines = [
        f"{row.help}",
        "",
        "| | |",
        "|---|---|",
        f"| **Now** | {_cell(row.show(value) or 'none')} |",
        f"| **Default** | {_cell(row.show(row.default) or 'none')} |",
        f"| **Allowed** | {_cell(row.range_text())} |",
        f"| **Takes effect** | at the {row.applies} |",
        f"| **Price** | {_cell(row.cost)} |",
    ]
    if row.fails:
        lines.append(f"| **How it fails** | {_cell(row.fails)} |")
    lines += [f"| **Flag** | `{' '.join(row.flags)}` |", f"| **Source** | {_cell(row.source)} |"]
    return "\n".join(lines)


def lever_cards() -> str:
    """Return the five levers with the four questions of each."""
    parts = []
    for card in LEVERS:
        parts.append(f"## {card.title}\n\n{card.summary}\n\n| | |\n|---|---|")
        parts[-1] += "".join(f"\n| **{question}** | {_cell(answer)} |" for question, answer in card.boxes)
    return "\n\n".join(parts)


def keys_help(sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    """Return the help page.

    Args:
        sections: Heading, then (key, what it does) pairs.
    """
    parts = []
    for heading, rows in sections:
        parts.append(f"### {heading}\n\n| Key | |\n|---|---|")
        parts[-1] += "".join(f"\n| {_cell(key)} | {_cell(what)} |" for key, what in rows)
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "⏎")
