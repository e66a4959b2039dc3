"""`localknobs prune`: remove what killed jobs and given-up downloads of this program left behind."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from localknobs.cli.output import ask, note, print_json, table
from localknobs.errors import BadValue, Stopped
from localknobs.library.pruning import DOWNLOAD_DAYS, plan_pruning, prune
from localknobs.units import size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="say what would go, and leave it")
    add("--yes", "-y", action="store_true", help="do not ask")
    add(
        "--older-than", metavar="DAYS", type=float, default=DOWNLOAD_DAYS,
        help=f"unfinished downloads that got no byte for so many days are given up; default {DOWNLOAD_DAYS}",
    )  # fmt: skip
    add("--json", action="store_true", help="print one JSON object instead of a table; asks nothing")


def run(options: Namespace) -> int:
    """Show the leftovers, ask, and remove them."""
    if not options.older_than >= 0:
        raise BadValue(f"--older-than cannot be {options.older_than:g}", "0 takes every unfinished download.")
    plan = plan_pruning(options.older_than)
    total = sum(leftover.size_bytes for leftover in plan)
    if options.json:
        act = options.yes and not options.dry_run
        if act:
            prune(plan)
        rows = [{"path": each.path, "size_bytes": each.size_bytes, "reason": each.reason} for each in plan]
        print_json({"removed": act, "size_bytes": total, "leftovers": rows})
        return 0
    if not plan:
        note("There is nothing to remove.")
        return 0
    rows = [(each.path, size_text(each.size_bytes), each.reason) for each in plan]  # type: ignore[misc]
    print(table(("PATH", "SIZE", "WHAT IT IS"), rows, right=(1,)))  # type: ignore[arg-type]
    if options.dry_run:
        note(f"Nothing was removed; it would free {size_text(total)}.")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise BadValue("Nobody is there to ask", "--yes removes without asking.")
        if not ask(f"Remove this? It frees {size_text(total)}."):
            raise Stopped("Stopped", "Nothing was removed.")
    prune(plan)
    note(f"Removed; {size_text(total)} freed.")
    return 0
