"""Writing a report to a file: what the file's name ends in says as what."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from localknobs.errors import BadValue
from localknobs.evaluate.results import Report
from localknobs.jobs import partial_file

KINDS = (".html", ".svg", ".png", ".json")


def check_outputs(targets: Sequence[Path]) -> None:
    """Refuse names that cannot be written, before anything is measured.

    Raises:
        BadValue: the name says no kind of file, or its folder is missing.
    """
    for target in targets:
        if target.suffix.lower() not in KINDS:
            raise BadValue(f"{target} does not say what to write", f"Names end in {', '.join(KINDS)}.")
        if os.path.isdir(target):
            raise BadValue(f"{target} is a folder", "Name a file.")


def write_report(report: Report, target: Path, vram_bytes: int = 0) -> None:
    """Write a report, whole or not at all.

    Args:
        report: What was measured.
        target: Where; its suffix is one of `KINDS`.
        vram_bytes: Memory of the card, a line in the picture.

    Raises:
        BadValue: a picture of what has none.
        NotEnough: the disk is full.
    """
    kind = target.suffix.lower()
    if kind == ".json":
        data = json.dumps(report.as_mapping(), indent=1, ensure_ascii=False, allow_nan=False).encode()
    elif kind == ".html":
        from localknobs.evaluate.page import page_of

        data = page_of(report, vram_bytes).encode()
    else:
        from localknobs.evaluate.picture import picture_of

        picture = picture_of(report, kind.removeprefix("."), vram_bytes)
        if picture is None:
            raise BadValue(
                "There is nothing to draw", "A picture shows two models and more, or the suites needle or position."
            )
        data = picture
    with partial_file(target) as file:
        file.write_bytes(data)
