"""A conversation's cache put aside, in memory or in a file, and taken back: reopened in the time of a file read.

A file is believed only when everything it says of itself is true: what made it, its length, and the hash of all its
bytes. Only then does llama.cpp see any of it; a state it does not know would end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import struct
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from localknobs.engine.cache import Gap, TokenCache
from localknobs.engine.events import ParkedCache
from localknobs.engine.llama import lib
from localknobs.engine.settings import LoadSettings
from localknobs.gguf_info import Header
from localknobs.paths import parked_cache_file, written_whole
from localknobs.units import size_text

MAGIC = b"LOCALKNOBS CACHE 1\n"
LEAST_TOKENS = 64
"""Fewer are read again sooner than they are put aside."""
_SAMPLE = 2**16
_HARMLESS = {
    "model", "threads", "n_batch", "n_ubatch", "n_ctx", "context_full", "n_sink", "drop_by", "sliding_window",
    "park_cache", "park_limit", "n_gpu_layers", "cpu_moe", "n_cpu_moe", "override_tensor", "split_mode",
    "tensor_split", "main_gpu", "no_kv_offload", "use_extra_bufts", "model_draft", "draft", "draft_max", "draft_min",
    "draft_p_min", "draft_ngram", "n_gpu_layers_draft",
}  # fmt: skip
"""Settings under which the same keys and values would be computed; all others make another cache."""


class ParkedCaches:
    """Caches put aside, of one loaded model.

    Args:
        cache: The model's.
        header: Of its file.
        settings: How it was loaded; `park_cache` and `park_limit` say where to, and how much.
    """

    def __init__(self, cache: TokenCache, header: Header, settings: LoadSettings) -> None:
        self._cache = cache
        self._made_by = _fingerprint(header, settings)
        self._in_memory: OrderedDict[str, tuple[dict[str, Any], bytes]] = OrderedDict()
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
        size = int(lib.llama_state_seq_get_size(cache.model.context, 0))
        if size > self._limit:
            return ParkedCache(note=f"The cache takes {size_text(size)}, more than --park-limit, and is not put aside.")
        buffer = (ctypes.c_uint8 * size)()
        if lib.llama_state_seq_get_data(cache.model.context, buffer, size, 0) != size:
            return ParkedCache(note="llama.cpp could not give its cache out.")
        data = memoryview(buffer)
        about = {
            "made_by": self._made_by,
            "tokens": list(cache.tokens),
            "gaps": [[gap.at, list(gap.lost), gap.hole] for gap in cache.gaps],
            "size": size,
            "hash": _hash(data),
        }
        if self._where == "ram":
            self._in_memory.pop(name, None)
            self._in_memory[name] = about, bytes(data)
            while sum(len(held) for _, held in self._in_memory.values()) > self._limit:
                self._in_memory.popitem(last=False)
        else:
            try:
                _write(parked_cache_file(name), about, data)
                evict(self._limit)
            except OSError as error:
                return ParkedCache(note=f"The cache could not be put aside: {error.strerror or error}.")
        return ParkedCache(len(cache.tokens), size)

    def restore(self, name: str) -> ParkedCache:
        """Take back what was put aside under a name; what is damaged or of another model is ignored, with a note."""
        if self._where == "off" or self._cache.model.before_decode:  # scores of attention cannot be put aside
            return ParkedCache()
        found = self._in_memory.get(name) if self._where == "ram" else None
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
        return self._take(*found)

    def _take(self, about: Mapping[str, Any], data: bytes) -> ParkedCache:
        cache = self._cache
        if len(about["tokens"]) >= cache.capacity:
            return ParkedCache(note="The saved cache of this conversation is larger than the context, and is not used.")
        cache.clear()
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        if lib.llama_state_seq_set_data(cache.model.context, buffer, len(data), 0) != len(data):
            cache.clear()
            return ParkedCache(note="llama.cpp did not take the saved cache; the conversation is read again.")
        cache.tokens[:] = about["tokens"]
        cache.gaps = [Gap(at, array("i", lost), hole) for at, lost, hole in about["gaps"]]
        if cache.in_model != len(cache.tokens):
            cache.clear()
            return ParkedCache(note="The saved cache holds something else; the conversation is read again.")
        return ParkedCache(len(cache.tokens), len(data))


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


def read(file: Path, made_by: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
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
        differing = [key for key in made_by if about["made_by"].get(key) != made_by[key]]
        if differing:
            raise ValueError(f"it was made with another {', '.join(differing)}")
        data = stream.read(data_length)
    if len(data) != about["size"] or _hash(data) != about["hash"]:
        raise ValueError("it is damaged")
    _check_about(about)
    return about, data


def _check_about(about: Mapping[str, Any]) -> None:
    count = len(about["tokens"])
    numbers = [*about["tokens"], *(number for at, lost, hole in about["gaps"] for number in (at, hole, *lost))]
    if not all(type(number) is int and 0 <= number < 2**31 for number in numbers):
        raise ValueError("it is damaged")
    if any(at > count for at, _lost, _hole in about["gaps"]):
        raise ValueError("it is damaged")


def _write(file: Path, about: Mapping[str, Any], data: memoryview) -> None:
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
