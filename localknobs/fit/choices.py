"""From what a user types to the files to choose from: those of a model here, or of a repository on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.errors import BadValue, LocalknobsError, NotFound, Unsupported
from localknobs.fit.advice import Candidate
from localknobs.fit.machine import FitMachine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import Header, read_headers
from localknobs.hub.spec import Spec, parse_spec
from localknobs.library import find_model, installed_models
from localknobs.library.names import DEFAULT_QUANT

if TYPE_CHECKING:
    from localknobs.hub.repository import Repository

MOST_ALIKE = 40
"""Files of one model that are looked at."""


@dataclass(slots=True)
class Choices:
    """The files of one model.

    Args:
        title: What the model calls itself.
        reference: Prices the file that was named, or that stands for all.
        candidates: All of them, the named one first.
        path: The named file; None for a repository.
    """

    title: str
    reference: Pricer
    candidates: list[Candidate]
    path: Path | None = None

    def close(self) -> None:
        """Close every pricer."""
        for pricer in {id(one): one for one in (self.reference, *(c.pricer for c in self.candidates)) if one}.values():
            pricer.close()


def local_choices(name: str, machine: FitMachine, planning: Planning, draft: Sequence[Header] = ()) -> Choices:
    """Return a model of this machine with the other quantizations of it that are here.

    Raises:
        NotFound, BadFile, Unsupported: there is no such model, or it cannot be read.
    """
    path = find_model(name)
    headers = read_headers(path)
    reference = Pricer(headers, machine, draft, planning)
    candidates = [_candidate(path, headers, reference)]
    for other in _alike(path, headers):
        try:
            found = read_headers(other)
        except LocalknobsError:
            continue  # a damaged file is `ls`'s to report
        candidates.append(_candidate(other, found, Pricer(found, machine, draft, planning)))
    return Choices(headers[0].name, reference, candidates, path)


def _candidate(path: Path, headers: Sequence[Header], pricer: Pricer) -> Candidate:
    return Candidate(headers[0].quant, sum(header.tensor_bytes for header in headers), path, pricer)


def _alike(path: Path, headers: Sequence[Header]) -> list[Path]:
    """Return other files here that hold the same model: of one architecture, name and number of parameters."""
    first, parameters = headers[0], sum(header.parameters for header in headers)
    alike = []
    for entry in installed_models():
        same = entry.architecture == first.architecture and entry.parameters == parameters and entry.kind == "model"
        if same and entry.path != path and entry.quant != first.quant and not entry.trouble:
            alike.append(entry.path)
    return alike[:MOST_ALIKE]


def hub_choices(spec: Spec, machine: FitMachine, planning: Planning, draft: Sequence[Header] = ()) -> Choices:
    """Return the quantizations of the repository that a user named.

    Raises:
        Offline: offline work is asked for.
        NotFound, HubFailure, BadFile: there is no such repository or file, or it cannot be read.
    """
    from localknobs.hub.repository import open_repository  # the HTTP client loads with it

    return repository_choices(open_repository(spec), spec, machine, planning, draft)


def repository_choices(
    repository: Repository, spec: Spec, machine: FitMachine, planning: Planning,
    draft: Sequence[Header] = (),
) -> Choices:  # fmt: skip
    """Return the quantizations that a repository on the hub holds; one header is fetched, by ranges.

    Raises:
        Offline: offline work is asked for.
        NotFound, HubFailure, BadFile: there is no such file, or it cannot be read.
    """
    from localknobs.hub.quants import choose
    from localknobs.hub.remote import remote_headers

    models = [file for file in repository.files if file.kind == "model"]
    if not models:
        raise Unsupported(
            f"{repository.name} holds no GGUF file, whose header says what it takes",
            "Find a repository with one: `localknobs search`; or pull the checkpoint and quantize it.",
        )
    if spec.quant or spec.path:
        named = choose(models, repo=repository.name, quant=spec.quant, path=spec.path)
    else:
        named = min(models, key=lambda file: (file.quant != DEFAULT_QUANT, file.size_bytes))
    headers = remote_headers(named)
    weights = sum(header.tensor_bytes for header in headers)
    around = named.size_bytes - weights  # the header of each is about as long
    reference = Pricer(headers, machine, draft, planning)
    candidates = [
        Candidate(
            file.quant or file.path,
            weights if file is named else max(1, file.size_bytes - around),
            pricer=reference if file is named else None,
            fetch=f"{repository.name}:{file.quant}" if file.quant else f"{repository.name}/{file.path}",
        )
        for file in sorted(models, key=lambda file: file is not named)
    ]
    return Choices(headers[0].text("general.name") or repository.name, reference, candidates)


def choices_of(spec: str, machine: FitMachine, planning: Planning, draft: Sequence[Header] = ()) -> Choices:
    """Return the files that a text names: a model here, or else a repository on the hub.

    Raises:
        NotFound, BadFile, Unsupported, HubFailure, Offline: there is no such model, or it cannot be read.
    """
    try:
        return local_choices(spec, machine, planning, draft)
    except NotFound:
        repository = _as_repository(spec)
        if repository is None:
            raise
    return hub_choices(repository, machine, planning, draft)


def _as_repository(spec: str) -> Spec | None:
    """Return the repository that a text may name; None for what looks like a path, or no such name."""
    if spec.startswith((".", "/", "~")) or "/" not in spec:
        return None
    try:
        return parse_spec(spec)
    except BadValue:
        return None
