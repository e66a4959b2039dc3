"""`localknobs knobs [NAME]`: every knob, or one knob, group or lever in full."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from localknobs.cli.output import facts, heading, note, print_json, table, wrapped
from localknobs.errors import UnknownName
from localknobs.flags import default_text
from localknobs.knobs import ALL_KNOBS, LEVERS, Knob, LeverCard, knob, knob_boxes
from localknobs.measured_effects import MeasuredEffect, effects_of_knob, effects_of_lever

_MOST_EFFECTS = 6
"""Measured effects that a card prints; `--json` has all."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    levers = ", ".join(card.lever for card in LEVERS)
    parser.add_argument(
        "name", nargs="?", help=f"a knob or its flag (temp, --top-k), a group (dry), or a lever: {levers}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(options: Namespace) -> int:
    """Print all knobs, or what the name stands for."""
    if options.name is None:
        _print_all(options.json)
        return 0
    plain = options.name.strip().lower()
    if card := next((card for card in LEVERS if plain in (card.lever, card.title.lower())), None):
        _print_card(card, options.json)
    elif row := _knob_or_none(options.name):
        _print_knob(row, options.json)
    elif rows := [row for row in ALL_KNOBS.values() if row.group.lower() == plain]:
        _print_rows(rows, options.json)
    else:
        raise _unknown(options.name)
    return 0


def _knob_or_none(name: str) -> Knob | None:
    try:
        return knob(name)
    except UnknownName:
        return None


def _unknown(name: str) -> UnknownName:
    known = [
        *ALL_KNOBS,
        *(card.lever for card in LEVERS),
        *(flag.lstrip("-") for row in ALL_KNOBS.values() for flag in row.flags),
    ]
    near = get_close_matches(name.strip().lstrip("-").replace("-", "_").lower(), known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "`localknobs knobs` lists them all."
    return UnknownName(f"There is no knob or lever {name!r}", hint)


def _print_all(as_json: bool) -> None:
    if as_json:
        print_json({"levers": [asdict(card) for card in LEVERS], "knobs": [_record(row) for row in ALL_KNOBS.values()]})
        return
    for number, card in enumerate(LEVERS):
        rows = [row for row in ALL_KNOBS.values() if row.lever == card.lever]
        print(("\n" if number else "") + heading(card.title.upper()))
        print(wrapped(card.summary, "  "))
        print(_grouped(rows) if rows else f"  No knobs yet; `localknobs knobs {card.lever}` explains the lever.")
    note("`localknobs knobs NAME` explains one knob or lever, such as temp or context.")


def _print_rows(rows: Sequence[Knob], as_json: bool) -> None:
    if as_json:
        print_json([_record(row) for row in rows])
    else:
        print(_grouped(rows))


def _grouped(rows: Sequence[Knob]) -> str:
    """Return a table of knobs, with a line before each group."""
    groups = list(dict.fromkeys(row.group for row in rows))
    ordered = sorted(rows, key=lambda row: groups.index(row.group))  # a stable sort: rows keep their order inside
    cells = [(row.name, default_text(row), _short_range(row), row.applies) for row in ordered]
    headings = ("KNOB", "DEFAULT", "RANGE", "TAKES EFFECT")
    heads, *lines = table(headings, cells, whole=(0, 2, 3), indent="  ").split("\n")
    shown, before = [heads], ""
    for row, line in zip(ordered, lines, strict=True):
        shown += [line] if row.group == before else [row.group, line]
        before = row.group
    return "\n".join(shown)


def _short_range(row: Knob) -> str:
    """Return the allowed values as a few words; `_print_knob` says them in full."""
    if not row.is_number:
        return {"names": "names", "bias": "token+bias", "texts": "texts", "text": "text", "choice": "names"}[row.kind]
    outside = [row.show(value) for value, _ in row.special if not (row.low or 0) <= value <= (row.high or value)]
    return " or ".join([row.range_text().split(",")[0], *outside])


def _print_knob(row: Knob, as_json: bool) -> None:
    effects = effects_of_knob(row)
    if as_json:
        print_json({**_record(row), "measured": [asdict(effect) for effect in effects]})
        return
    default = default_text(row)
    meaning = next((text for value, text in row.special if value == row.default), "")
    lines: list[tuple[str, object]] = [
        *((question.lower(), answer) for question, answer in knob_boxes(row) if question != "What changes"),
        ("default", f"{default} ({meaning})" if meaning else default),
        ("why this default", row.default_reason),
        ("range", f"{row.range_text()}{f'; in {row.unit}' if row.unit else ''}"),
        ("off at", "" if row.off is None or not row.is_number else row.show(row.off)),
        ("flag", ", ".join(row.flags)),
        ("lever", f"{row.lever}, group {row.group}"),
        ("source", row.source),
    ]
    print(f"{heading(row.name)}  {row.label}" if row.label != row.name else heading(row.name))
    print(wrapped(row.help) + "\n")
    print(facts((label, text) for label, text in lines if text))
    _print_effects(effects)


def _print_effects(effects: Sequence[MeasuredEffect]) -> None:
    """Print what a change did here; nothing where nothing was measured."""
    if not effects:
        return
    print(f"\n{heading('Measured here')}")
    for effect in effects[:_MOST_EFFECTS]:
        print(
            wrapped(
                f"{effect.turned} on {effect.model}, against {effect.against}: {effect.text} ({effect.when[:10]})", "  "
            )
        )
        if effect.command:
            print(f"    {effect.command}")
    if len(effects) > _MOST_EFFECTS:
        print(f"  and {len(effects) - _MOST_EFFECTS} more: --json")


def _print_card(card: LeverCard, as_json: bool) -> None:
    rows = [row for row in ALL_KNOBS.values() if row.lever == card.lever]
    effects = effects_of_lever(card.lever)
    if as_json:
        measured = [asdict(effect) for effect in effects]
        print_json({**asdict(card), "knobs": [row.name for row in rows], "measured": measured})
        return
    print(heading(card.title))
    print(wrapped(card.summary))
    for title, text in card.boxes:
        print(f"\n{heading(title)}")
        print(wrapped(text, "  "))
    print(f"\n{heading('Sources')}")
    print(wrapped(", ".join(card.sources), "  "))
    if rows:
        print(f"\n{heading('Knobs')}")
        print(wrapped(", ".join(row.name for row in rows), "  "))
    _print_effects(effects)


def _record(row: Knob) -> dict[str, Any]:
    return {**asdict(row), "range": row.range_text()}
