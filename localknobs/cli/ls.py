"""`localknobs ls`: the models on this machine."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from localknobs.cli.output import note, print_json, table, wrapped
from localknobs.library import BUILT_IN, ModelEntry, installed_models
from localknobs.paths import models_folder
from localknobs.terminal_text import printable
from localknobs.units import count_text, size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def run(options: Namespace) -> int:
    """Print the table; what is said beside it goes to standard error."""
    entries = installed_models()
    if options.json:
        print_json({"models_folder": models_folder(), "models": [asdict(entry) for entry in entries]})
        return 0
    if entries:
        print(table(("NAME", "SIZE", "QUANT", "CTX", "PARAMS", "KIND"), map(_row, entries), right=(1, 3, 4)))
    for entry in entries:
        if entry.trouble:
            print(wrapped(printable(f"{entry.name}: {entry.trouble}"), "  ", "\n"))
    if all(entry.name == BUILT_IN for entry in entries):
        note(f"You have no models of your own yet: put .gguf files into {models_folder()}")
    elif sys.stderr.isatty():
        note(f"Your models are in {models_folder()}")
    return 0


def _row(entry: ModelEntry) -> tuple[str, ...]:
    return (
        entry.name,
        size_text(entry.size_bytes),
        entry.quant or "-",
        f"{entry.context:,}" if entry.context else "-",
        count_text(entry.parameters) if entry.parameters else "-",
        f"{entry.architecture} {entry.kind}".strip(),
    )
