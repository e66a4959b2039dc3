"""`localknobs import PATH`: models that lie anywhere join the list, by their place, by links, or copied."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from localknobs.cli.output import note
from localknobs.cli.progress import run_job
from localknobs.library import extra_places
from localknobs.library.importing import ImportPlan, forget_place, import_models, plan_import
from localknobs.terminal_text import printable
from localknobs.units import size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "path", metavar="PATH", type=Path, nargs="?",
        help="a GGUF file, or a folder with models in it; without one, the places that are listed already",
    )  # fmt: skip
    ways = parser.add_mutually_exclusive_group()
    for how, text in (
        ("link", "put links into the models folder"),
        ("hardlink", "give the files a second name in the models folder; on the same disk only"),
        ("copy", "copy the files into the models folder; checked, whole or not at all"),
    ):
        ways.add_argument(f"--{how}", dest="how", action="store_const", const=how, default="place", help=text)
    ways.add_argument("--forget", action="store_true", help="take PATH off the list of places; the files stay")
    parser.add_argument("--dry-run", action="store_true", help="check, and say what would be done")


def run(options: Namespace) -> int:
    """Import, or say what would be imported."""
    if options.path is None:
        for place in extra_places():
            print(printable(str(place)))
        if not extra_places():
            note("No places are listed yet: localknobs import FOLDER adds one, and leaves its files where they are.")
        return 0
    if options.forget:
        print(printable(f"{forget_place(options.path)} is off the list; its files stay where they are."))
        return 0
    plan = plan_import(options.path, options.how)
    if options.dry_run:
        _show(plan)
        note("Nothing was done.")
        return 0
    made = run_job(import_models(plan), stopped="Nothing was imported.")
    for file in made:
        print(printable(str(file)))
    count = f"{len(plan.models)} model{'s' if len(plan.models) != 1 else ''}"
    note(f"{count} imported; `localknobs ls` lists {'them' if len(plan.models) != 1 else 'it'}.")
    return 0


def _show(plan: ImportPlan) -> None:
    if plan.how == "place":
        print(printable(f"{plan.source} would be listed: {', '.join(plan.models)}"))
    for file, target in plan.files:
        print(printable(f"{file} -> {target}"))
    if plan.how == "copy":
        note(f"{size_text(plan.size_bytes)} would be copied.")
