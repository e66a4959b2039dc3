"""`localknobs rm MODEL`: remove a model of the own folder, after saying what goes and asking."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from localknobs.cli.output import ask, note
from localknobs.errors import BadValue, Stopped
from localknobs.library import RemovalPlan, find_entry, plan_removal, remove
from localknobs.terminal_text import printable
from localknobs.units import size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="a name from `localknobs ls`, or a path in the library"
    )
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and leave it")


def run(options: Namespace) -> int:
    """Say what goes, ask, and remove it."""
    plans = [_plan(name) for name in dict.fromkeys(options.models)]
    for plan in plans:
        for path in plan.paths:
            print(printable(f"{path}/" if path.is_dir() and not path.is_symlink() else f"{path}"))
        for remark in plan.remarks:
            note(remark)
    total = size_text(sum(plan.freed_bytes for plan in plans))
    if options.dry_run:
        note(f"Nothing was removed; it would free {total}.")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise BadValue("Nobody is there to ask", "--yes removes without asking.")
        if not ask(f"Remove this for good? It frees {total}."):
            raise Stopped("Stopped", "Nothing was removed.")
    for plan in plans:
        remove(plan)
    note(f"Removed; {total} freed.")
    return 0


def _plan(name: str) -> RemovalPlan:
    entry = find_entry(name)
    if Path(os.path.abspath(os.path.expanduser(name))) in entry.also_at:
        raise BadValue(
            f"{name} is another copy of {entry.name}, and {entry.path} would go in its place",
            f"Delete the copy yourself, or name the model: localknobs rm {entry.name}",
        )
    return plan_removal(entry)
