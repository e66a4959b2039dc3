"""Writing a report to a file: what the file's name ends in says as what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from localknobs.errors import BadValue
from localknobs.evaluate.results import Report
from localknobs.paths import written_whole

KINDS = (".html", ".svg", ".png", ".json")


def check_outputs(targets: Sequence[Path]) -> None:
    """Refuse names that say no kind of file, before anything is measured.

    Raises:
        BadValue: the name ends in something else.
    """
    for target in targets:
        if target.suffix.lower() not in KINDS:
            raise BadValue(f"{target} does not say what to write", f"Names end in {', '.join(KINDS)}.")


def write_report(report: Report, target: Path, vram_bytes: int = 0) -> None:
    """Write a report, whole or not at all."""
    with written_whole(target) as file:
        file.write_text(json.dumps(report.as_mapping(), indent=1), encoding="utf-8")
