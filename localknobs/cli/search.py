"""`localknobs search`: find models on the hub."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from localknobs.cli.output import note, print_json, table, terminal_width
from localknobs.errors import BadValue
from localknobs.terminal_text import cells
from localknobs.units import count_text, size_text

if TYPE_CHECKING:
    from localknobs.hub.search import Found

_SORTS = ("downloads", "likes", "updated", "size")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("text", metavar="TEXT", nargs="*", help="what the name holds; none: the most popular of all")
    parser.add_argument("--sort", choices=_SORTS, default="downloads",
        help="what comes first; size: the largest of the 200 most downloaded; default: downloads")  # fmt: skip
    parser.add_argument("--limit", metavar="N", type=int, default=20, help="how many; default: 20")
    format_ = parser.add_mutually_exclusive_group()
    format_.add_argument("--gguf", action="store_true", help="only repositories with GGUF files, ready to run")
    format_.add_argument("--safetensors", action="store_true", help="only those with safetensors, to convert or tune")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def run(options: Namespace) -> int:
    """Search, and print the table."""
    from localknobs.hub.search import MOST, search

    if not 1 <= options.limit <= MOST:
        raise BadValue(f"--limit cannot be {options.limit}", f"It is 1 to {MOST:,}.")
    text = " ".join(options.text)
    format_ = "gguf" if options.gguf else "safetensors" if options.safetensors else ""
    found = search(text, sort=options.sort, limit=options.limit, format_=format_)
    if options.json:
        print_json({"models": [asdict(one) for one in found]})
        return 0
    if not found:
        note(f"No repository has {text!r} in its name: try fewer letters.")
        return 0
    columns = _columns([_cells(one) for one in found], keep=options.sort)
    right = [at for at, name in enumerate(columns) if name in _RIGHT]
    print(table([*columns], zip(*columns.values(), strict=True), right=right, whole=(0,)))
    note("SIZE is all files of a repository. What one holds: localknobs pull NAME --dry-run")
    return 0


_RIGHT = ("DOWNLOADS", "LIKES", "PARAMS", "SIZE")
_LEAST_NEEDED = ("LIKES", "FORMAT", "UPDATED", "DOWNLOADS", "PARAMS", "LICENCE")
"""Columns that a narrow terminal does without, the first to go first: a name is of no use when it is cut."""


def _cells(one: Found) -> dict[str, str]:
    return {
        "NAME": one.repo,
        "DOWNLOADS": count_text(one.downloads),
        "LIKES": count_text(one.likes),
        "UPDATED": one.updated or "-",
        "PARAMS": count_text(one.parameters) if one.parameters else "-",
        "SIZE": size_text(one.size_bytes) if one.size_bytes else "-",
        "FORMAT": " ".join(one.formats) or "-",
        "GATED": "private" if one.private else "gated" if one.gated else "-",
        "LICENCE": one.licence or "-",
    }


def _columns(rows: list[dict[str, str]], keep: str) -> dict[str, list[str]]:
    """Return the columns that fit the terminal; the one that is sorted by goes last."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    width = terminal_width()
    for name in sorted(_LEAST_NEEDED, key=lambda name: name == keep.upper()):
        needed = sum(2 + max(map(cells, (heading, *column))) for heading, column in columns.items()) - 2
        if width and needed > width:
            del columns[name]
    return columns
