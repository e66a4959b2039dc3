"""`localknobs redo CARD`: make something again, as its card says, and compare."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

from localknobs.cli.output import facts, note
from localknobs.errors import BadFile, BadValue
from localknobs.ledger import card_path, changed_sources, fingerprint, read_card
from localknobs.paths import user_path


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("card", metavar="CARD", type=Path, help="a card, or the file or folder it belongs to")
    parser.add_argument("--anyway", action="store_true", help="also when what it was made of has changed")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and whether the sources changed")


def run(options: Namespace) -> int:
    """Check that the sources are the same, run the verb again, and say whether the result is the same."""
    from localknobs.cli.main import VERBS
    from localknobs.cli.main import run as run_words

    path = user_path(options.card)
    card = read_card(path)
    if card.verb not in VERBS or card.verb == "redo":
        raise BadFile(f"The card names a verb there is not: {card.verb}", "It may be of a newer localknobs.")
    changed = changed_sources(card)
    command = shlex.join(["localknobs", card.verb, *card.arguments])
    if options.dry_run:
        print(facts([("would run", command), ("in", card.folder), ("sources", "; ".join(changed) or "the same")]))
        return 0
    if changed and not options.anyway:
        raise BadValue(f"It would not become the same: {'; '.join(changed)}", "--anyway makes it all the same.")
    if not os.path.isdir(card.folder):
        raise BadValue(f"The folder it was made in is gone: {card.folder}", f"Run it where you like: {command}")
    artefact = Path(os.path.abspath(path.with_name(card.name) if path.is_file() else path))
    note(command)
    before = os.getcwd()
    os.chdir(card.folder)
    try:
        code = run_words([card.verb, *card.arguments])
    finally:
        os.chdir(before)
    if code == 0 and artefact.exists() and card_path(artefact).exists():
        same = fingerprint(artefact) == card.fingerprint
        note("The content is the same as before." if same else "The content differs from before.")
    return code
