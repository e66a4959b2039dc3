"""What file names tell: quantization, shard, projector, and that something is not finished."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_LABEL = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]{1,3}){0,3}|TQ[12]_0|[MN][XV]FP4(?:_MOE)?|BF16|FP?16|FP?32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
DEFAULT_QUANT = "Q4_K_M"
"""What a repository or a name means that tells of no quantization."""
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
_PROJECTOR = re.compile(r"(^|[-_.])mmproj", re.IGNORECASE)
_UNFINISHED = re.compile(
    r"(?P<name>.+?)(\.localknobs)?\.incomplete|(?P<part>.+)\.part|(?P<ollama>sha256-[0-9a-f]{64})-partial"
    r"|(?P<progress>.+)\.downloadInProgress|incomplete-(?P<gpt4all>.+\.gguf)|\.(?P<own>.+)\.\d+\.partial"
)


def quant_in(path: str) -> str:
    """Return the quantization that a path tells of, in capitals; empty when it tells of none."""
    folder, _, name = path.rpartition("/")
    for text in (name, folder):
        if found := _LABEL.findall(text):
            label: str = found[-1].upper()
            return label.replace("FP16", "F16").replace("FP32", "F32")
    return ""


def without_quant(name: str) -> str:
    """Return a file's name without its ending, the number of its shard, and what it says of its quantization."""
    return _LABEL.sub("", without_suffix(name)).strip(" .-_")


def is_projector(name: str) -> bool:
    """Say whether a file name tells of an image projector."""
    return _PROJECTOR.search(name) is not None


def unfinished(name: str) -> str:
    """Return what a file will be called once it is whole; empty for a file that is."""
    found = _UNFINISHED.fullmatch(name)
    if not found or name.endswith("-journal.incomplete"):
        return ""
    return next(text for text in found.groupdict().values() if text)


def checkpoint_name(folder: Path) -> str:
    """Return what a checkpoint is called: as its folder, or in the Hugging Face cache as its repository."""
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def without_suffix(name: str) -> str:
    """Return a file's name without `.gguf` and without the number of its shard."""
    if shard := SHARD.fullmatch(name):
        return shard[1]
    return name[:-5] if name.lower().endswith(".gguf") else name


def repository_names(repository: str, paths: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return for each file of a repository its name, `org/repo:QUANT` where that tells it apart, and its other names.

    Args:
        repository: `org/repo`.
        paths: The files in it, without ending.
    """
    labels = [quant_in(path) for path in paths]
    named: list[tuple[str, tuple[str, ...]]] = []
    for path, label in zip(paths, labels, strict=True):
        whole = f"{repository}/{path}"
        named.append((f"{repository}:{label}", (whole,)) if label and labels.count(label) == 1 else (whole, ()))
    return named
