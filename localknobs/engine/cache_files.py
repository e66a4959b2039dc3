"""A conversation's cache put aside, in memory or in a file, and taken back: reopened in the time of a file read.

A file is believed only when everything it says of itself is true: what made it, its length, and the hash of all its
bytes. Only then does llama.cpp see any of it; a state it does not know would end the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from localknobs.engine.adapters import Adapters, Key
from localknobs.engine.cache import TokenCache
from localknobs.engine.cache_snapshot import LEAST_TOKENS, Snapshot, put_back, snapshot_size, take_snapshot
from localknobs.engine.events import ParkedCache
from localknobs.engine.settings import LoadSettings
from localknobs.gguf_info import Header
from localknobs.paths import parked_cache_file, written_whole
from localknobs.units import size_text

MAGIC = b"LOCALKNOBS CACHE 1\n"
_SAMPLE = 2**16
_HARMLESS = {
    "model", "threads", "n_batch", "n_ubatch", "n_ctx", "context_full", "n_sink", "drop_by", "sliding_window",
    "park_cache", "park_limit", "n_gpu_layers", "cpu_moe", "n_cpu_moe", "override_tensor", "split_mode",
    "tensor_split", "main_gpu", "no_kv_offload", "use_extra_bufts", "model_draft", "draft", "draft_max", "draft_min",
    "draft_p_min", "draft_ngram", "n_gpu_layers_draft", "lora", "lora_any_base", "control_vector",
    "control_vector_layers",
}  # fmt: skip
"""Settings under which the same keys and values would be computed; all others make another cache. Of adapters it is
their content that counts, not their names."""


class ParkedCaches:
    """Caches put aside, of one loaded model.

    Args:
        cache: The model's.
        header: Of its file.
        settings: How it was loaded; `park_cache` and `park_limit` say where to, and how much.
        adapters: What acts beside it: the cache is that of `adapters.on`.
    """

    def __init__(self, cache: TokenCache, header: Header, settings: LoadSettings, adapters: Adapters) -> None:
        self._cache = cache
        self._of_model = _fingerprint(header, settings)
        self._adapters = adapters
        self._in_memory: OrderedDict[str, tuple[dict[str, Any], Snapshot]] = OrderedDict()
        self.use(settings)

    def use(self, settings: LoadSettings) -> None:
        """Take other settings of where to and how much."""
        self._where, self._limit = settings.park_cache, int(settings.park_limit * 2**30)
        if self._where != "ram":
            self._in_memory.clear()

    def save(self, name: str) -> ParkedCache:
        """Put the present cache aside under a name, in place of what is there."""
        cache = self._cache
        if self._where == "off" or len(cache.tokens) < LEAST_TOKENS:
            return ParkedCache()
        size = snapshot_size(cache)
        if size > self._limit:
            return ParkedCache(note=f"The cache takes {size_text(size)}, more than --park-limit, and is not put aside.")
        if not (snapshot := take_snapshot(cache, size)):
            return ParkedCache(note="llama.cpp could not give its cache out.")
        if self._where == "ram":
            self._in_memory.pop(name, None)
            self._in_memory[name] = self._made_by, snapshot
            while sum(held.size for _, held in self._in_memory.values()) > self._limit:
                self._in_memory.popitem(last=False)
        else:
            about = {
                "made_by": self._made_by, "tokens": snapshot.tokens, "gaps": snapshot.gaps, "size": size,
                "hash": _hash(snapshot.data),
            }  # fmt: skip
            try:
                _write(parked_cache_file(name), about, snapshot.data)
                evict(self._limit)
            except OSError as error:
                return ParkedCache(note=f"The cache could not be put aside: {error.strerror or error}.")
        return ParkedCache(len(cache.tokens), size)

    def restore(self, name: str) -> ParkedCache:
        """Take back what was put aside under a name; what is damaged or of another model is ignored, with a note."""
        if self._where == "off" or self._cache.model.before_decode:  # scores of attention cannot be put aside
            return ParkedCache()
        made_by, found = self._in_memory.get(name, ({}, None)) if self._where == "ram" else ({}, None)
        if found and made_by != self._made_by:
            return ParkedCache(note="The saved cache of this conversation is not used: it is of other adapters.")
        if self._where == "disk":
            file = parked_cache_file(name)
            if not file.is_file():
                return ParkedCache()
            try:
                found = read(file, self._made_by)
            except (OSError, ValueError, TypeError, KeyError, MemoryError) as error:
                return ParkedCache(note=f"The saved cache of this conversation is not used: {error}.")
            with contextlib.suppress(OSError):
                os.utime(file)  # the last used stay longest
        if found is None:
            return ParkedCache()
        if reason := put_back(self._cache, found):
            return ParkedCache(note=f"The saved cache of this conversation {reason}, and is not used.")
        return ParkedCache(len(self._cache.tokens), found.size)

    @property
    def _made_by(self) -> dict[str, Any]:
        """What made the cache that the model has now; empty keys of adapters stay those of older files."""
        on = self._adapters.on
        return {**self._of_model, "choice of adapters": json.loads(json.dumps(on))} if on != Key() else self._of_model


def folder() -> Path:
    """Return where caches are put aside on disk."""
    return parked_cache_file("").parent


def evict(limit_bytes: int) -> None:
    """Remove the files that were used longest ago, until the others fit."""
    files = sorted(folder().glob("*.cache"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    held = 0
    for file in files:
        held += file.stat().st_size
        if held > limit_bytes:
            file.unlink(missing_ok=True)


def read(file: Path, made_by: Mapping[str, Any]) -> Snapshot:
    """Read a file whole, and believe it only when all of it is true.

    Raises:
        ValueError: it is damaged, cut short, or was made by something else; the message says which.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError("it is no saved cache")
        lengths = stream.read(16)
        if len(lengths) != 16:
            raise ValueError("it is cut short")
        head_length, data_length = struct.unpack("<QQ", lengths)
        if len(MAGIC) + 16 + head_length + data_length != size:
            raise ValueError("it is cut short")
        about = json.loads(stream.read(head_length))
        of_file = about["made_by"]
        differing = [key for key in {**made_by, **of_file} if of_file.get(key) != made_by.get(key)]
        if differing:
            raise ValueError(f"it was made with another {', '.join(differing)}")
        data = stream.read(data_length)
    if len(data) != about["size"] or _hash(data) != about["hash"]:
        raise ValueError("it is damaged")
    _check_about(about)
    return Snapshot(about["tokens"], about["gaps"], data)


def _check_about(about: Mapping[str, Any]) -> None:
    count = len(about["tokens"])
    numbers = [*about["tokens"], *(number for at, lost, hole in about["gaps"] for number in (at, hole, *lost))]
    if not all(type(number) is int and 0 <= number < 2**31 for number in numbers):
        raise ValueError("it is damaged")
    if any(at > count for at, _lost, _hole in about["gaps"]):
        raise ValueError("it is damaged")


def _write(file: Path, about: Mapping[str, Any], data: bytes | memoryview) -> None:
    head = json.dumps(about).encode()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with written_whole(file) as beside, os.fdopen(os.open(beside, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as stream:
        stream.write(MAGIC + struct.pack("<QQ", len(head), len(data)) + head)
        stream.write(data)


def _hash(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _fingerprint(header: Header, settings: LoadSettings) -> dict[str, Any]:
    """Return what makes a cache: the model, every setting that changes keys or values, the build."""
    digest = hashlib.blake2b(digest_size=16)
    with header.path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest.update(file.read(header.data_start))
        for place in (header.data_start, size // 2, max(0, size - _SAMPLE)):
            file.seek(place)
            digest.update(file.read(_SAMPLE))
    made = {row.name: getattr(settings, row.name) for row in fields(settings) if row.name not in _HARMLESS}
    made["flash_attn"] = "off" if settings.context_full == "attended" else settings.flash_attn
    return {"model": [size, digest.hexdigest()], "llama.cpp": version("llama-cpp-python"), **made}
