"""`localknobs reports`: what `localknobs eval` measured before, listed, printed again, written to files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from localknobs.cli.output import note, print_json, table
from localknobs.errors import BadValue


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add("report", metavar="REPORT", nargs="?", help="a name of the list, its beginning, `last`, or a JSON file of eval")
    add("-o", "--output", metavar="F", action="append", default=[], type=Path, help=
        "write it: .html (one file with everything), .svg or .png (the picture), .json; repeatable")  # fmt: skip
    add("--vram", metavar="SIZE", default="", help="memory of the card, such as 12G: a line in the picture")
    add("--delete", action="store_true", help="delete it")
    add("--json", action="store_true", help="print a JSON object")


def run(options: Namespace) -> int:
    """List all, or show one."""
    from localknobs.evaluate.kept_reports import delete_report, find_report
    from localknobs.evaluate.writing import check_outputs, write_report
    from localknobs.fit.cards import parse_size

    if options.report is None:
        if options.output or options.delete:
            raise BadValue("No report is named", "Name one of the list, or `last`.")
        return _list(options.json)
    check_outputs(options.output)
    vram_bytes = parse_size(options.vram) if options.vram else 0
    kept = find_report(options.report)
    for target in options.output:
        write_report(kept.report, target, vram_bytes=vram_bytes)
        note(f"Written: {target}")
    if options.delete:
        delete_report(kept)
        note(f"Deleted: {kept.name}")
    elif options.json:
        print_json({**kept.report.as_mapping(), "kept": kept.name})
    elif not options.output:
        from localknobs.cli.report import print_report

        print_report(kept.report, vram_bytes=vram_bytes)
    return 0


def _list(as_json: bool) -> int:
    from localknobs.evaluate.kept_reports import kept_reports

    found = kept_reports()
    if as_json:
        rows = [
            {"name": one.name, "path": str(one.path), "made": one.report.made, "base": one.report.base,
             "models": [model.label for model in one.report.models], "command": one.report.command}
            for one in found
        ]  # fmt: skip
        print_json({"reports": rows})
    elif found:
        print(table(("REPORT", "OF"), [(one.name, one.title) for one in found], whole=(0,)))
    else:
        note("Nothing was measured yet: localknobs eval MODEL --base PARENT")
    return 0
