"""What DRY finds in the tokens before a place, found once, so that its sliders can be followed.

Making a DRY sampler looks for the breakers in the whole vocabulary (30 ms for 150,000 tokens), and its strength is a
part of it. But where a text repeats itself does not depend on the strength: one sampler of known strength is asked how
long the repetition is that each token would continue, and the penalties follow from that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from localknobs.engine.binding import lib
from localknobs.engine.chain import Link, dry_sampler
from localknobs.engine.llama import LoadedModel
from localknobs.engine.sampler_paths import TOKEN_DATA, Numbers, Path

_BASE = 1.01
"""Of the sampler that is asked: large enough to read the length from a penalty, and small enough for 8,900 tokens."""
_LARGEST_POWER = 88.7228391  # logarithm of the largest 32-bit number, as llama-sampler.cpp has it


class Repeats:
    """Finds repetitions for one model; what it made is kept for the next look.

    Args:
        model: Whose vocabulary counts.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._made: tuple[tuple[Any, ...], Any] | None = None
        self._found: tuple[tuple[Any, ...], Numbers, Numbers] | None = None

    def apply(self, link: Link, history: Sequence[int], paths: Sequence[Path], size: int) -> None:
        """Take DRY's penalties off the scores of candidates.

        Args:
            link: The sampler's.
            history: Every token before the place.
            paths: The candidates.
            size: Tokens of the vocabulary.

        Source: llama-sampler.cpp, llama_sampler_dry_apply, step 4.
        """
        _, window, (multiplier, base, allowed), breakers = link.key
        base = np.float32(base)
        tokens, lengths = self._lengths(list(history[-window:]), breakers)
        tokens, powers = tokens[lengths >= allowed], lengths[lengths >= allowed] - allowed
        if base > 1.000001:
            powers = np.minimum(powers, int(_LARGEST_POWER / np.log(base)))
        penalties = np.zeros(size, np.float32)
        penalties[tokens] = np.float32(multiplier) * np.float64(base) ** powers
        for path in paths:
            places = np.flatnonzero(penalties[path.tokens])
            path.change(places, path.scores[places] - penalties[path.tokens[places]])

    def _lengths(self, window: list[int], breakers: tuple[str, ...]) -> tuple[Numbers, Numbers]:
        """Return the tokens that would continue a repetition, and how many tokens of it stand there already."""
        key = (window, breakers)
        if self._found is None or self._found[0] != key:
            sampler = self._asked(len(window), breakers)
            for token in window:
                lib.llama_sampler_accept(sampler, token)
            tokens = np.unique(np.array(window, np.int32))
            data = np.zeros(len(tokens), TOKEN_DATA)
            data["id"] = tokens
            array = lib.llama_token_data_array(data.ctypes.data_as(lib.llama_token_data_p), len(data), -1, False)
            lib.llama_sampler_apply(sampler, ctypes.byref(array))
            lib.llama_sampler_reset(sampler)
            some = data["logit"] < 0
            lengths = np.rint(np.log(-data["logit"][some].astype(np.float64)) / np.log(np.float64(np.float32(_BASE))))
            self._found = key, tokens[some].astype(np.intp), lengths.astype(np.int64)
        return self._found[1:]

    def _asked(self, tokens: int, breakers: tuple[str, ...]) -> Any:
        """Return the sampler that is asked, with room for so many tokens."""
        room = max(1024, 1 << (tokens - 1).bit_length()) if tokens else 1024
        key = (room, breakers)
        if self._made is None or self._made[0] != key:
            self.close()
            self._made = key, dry_sampler(self._model, room, (1.0, _BASE, 0), breakers)
        return self._made[1]

    def close(self) -> None:
        """Free the sampler; may be called twice."""
        if self._made:
            lib.llama_sampler_free(self._made[1])
        self._made = None
