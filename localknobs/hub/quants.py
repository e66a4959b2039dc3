"""Which quantization a file name tells of, which files are one model, and which of them a user means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from localknobs.errors import NotFound
from localknobs.library.names import DEFAULT_QUANT, SHARD, is_projector, quant_in
from localknobs.units import size_text

CHECKPOINT = "SAFETENSORS"
"""What is typed behind the colon for the weights as they were trained."""
Kind = Literal["model", "projector", "imatrix", "checkpoint"]

_WEIGHTS = (
    r"model(-\d{5}-of-\d{5})?\.safetensors", r"adapter_model\.safetensors", r"(?!consolidated)[^/]*\.safetensors",
    r"pytorch_model(-\d{5}-of-\d{5})?\.bin", r"adapter_model\.bin",
)  # fmt: skip
"""Names of a checkpoint's weights, the best first: only files of one kind are fetched."""
_BESIDE_WEIGHTS = re.compile(r"[^/]+\.(json|jinja|model|tiktoken)|merges\.txt|vocab\.txt|README\.md|LICENSE[^/]*")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a repository.

    Args:
        path: Its path in the repository.
        size_bytes: Its size.
        etag: Name of its content: SHA-256 in hexadecimal, or git's SHA-1 of a small file that is not in LFS.
    """

    path: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What is fetched together: a file, all shards of a split one, or a checkpoint.

    Args:
        repo: `org/name`.
        commit: Commit of the repository, 40 hexadecimal digits.
        kind: What it is, as far as the names tell.
        quant: Quantization its name tells of, such as `Q4_K_M`; empty for none.
        parts: Its files, the first shard first.
    """

    repo: str
    commit: str
    kind: Kind
    quant: str
    parts: tuple[Part, ...]

    @property
    def path(self) -> str:
        """Path of its first file."""
        return self.parts[0].path

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(part.size_bytes for part in self.parts)


def grouped(repo: str, commit: str, parts: Iterable[Part]) -> tuple[RemoteFile, ...]:
    """Return what a repository holds: GGUF models by size, then projectors, importance matrices, its checkpoint."""
    together: dict[str, list[Part]] = {}
    everything = sorted(parts, key=lambda part: part.path)
    for part in everything:
        if part.path.lower().endswith(".gguf"):
            shard = SHARD.fullmatch(part.path)
            together.setdefault(f"{shard[1]}.gguf" if shard else part.path, []).append(part)
    files = [RemoteFile(repo, commit, _kind(path), quant_in(path), tuple(group)) for path, group in together.items()]
    order = ("model", "projector", "imatrix")
    files.sort(key=lambda file: (order.index(file.kind), file.size_bytes))
    if weights := checkpoint_parts(everything):
        files.append(RemoteFile(repo, commit, "checkpoint", "", weights))
    return tuple(files)


def _kind(path: str) -> Kind:
    name = path.rpartition("/")[2].lower()
    return "projector" if is_projector(name) else "imatrix" if "imatrix" in name else "model"


def checkpoint_parts(parts: Sequence[Part], *, weights: bool = True) -> tuple[Part, ...]:
    """Return the files a conversion needs: configuration and tokenizer, and the weights of the best kind there is."""
    names = {part.path for part in parts}
    if not names & {"config.json", "adapter_config.json"}:
        return ()
    beside = tuple(part for part in parts if _BESIDE_WEIGHTS.fullmatch(part.path))
    if not weights:
        return beside
    for pattern in _WEIGHTS:
        if found := tuple(part for part in parts if re.fullmatch(pattern, part.path)):
            return beside + found
    return ()


def choose(files: Sequence[RemoteFile], *, repo: str, quant: str = "", path: str = "") -> RemoteFile:
    """Return the file a user means.

    Args:
        files: What the repository holds.
        repo: Its name, for messages.
        quant: Wanted quantization; Q4_K_M, or the only model there is, when empty.
        path: Wanted file or folder.

    Raises:
        NotFound: there is none, or several; the hint lists what there is, with sizes.
    """
    if quant == CHECKPOINT:
        chosen = [file for file in files if file.kind == "checkpoint"]
        return _the_only(chosen, files, f"{repo} holds no checkpoint")
    if path:
        inside = [file for file in files if any(part.path == path for part in file.parts) and file.kind != "checkpoint"]
        inside = inside or [file for file in files if file.path.startswith(path.rstrip("/") + "/")]
        files = inside or files
        if not inside:
            raise NotFound(f"There is no model file {path} in {repo}", listing(files))
        if len(inside) == 1:
            return inside[0]
    models = [file for file in files if file.kind == "model"]
    wanted = quant.replace("FP16", "F16").replace("FP32", "F32")
    if not wanted and not models:
        return _the_only([file for file in files if file.kind == "checkpoint"], files, f"{repo} holds no model")
    if not wanted and len(models) == 1:
        return models[0]
    label = wanted or DEFAULT_QUANT
    found = [file for file in models if file.quant == label] or [
        file for file in models if file.quant in (f"UD-{label}", label.removeprefix("UD-"))
    ]
    shown = label if wanted else f"{label}, the default,"
    return _the_only(found, files, f"There is no {shown} in {repo}", f"{repo} holds several {label} files")


def _the_only(found: Sequence[RemoteFile], files: Sequence[RemoteFile], none: str, several: str = "") -> RemoteFile:
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        names = "; ".join(f"{file.path} ({size_text(file.size_bytes)})" for file in found[:12])
        raise NotFound(several or none, f"Name one of its files: {names}.")
    raise NotFound(none, listing(files))


def listing(files: Sequence[RemoteFile]) -> str:
    """Return what there is, in one line: quantizations with sizes."""
    models = [file for file in files if file.kind == "model"]
    shown = [f"{file.quant or file.path} ({size_text(file.size_bytes)})" for file in models[:40]]
    if any(file.kind == "checkpoint" for file in files):
        size = next(file.size_bytes for file in files if file.kind == "checkpoint")
        shown.append(f"safetensors ({size_text(size)})")
    return f"There is: {', '.join(shown)}." if shown else "It has no GGUF file and no checkpoint."
