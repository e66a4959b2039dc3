"""A copy of what a cache holds, in memory: taken out, and put back later without computing anything."""

from __future__ import annotations

import ctypes
from array import array
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from localknobs.engine.cache import Gap, TokenCache
from localknobs.engine.llama import lib
from localknobs.hardware import available_memory_bytes

LEAST_TOKENS = 64
"""Fewer are read again sooner than they are put aside."""
MOST_BYTES = 2**30
"""Most memory for the caches of settings that are not in use; and never more than a quarter of what is free."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a cache held.

    Args:
        tokens: As `TokenCache.tokens`.
        gaps: Of each `Gap`: where, the lost tokens, the hole.
        data: llama.cpp's own form of the keys and values.
    """

    tokens: tuple[int, ...]
    gaps: tuple[tuple[int, tuple[int, ...], int], ...]
    data: bytes | memoryview

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return len(self.data)


def snapshot_size(cache: TokenCache) -> int:
    """Return the bytes that a copy of a cache takes."""
    return int(lib.llama_state_seq_get_size(cache.model.context, 0))


def take_snapshot(cache: TokenCache, size: int) -> Snapshot | None:
    """Return a copy of what a cache holds; None where llama.cpp does not give it out.

    Args:
        cache: It stays as it is.
        size: What `snapshot_size` returned.
    """
    buffer = (ctypes.c_uint8 * size)()
    if lib.llama_state_seq_get_data(cache.model.context, buffer, size, 0) != size:
        return None
    gaps = tuple((gap.at, tuple(gap.lost), gap.hole) for gap in cache.gaps)
    return Snapshot(tuple(cache.tokens), gaps, memoryview(buffer))


def put_back(cache: TokenCache, snapshot: Snapshot) -> str:
    """Let a cache hold what a copy says, in place of what it holds; return why it could not, empty when it could."""
    if len(snapshot.tokens) >= cache.capacity:
        return "is larger than the context"
    cache.clear()
    buffer = (ctypes.c_uint8 * snapshot.size).from_buffer_copy(snapshot.data)
    if lib.llama_state_seq_set_data(cache.model.context, buffer, snapshot.size, 0) != snapshot.size:
        cache.clear()
        return "was not taken by llama.cpp"
    cache.tokens[:] = snapshot.tokens
    cache.gaps = [Gap(at, array("i", lost), hole) for at, lost, hole in snapshot.gaps]
    if cache.in_model != len(cache.tokens):
        cache.clear()
        return "holds something else"
    return ""


class CachesBySetting:
    """The caches of settings that are not in use, so that going back to one needs no reading.

    Args:
        cache: The model's, which is of the setting in use.
    """

    def __init__(self, cache: TokenCache) -> None:
        self._cache = cache
        self._kept: OrderedDict[Hashable, Snapshot] = OrderedDict()

    def switch(self, before: Hashable, after: Hashable) -> None:
        """Keep the cache of one setting, and go on with that of another, or with an empty one."""
        cache, limit = self._cache, min(MOST_BYTES, (available_memory_bytes() or MOST_BYTES) // 4)
        self._kept.pop(before, None)
        # Scores of attention, which some ways of making room go by, cannot be put aside.
        if len(cache.tokens) >= LEAST_TOKENS and not cache.model.before_decode:
            size = snapshot_size(cache)
            if size <= limit and (snapshot := take_snapshot(cache, size)):
                self._kept[before] = snapshot
                while sum(each.size for each in self._kept.values()) > limit:
                    self._kept.popitem(last=False)
        cache.clear()
        found = self._kept.pop(after, None)
        if found and not cache.model.before_decode:
            put_back(cache, found)  # where it cannot be, all is read again

    def forget(self) -> None:
        """Drop all, since the context is another."""
        self._kept.clear()
