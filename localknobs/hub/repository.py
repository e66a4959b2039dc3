"""What a repository on the hub holds, at one commit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from localknobs.errors import HubFailure
from localknobs.hub.client import api, failure
from localknobs.hub.offline import refuse_offline
from localknobs.hub.quants import Part, RemoteFile, grouped
from localknobs.hub.spec import Spec


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit.

    Args:
        name: `org/name`, as the hub spells it.
        revision: Branch, tag or commit that was asked for.
        commit: Commit that it stands for.
        files: What can be fetched, see `quants.grouped`.
        parts: Every file in it.
        gated: Whether its authors want consent.
        licence: Its licence as the hub names it; empty when it names none.
    """

    name: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    parts: tuple[Part, ...]
    gated: bool = False
    licence: str = ""


def open_repository(spec: Spec) -> Repository:
    """Ask the hub what a repository holds.

    Raises:
        Offline: offline work is asked for.
        NotFound: there is no such repository or revision, or it is private.
        HubFailure: it is gated, or the hub cannot be reached.
    """
    refuse_offline(f"Reading {spec.repo}")
    try:
        info = api().model_info(spec.repo, revision=spec.revision, files_metadata=True, timeout=30)
    except Exception as error:  # the library's own, those of its connection
        raise failure(error, spec.repo) from None
    commit = info.sha or ""
    if not re.fullmatch("[0-9a-f]{40}", commit) or info.siblings is None:
        raise HubFailure(f"The hub says nothing of the files of {spec.repo}", "Check HF_ENDPOINT.")
    parts = tuple(
        Part(
            file.rfilename,
            file.lfs.size if file.lfs else file.size or 0,
            (file.lfs.sha256 if file.lfs else file.blob_id) or "",
        )
        for file in info.siblings
        if _is_safe(file.rfilename)
    )
    return Repository(
        name=info.id,
        revision=spec.revision,
        commit=commit,
        files=grouped(info.id, commit, parts),
        parts=parts,
        gated=bool(info.gated),
        licence=licence_of(info.tags or []),
    )


def _is_safe(path: str) -> bool:
    """Return whether a path stays inside the folder it is written to, and can be shown."""
    parts = path.replace("\\", "/").split("/")
    return path.isprintable() and not {"..", "", "."} & {*parts}  # an empty one begins an absolute path


def files_of(spec: Spec) -> list[RemoteFile]:
    """Return what can be fetched from a repository, shards together; see `open_repository` for what it raises."""
    return list(open_repository(spec).files)


def licence_of(tags: list[str]) -> str:
    """Return the licence among a repository's tags."""
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
