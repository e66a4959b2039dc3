"""Ollama: `manifests/<host>/<namespace>/<model>/<tag>` name the blobs that a model is made of.

A blob is a plain GGUF file without an ending. Source: Ollama's server/manifest.go and docs/api.md.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localknobs.library.entry import Found
from localknobs.library.layouts.folder import unfinished_download
from localknobs.library.names import unfinished
from localknobs.library.walk import Report, is_file, walk

_DIGEST = re.compile("sha256[:-]([0-9a-f]{64})")
_LAYER = "application/vnd.ollama.image."
_LARGEST_MANIFEST = 2**20
_MANIFEST_DEPTH = 4
_USUAL_HOST, _USUAL_NAMESPACE, _USUAL_TAG = "registry.ollama.ai", "library", "latest"


def read_ollama(root: Path, source: str, report: Report) -> Iterator[Found]:
    """Yield the models of an Ollama store, named as Ollama names them: `llama3:8b`, `user/model:tag`."""
    manifests, blobs = root / "manifests", root / "blobs"
    for folder, files in walk(manifests, report, _MANIFEST_DEPTH):
        parts = Path(os.path.relpath(folder, manifests)).parts
        if len(parts) != 3:
            continue
        for tag, entry in files.items():
            if is_file(entry) and not tag.startswith("."):
                layers = _layers(Path(entry.path), report)
                yield from _models(parts, tag, layers, blobs, source)
    for _, files in walk(blobs, report, 0):
        for name, entry in files.items():
            if (whole := unfinished(name)) and is_file(entry):
                yield unfinished_download(f"{whole[:19]}", source, Path(entry.path))


def _layers(manifest: Path, report: Report) -> list[tuple[str, str]]:
    """Return (what it is, digest) of each layer of a manifest."""
    try:
        with manifest.open("rb") as file:
            document: Any = json.loads(file.read(_LARGEST_MANIFEST))
        layers = [(layer["mediaType"], layer["digest"]) for layer in document["layers"] or ()]
    except OSError as error:
        report.add(manifest, error)
        return []
    except (ValueError, KeyError, TypeError, RecursionError):
        report.add(manifest, "it is not a manifest of Ollama's")
        return []
    return [
        (kind.removeprefix(_LAYER), digest)
        for kind, digest in layers
        if isinstance(kind, str) and isinstance(digest, str) and _DIGEST.fullmatch(digest)
    ]


def _models(
    parts: tuple[str, ...], tag: str, layers: list[tuple[str, str]], blobs: Path, source: str
) -> Iterator[Found]:
    host, namespace, model = parts
    shown = [model]
    if namespace != _USUAL_NAMESPACE or host != _USUAL_HOST:
        shown.insert(0, namespace)
    if host != _USUAL_HOST:
        shown.insert(0, host)
    name = "/".join(shown)
    hashes: dict[str, list[str]] = {}
    for kind, digest in layers:
        hashes.setdefault(kind, []).append(digest[7:])
    projectors = [blobs / f"sha256-{each}" for each in hashes.get("projector", ())]
    for kind, suffix in (("model", ""), ("adapter", "/adapter")):
        for sha256 in hashes.get(kind, ())[:1]:
            file = blobs / f"sha256-{sha256}"
            missing = not os.path.isfile(file)
            yield Found(
                f"{name}:{tag}{suffix}", source, (file,),
                aliases=(f"{name}{suffix}",) if tag == _USUAL_TAG else (),
                sha256=sha256,
                projector=projectors[0] if kind == "model" and projectors and os.path.isfile(projectors[0]) else None,
                state="damaged" if missing else "whole",
                trouble=f"Its file {file} is missing. Fetch it again: ollama pull {name}:{tag}" if missing else "",
            )  # fmt: skip
