"""`localknobs tui [MODEL]`: the terminal interface."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from localknobs.errors import BadValue


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("model", nargs="?", help="a GGUF file or a name from `localknobs ls` (default: built-in)")


def run(options: Namespace) -> int:
    """Open the screen; return its exit code."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadValue(
            "The terminal interface needs a terminal", "In a pipe or a script use: localknobs chat -p PROMPT"
        )
    from localknobs.tui.app import run as run_app

    return run_app(options.model)
