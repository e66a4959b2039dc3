"""The ledger: a card beside every file or folder made here, which says how to make it again, and what was measured.

The card of `model-Q4_K_M.gguf` is `model-Q4_K_M.gguf.card.json`; that of a folder lies in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localknobs.errors import BadFile, LocalknobsError, NotFound
from localknobs.paths import written_whole

ENDING = ".card.json"
FOLDER_CARD = f"localknobs{ENDING}"
FORMAT = 1
WHOLE_BYTES = 64 * 2**20
"""Files up to this size are hashed whole; of larger ones, samples spread over all of it."""
_SAMPLES, _SAMPLE_BYTES = 64, 64 * 1024
_LARGEST_CARD = 16 * 2**20
_PACKAGES = ("llama-cpp-python", "gguf", "numpy", "torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that something was made of.

    Args:
        path: Where it lay.
        size_bytes: Its size, that of all files of a folder.
        fingerprint: See `fingerprint`.
    """

    path: str
    size_bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Card:
    """How something was made, and what was measured of it.

    Args:
        name: Its name when it was made.
        size_bytes: Its size.
        fingerprint: Its content, see `fingerprint`.
        verb: Verb that made it.
        arguments: Words after the verb, as they were typed.
        folder: Folder in which they were typed: relative paths begin there.
        sources: What it was made of.
        versions: Versions of this program and of the libraries that were installed.
        made: When, ISO 8601 in UTC.
        took_s: How long the verb took, in seconds.
        measurements: What was measured since, the oldest first.
    """

    name: str
    size_bytes: int
    fingerprint: str
    verb: str
    arguments: tuple[str, ...]
    folder: str
    sources: tuple[Source, ...] = ()
    versions: Mapping[str, str] = ()  # type: ignore[assignment]
    made: str = ""
    took_s: float = 0.0
    measurements: tuple[Mapping[str, Any], ...] = ()


def card_path(artefact: Path) -> Path:
    """Return where the card of a file or folder is, or would be."""
    return artefact / FOLDER_CARD if artefact.is_dir() else artefact.with_name(artefact.name + ENDING)


def fingerprint(path: Path) -> str:
    """Return what names the content of a file or folder.

    Returns:
        `sha256:` of a file up to 64 MiB; `sampled-sha256:` of a larger one, over its size and 64 evenly spread pieces
        of 64 KiB; `folder-sha256:` over the names and fingerprints of a folder's files, cards left out.
    """
    if path.is_dir():
        whole = hashlib.sha256()
        for part in _files_of(path):
            whole.update(f"{part.relative_to(path).as_posix()}\0{fingerprint(part)}\0".encode("utf-8", "replace"))
        return f"folder-sha256:{whole.hexdigest()}"
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        sampled = hashlib.sha256(str(size).encode("ascii"))
        for at in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * at // (_SAMPLES - 1))
            sampled.update(file.read(_SAMPLE_BYTES))
    return f"sampled-sha256:{sampled.hexdigest()}"


def _files_of(folder: Path) -> Iterator[Path]:
    yield from sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(ENDING))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in _files_of(path)) if path.is_dir() else path.stat().st_size


def source_of(path: Path) -> Source:
    """Return the record of something that is about to be used."""
    return Source(os.path.abspath(path), size_of(path), fingerprint(path))


def record(
    artefacts: Sequence[Path], verb: str, arguments: Sequence[str], sources: Sequence[Path], took_s: float
) -> list[Path]:
    """Write a card beside each artefact; an older card is replaced, since what it described is.

    Args:
        artefacts: What was made.
        verb: Verb that made it.
        arguments: Words after the verb.
        sources: What it was made of; those that are gone by now are left out.
        took_s: Seconds it took.

    Raises:
        LocalknobsError: a card cannot be written; the artefact is there all the same.
    """
    made_of = tuple(source_of(path) for path in sources if path.exists())
    written = []
    for artefact in artefacts:
        card = Card(
            artefact.name, size_of(artefact), fingerprint(artefact), verb, tuple(arguments), os.getcwd(), made_of,
            versions(), datetime.now(UTC).isoformat(timespec="seconds"), round(took_s, 3),
        )  # fmt: skip
        written.append(_write(card_path(artefact), card))
    return written


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"localknobs": version("localknobs"), "python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def read_card(path: Path) -> Card:
    """Return a card.

    Args:
        path: The card, or the file or folder it belongs to.

    Raises:
        NotFound: there is none.
        BadFile: it cannot be read.
    """
    file = path if path.name.endswith(ENDING) and path.is_file() else card_path(path)
    if not file.is_file():
        raise NotFound(f"There is no card of {path}", "Only what localknobs made since it keeps cards has one.")
    try:
        if file.stat().st_size > _LARGEST_CARD:
            raise ValueError("it is too large")
        document = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.pop("format", 0) != FORMAT:
            raise ValueError("it is of another version")
        known = {field.name for field in fields(Card)}
        values = {name: value for name, value in document.items() if name in known}
        values["sources"] = tuple(Source(**source) for source in values.get("sources", ()))
        values["arguments"] = tuple(map(str, values["arguments"]))
        values["measurements"] = tuple(dict(one) for one in values.get("measurements", ()))
        values["versions"] = dict(values.get("versions", {}))
        return Card(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"The card {file} cannot be read: {error}", "Delete it, or make the file again.") from None


def add_measurement(artefact: Path, measurement: Mapping[str, Any]) -> bool:
    """Add what was measured of something to its card; one of the same kind and settings is replaced.

    Args:
        artefact: What was measured.
        measurement: `kind`, `settings`, and values, for JSON.

    Returns:
        Whether it has a card.

    Raises:
        BadFile, LocalknobsError: the card cannot be read or written.
    """
    try:
        card = read_card(artefact)
    except NotFound:
        return False
    now = {**measurement, "when": datetime.now(UTC).isoformat(timespec="seconds")}

    def same(one: Mapping[str, Any]) -> bool:
        return all(one.get(key) == now.get(key) for key in ("kind", "settings"))

    kept = tuple(one for one in card.measurements if not same(one))
    _write(card_path(artefact), replace(card, measurements=(*kept, now)))
    return True


def changed_sources(card: Card) -> list[str]:
    """Return what is not any more as it was when the card was written, as sentences."""
    changed = []
    for source in card.sources:
        path = Path(source.path)
        if not path.exists():
            changed.append(f"{source.path} is gone")
        elif fingerprint(path) != source.fingerprint:
            changed.append(f"{source.path} is not the same any more")
    return changed


def _write(path: Path, card: Card) -> Path:
    try:
        with written_whole(path) as beside:
            beside.write_text(json.dumps({"format": FORMAT, **asdict(card)}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LocalknobsError(
            f"The card {path} cannot be written: {error.strerror or error}", "The file itself is complete."
        ) from None
    return path
