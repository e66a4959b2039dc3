"""What a download would do: which files, which of them are here, how many bytes are still to come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localknobs.errors import NotFound
from localknobs.hardware import check_disk_space
from localknobs.hub.cache import CachedRepository
from localknobs.hub.partial import claimed_bytes
from localknobs.hub.quants import Part, RemoteFile, checkpoint_parts, choose
from localknobs.hub.repository import Repository
from localknobs.hub.spec import Spec


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """Files to be fetched together.

    Args:
        repo: `org/name`.
        revision: Branch, tag or commit that was asked for.
        commit: Commit that it stands for.
        files: What the user gets, the model first.
        parts: The files to fetch, in order.
        missing_bytes: Bytes that are not here yet.
        folder: The repository's folder in the cache.
        rate_limit: Most bytes per second; 0 for no limit.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    parts: tuple[Part, ...]
    missing_bytes: int
    folder: Path
    rate_limit: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(part.size_bytes for part in self.parts)


def plan_download(
    repository: Repository, spec: Spec, *, projector: bool = False, rate_limit: float = 0.0
) -> DownloadPlan:
    """Plan the download of what a user named.

    Args:
        repository: From `open_repository`.
        spec: What the user named.
        projector: Whether the projector that a model needs to see images is fetched with it.
        rate_limit: Most bytes per second; 0 for no limit.

    Raises:
        NotFound: the repository does not hold it.
    """
    single = [part for part in repository.parts if part.path == spec.path]
    if single and not spec.path.lower().endswith(".gguf"):  # any other file that was named in full
        files: tuple[RemoteFile, ...] = (
            RemoteFile(repository.name, repository.commit, "checkpoint", "", (single[0],)),
        )
    else:
        chosen = choose(repository.files, repo=repository.name, quant=spec.quant, path=spec.path)
        files = (chosen, _projector(repository)) if projector else (chosen,)
    return plan_parts(repository, tuple(part for file in files for part in file.parts), files, rate_limit)


def plan_parts(
    repository: Repository, parts: tuple[Part, ...], files: tuple[RemoteFile, ...] = (), rate_limit: float = 0.0
) -> DownloadPlan:
    """Plan the download of some files of a repository."""
    cached = CachedRepository(repository.name)
    missing = sum(part.size_bytes - held_bytes(cached, repository.commit, part) for part in parts)
    return DownloadPlan(
        repository.name, repository.revision, repository.commit, files, parts, missing, cached.folder, rate_limit
    )


def held_bytes(cached: CachedRepository, commit: str, part: Part) -> int:
    """Return how many bytes of a file are in the cache, an unfinished one counted as its journal claims."""
    if cached.holds(commit, part):
        return part.size_bytes
    return claimed_bytes(cached.partial(part), cached.journal(part), part.size_bytes)


def check_space(plan: DownloadPlan) -> None:
    """Refuse a download that does not fit on the disk.

    Raises:
        NotEnough: it does not fit.
    """
    check_disk_space(plan.folder, plan.missing_bytes, plan.repo, "Free some space, or set HF_HUB_CACHE elsewhere.")


def plan_without_weights(repository: Repository) -> DownloadPlan:
    """Plan the download of a checkpoint's configuration and tokenizer alone.

    Raises:
        NotFound: the repository holds no checkpoint.
    """
    parts = checkpoint_parts(repository.parts, weights=False)
    if not parts:
        raise NotFound(f"{repository.name} holds no checkpoint: it has no config.json", "Name another repository.")
    return plan_parts(repository, parts)


def _projector(repository: Repository) -> RemoteFile:
    """Return the projector of most use: 16-bit floats before others, as programs for images prefer it."""
    found = [file for file in repository.files if file.kind == "projector"]
    if not found:
        raise NotFound(f"{repository.name} has no projector (mmproj)", "Leave out --mmproj: the model reads text only.")
    return min(found, key=lambda file: ("F16", "BF16").index(file.quant) if file.quant in ("F16", "BF16") else 2)
