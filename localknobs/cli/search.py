"""`localknobs search`: find models on the hub."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from localknobs.cli.output import note, print_json, table
from localknobs.errors import BadValue
from localknobs.units import count_text, size_text

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
    rows = [
        (
            one.repo,
            count_text(one.downloads),
            count_text(one.likes),
            one.updated or "-",
            count_text(one.parameters) if one.parameters else "-",
            size_text(one.size_bytes) if one.size_bytes else "-",
            " ".join(one.formats) or "-",
            "private" if one.private else "gated" if one.gated else "-",
            one.licence or "-",
        )
        for one in found
    ]
    headings = ("NAME", "DOWNLOADS", "LIKES", "UPDATED", "PARAMS", "SIZE", "FORMAT", "GATED", "LICENCE")
    print(table(headings, rows, right=(1, 2, 4, 5), whole=(0,)))
    note("SIZE is all files of a repository. What one holds: localknobs pull NAME --dry-run")
    return 0
