"""What a listing shows of a file's header, remembered by path, size and time in one file of the cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from localknobs.errors import LocalknobsError, Unsupported
from localknobs.gguf_info import check_can_load, parse_header
from localknobs.paths import cache_folder, written_whole

FORMAT = 2
"""Changed whenever a header is read differently, so that nothing old is believed."""
MAX_REMEMBERED = 10_000
_LARGEST_FILE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Summary:
    """What a header says, in a few words.

    Args:
        kind: `model`, `adapter`, `control vector`, `projector`, `imatrix`, or `unknown`.
        title: The name the file gives itself.
        architecture: llama.cpp's name of the architecture.
        quant: The quantization's name.
        context: Tokens of context it was trained with, 0 when unknown.
        parameters: Values in this file.
        shards: Files the model is split into.
        damaged: Whether the file is not what it should be.
        trouble: Why it cannot be used.
    """

    kind: str = "unknown"
    title: str = ""
    architecture: str = ""
    quant: str = ""
    context: int = 0
    parameters: int = 0
    shards: int = 1
    damaged: bool = False
    trouble: str = ""


_TYPES = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)] for field in fields(Summary)}


class Summaries:
    """The summaries of files, from the cache where the file has not changed since.

    Use it for one whole listing, then call `keep`.
    """

    def __init__(self) -> None:
        self._file = cache_folder() / "headers.json"
        self._before = self._remembered()
        self._now: dict[str, tuple[int, int, Summary]] = {}
        self._read_anew = False

    def of(self, path: Path, read: Callable[[Path, os.stat_result], Summary] | None = None) -> Summary:
        """Return a file's summary; a file that cannot be opened now has a trouble that is not remembered."""
        try:
            status = path.stat()
            known = self._before.get(str(path))
            if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
                known = (status.st_size, status.st_mtime_ns, (read or read_summary)(path, status))
                self._read_anew = True
        except OSError as error:
            return Summary(damaged=True, trouble=f"It cannot be read: {error.strerror or error}")
        self._now[str(path)] = known
        return known[2]

    def keep(self) -> None:
        """Write down what was asked for since the beginning; what was not asked for is forgotten."""
        if not self._read_anew and len(self._now) == len(self._before):
            return
        kept = list(self._now.items())[:MAX_REMEMBERED]
        document = {"format": FORMAT, "files": {path: [*key, asdict(summary)] for path, (*key, summary) in kept}}
        try:
            with written_whole(self._file) as beside:
                beside.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
        except (OSError, ValueError):
            pass  # a full or closed disk: the next listing reads again

    def _remembered(self) -> dict[str, tuple[int, int, Summary]]:
        """Return what the cache holds; nothing of one that is damaged, or of another version."""
        try:
            if self._file.stat().st_size > _LARGEST_FILE:
                return {}
            document: Any = json.loads(self._file.read_bytes())
            if document["format"] != FORMAT:
                return {}
            known = {}
            for path, (size, changed, facts) in document["files"].items():
                if all(type(facts[name]) is kind for name, kind in _TYPES.items()):
                    known[path] = (size, changed, Summary(**facts))
            return known
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def read_summary(path: Path, status: os.stat_result) -> Summary:
    """Read a GGUF header into a summary.

    Raises:
        OSError: the file cannot be opened or read now.
    """
    with path.open("rb", buffering=0) as file:
        try:
            header = parse_header(file, status.st_size, path, skim=True)
        except LocalknobsError as error:
            return Summary(trouble=str(error), damaged=not isinstance(error, Unsupported))
    trouble, damaged = "", False
    try:
        if header.kind == "model":
            check_can_load(header)
    except LocalknobsError as error:
        trouble, damaged = str(error), not isinstance(error, Unsupported)
    return Summary(
        header.kind, header.text("general.name"), header.architecture, header.quant, header.context_trained,
        header.parameters, header.shards, damaged, trouble,
    )  # fmt: skip
