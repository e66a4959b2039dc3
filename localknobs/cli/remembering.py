"""Keeps what a verb measured for the cards of knobs and levers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

from localknobs.cli.output import note
from localknobs.measured_effects import MeasuredEffect, remember_effects


def command_line() -> str:
    """Return the command line that does the same for people to read: a screen asks for JSON, or for a plan first."""
    return shlex.join(["localknobs", *(word for word in sys.argv[1:] if word not in ("--json", "--dry-run"))])


def remember(effects: Iterable[MeasuredEffect | None]) -> None:
    """Keep effects; a place that cannot be written is a note, as the work itself is done."""
    try:
        remember_effects([effect for effect in effects if effect])
    except OSError as error:
        note(f"What was measured is not kept for the knobs' cards: {error}")
