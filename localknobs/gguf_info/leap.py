"""Guess where a long array of texts ends from a few small reads, instead of stepping through a whole vocabulary.

A guess: whoever takes it goes on reading from there and must find exactly the keys and tensors that the
file's beginning promises, or else step through the texts after all.
"""

from __future__ import annotations

import re
from struct import Struct

from localknobs.gguf_info.window import Window

WORTH_IT = 4096
"""Texts of an array below which stepping is faster."""
_PROBE, _NEAR, _MOST_PROBES = 1024, 4096, 4096
_LONGEST_TEXT, _FEWEST_TEXTS, _ENOUGH_TEXTS = 1024, 8, 16
_LENGTH = Struct("<Q").unpack_from


def guess_end_of_texts(window: Window, start: int, count: int, size: int, architecture: str) -> int | None:
    """Return the byte at which the key behind an array of texts seems to begin; None when none is found.

    Args:
        window: The file.
        start: Byte at which the first text begins.
        count: Texts in the array.
        size: Bytes of the file.
        architecture: The file's, whose keys may follow.
    """
    # An array of as many 4-byte numbers (scores, token types) often follows: a step must not leap over it.
    step = min(max(2 * count, 2**14), 2**19)
    inside, probes = start, 0
    while inside + step < size and probes < _MOST_PROBES:
        outside = inside + step
        probes += 1
        if _is_among_texts(window.peek(outside, _PROBE)):
            inside = outside
            continue
        while outside - inside > _NEAR:
            middle = (inside + outside) // 2
            probes += 1
            if _is_among_texts(window.peek(middle, _PROBE)):
                inside = middle
            else:
                outside = middle
        found = _first_key(window.peek(inside, outside - inside + _PROBE), architecture)
        if found is not None:
            return inside + found
        inside = outside  # unusual texts, not the end
    found = _first_key(window.peek(inside, min(step, size - inside) + _PROBE), architecture)
    return None if found is None else inside + found


def _is_among_texts(data: bytes) -> bool:
    """Say whether lengths and texts follow each other, from a place near the start of these bytes."""
    zeros = data.find(b"\0\0\0\0\0\0")
    for _ in range(8):
        if zeros < 0:
            return False
        if any(place >= 0 and _is_chain(data, place) for place in (zeros - 1, zeros - 2)):
            return True
        zeros = data.find(b"\0\0\0\0\0\0", zeros + 1)
    return False


def _is_chain(data: bytes, place: int) -> bool:
    texts, begin, last = 0, place, len(data) - 8
    while place <= last and texts < _ENOUGH_TEXTS:
        (length,) = _LENGTH(data, place)
        if length > _LONGEST_TEXT:
            return False
        place += 8 + length
        texts += 1
    return texts >= _FEWEST_TEXTS and place - begin > 8 * texts  # zeros alone look like empty texts


def _first_key(data: bytes, architecture: str) -> int | None:
    """Return where the first key with its length before it and a type behind it stands."""
    prefixes = b"|".join(
        re.escape(word.encode()) for word in ("tokenizer", "general", "split", "quantize", architecture) if word
    )
    for found in re.finditer(rb"([\x08-\xff])\0{7}(?=(?:%b)\.)" % prefixes, data):
        end = found.end() + found[1][0]
        kind = data[end : end + 4]
        if len(kind) == 4 and kind[0] <= 12 and kind[1:] == b"\0\0\0":
            return found.start()
    return None
