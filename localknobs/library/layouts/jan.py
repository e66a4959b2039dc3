"""Jan: `llamacpp/models/<org>/<repo>/model.yml` says where the model's file is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from localknobs.library.entry import Found
from localknobs.library.layouts.folder import unfinished_download
from localknobs.library.names import unfinished
from localknobs.library.walk import Report, is_file, walk

_LINE = re.compile(r"(model_path|mmproj_path|model_sha256):[ \t]*(?P<quote>['\"]?)(.+?)(?P=quote)[ \t]*")
_LARGEST_FILE = 2**18


def read_jan(root: Path, source: str, report: Report) -> Iterator[Found]:
    """Yield the models of Jan's data folder, named by the folders they are in."""
    models = root / "llamacpp" / "models"
    for folder, files in walk(models, report):
        name = os.path.relpath(folder, models).replace(os.sep, "/")
        if "model.yml" in files:
            facts = _facts(Path(files["model.yml"].path), report)
            if path := facts.get("model_path"):
                file = root / path  # an absolute one stays as it is
                projector = root / facts["mmproj_path"] if "mmproj_path" in facts else None
                missing = not os.path.isfile(file)
                yield Found(
                    name, source, (file,), aliases=(file.name,), sha256=facts.get("model_sha256", "").lower(),
                    projector=projector if projector and os.path.isfile(projector) else None,
                    state="damaged" if missing else "whole",
                    trouble=f"Its file {file} is missing. Import it into Jan again." if missing else "",
                )  # fmt: skip
        for partial, entry in files.items():
            if unfinished(partial) and is_file(entry):
                yield unfinished_download(name, source, Path(entry.path))


def _facts(file: Path, report: Report) -> dict[str, str]:
    """Return the plain lines of a model.yml; its lists and texts of several lines are of no use here."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            text = lines.read(_LARGEST_FILE)
    except OSError as error:
        report.add(file, error)
        return {}
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {each[1]: each[3] for each in found if each}
