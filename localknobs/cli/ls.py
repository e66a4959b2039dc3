"""`localknobs ls`: the models on this machine."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from localknobs.cli.output import (
    NARROWEST,
    note,
    print_json,
    table,
    terminal_width,
    wrapped,
)
from localknobs.library import BUILT_IN, SOURCES, ModelEntry, list_models
from localknobs.paths import models_folder
from localknobs.terminal_text import cells, printable, shortened_in_the_middle
from localknobs.units import count_text, size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "--source", choices=tuple(SOURCES), action="append", default=[],
        help="only the models of one program; may be given again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def run(options: Namespace) -> int:
    """Print the table; what is said beside it goes to standard error."""
    listing = list_models(options.source)
    entries = listing.entries
    if options.json:
        unreadable = [{"folder": folder, "reason": reason} for folder, reason in listing.unreadable]
        models = [{**asdict(entry), "usable": entry.usable} for entry in entries]
        print_json({"models_folder": models_folder(), "models": models, "unreadable": unreadable})
        return 0
    if entries:
        headings = ("NAME", "SIZE", "QUANT", "CTX", "PARAMS", "KIND", "SOURCE")
        print(table(headings, _fitted(list(map(_row, entries)), headings), right=(1, 3, 4)))
    for entry in entries:
        if entry.trouble:
            print(wrapped(printable(f"{entry.name}: {entry.trouble}"), "  ", "\n"))
    for folder, reason in listing.unreadable:
        note(f"{folder} was not looked into: {reason}")
    if not options.source and all(entry.name == BUILT_IN for entry in entries):
        note(f"You have no models of your own yet: put .gguf files into {models_folder()}")
    elif not entries:
        note("There is no model there.")
    elif sys.stderr.isatty():
        note(f"Your models are in {models_folder()}")
    return 0


def _row(entry: ModelEntry) -> tuple[str, ...]:
    if entry.kind == "model":
        kind = entry.architecture or entry.kind
    else:
        kind = (
            entry.kind
            if entry.kind in ("checkpoint", "control vector")
            else f"{entry.architecture} {entry.kind}".strip()
        )
    return (
        entry.name,
        size_text(entry.size_bytes),
        entry.quant or "-",
        f"{entry.context:,}" if entry.context else "-",
        count_text(entry.parameters) if entry.parameters else "-",
        kind if entry.state == "whole" else entry.state,
        entry.source,
    )


def _fitted(rows: list[tuple[str, ...]], headings: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Shorten long names in their middle where the terminal is narrow: both the maker and the quantization tell."""
    width = terminal_width()
    if not width:
        return rows
    columns = list(zip(headings, *rows, strict=True))[1:]
    room = max(NARROWEST, width - sum(2 + max(map(cells, column)) for column in columns))
    return [(shortened_in_the_middle(name, room), *rest) for name, *rest in rows]
