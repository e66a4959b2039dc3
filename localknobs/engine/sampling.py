"""Draws tokens through a chain of llama.cpp's samplers, which can be changed between two tokens."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from localknobs.engine.binding import lib
from localknobs.engine.chain import links
from localknobs.engine.llama import LoadedModel
from localknobs.engine.lookback import Lookback, allowed_tokens
from localknobs.engine.sampler_paths import TOKEN_DATA
from localknobs.errors import BadValue
from localknobs.knobs import Value

NOTHING_ALLOWED = -1
"""Instead of a token: the grammar allows none that the vocabulary has."""
_SEEDS = 2**32 - 1  # llama.cpp takes 2**32 - 1 itself for "random"


class Sampler:
    """A chain built from knob values.

    Args:
        model: Whose logits it reads.
        values: Complete sampling values (`knobs.defaults` overlaid with the user's).
        history: Tokens before the answer, oldest first: penalties and DRY count them, as in llama.cpp's server.
        beginning: Tokens that the answer begins with, drawn by nobody.
        lookback: Where the scores are kept from which tokens are drawn; None keeps none.

    Attributes:
        seed: The seed in use; a new one where the value was -1.
        values: The values in force.
    """

    def __init__(
        self,
        model: LoadedModel,
        values: Mapping[str, Value],
        history: Iterable[int],
        *,
        beginning: Iterable[int] = (),
        lookback: Lookback | None = None,
    ) -> None:
        self.model = model
        self.lookback = lookback
        seed = int(cast(int, values["seed"]))
        self.seed = secrets.randbelow(_SEEDS) if seed < 0 else seed
        self.values: dict[str, Value] = {}
        self._history = list(history)
        self._prompt_length = len(self._history)
        self._history += beginning
        self._chain: Any = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._parts: dict[tuple[Any, ...], Any] = {}  # what the chain holds, in its order
        self._learning: dict[tuple[Any, ...], Any] = {}  # those of them that learn
        self._grammar: Any = None
        try:
            grammar = cast(str, values["grammar"])
            self._grammar = self._new_grammar(grammar)
            self._begin_grammar()
            self.change(values)
        except BadValue:
            self.close()
            raise
        if lookback:
            again = (lambda: self._new_grammar(grammar)) if self._grammar else None
            lookback.begin(self._history, self._prompt_length, again)

    def change(self, values: Mapping[str, Value]) -> None:
        """Use other values from the next token on; the random numbers go on where they were.

        The seed and the grammar belong to a whole answer and stay.

        Raises:
            BadValue: a biased token does not exist; the old chain stays.
        """
        merged = {**self.values, **values}
        parts: dict[tuple[Any, ...], Any] = {}
        made: list[Any] = []
        learning: dict[tuple[Any, ...], Any] = {}
        try:
            for link in links(self.model, merged, self._seed_here()):
                sampler = self._parts.get(link.key)
                if sampler is None:
                    sampler = link.make()
                    made.append(sampler)
                    for token in self._history[-link.window :] if link.window else ():
                        lib.llama_sampler_accept(sampler, token)
                parts[link.key] = sampler
                if link.learns:
                    learning[link.key] = sampler
        except BadValue:
            for sampler in made:
                lib.llama_sampler_free(sampler)
            raise
        # Taken out and put in again, not cloned: llama.cpp's clone of adaptive-p forgets its random state.
        for key, sampler in self._parts.items():
            lib.llama_sampler_chain_remove(self._chain, 0)
            if key not in parts:
                lib.llama_sampler_free(sampler)
        for sampler in parts.values():
            lib.llama_sampler_chain_add(self._chain, sampler)
        self._parts, self._learning, self.values = parts, learning, merged

    def next(self, row: int = -1) -> int:
        """Draw the next token; `NOTHING_ALLOWED` at a grammar's dead end.

        Args:
            row: Place, in the last batch, of the token whose logits are drawn from; -1 is the last one.
        """
        self.remember(row)
        if self._grammar:
            token = self._next_by_grammar(row)
        else:
            token = int(lib.llama_sampler_sample(self._chain, self.model.context, row))
        self._history.append(token)
        return token

    def remember(self, row: int = -1) -> None:
        """Keep what the next token will be drawn from, so that it can be looked at."""
        if self.lookback:
            scores = lib.llama_get_logits_ith(self.model.context, row)
            self.lookback.remember(scores, self.values, self._learning)

    def _next_by_grammar(self, row: int) -> int:
        # As llama.cpp does: draw freely, and only if the grammar refuses that token filter all of them.
        token = self._apply(row, grammar_first=False)
        if not self._grammar_allows(token):
            token = self._apply(row, grammar_first=True)
            # Accepting what it refuses would end the process (llama-grammar.cpp).
            if not self._grammar_allows(token):
                return NOTHING_ALLOWED
        lib.llama_sampler_accept(self._grammar, token)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _apply(self, row: int, *, grammar_first: bool) -> int:
        size = self.model.vocabulary_size
        logits = lib.llama_get_logits_ith(self.model.context, row)
        array = np.empty(size, TOKEN_DATA)
        array["id"], array["p"] = np.arange(size), 0.0
        array["logit"] = np.ctypeslib.as_array(logits, (size,))
        candidates = lib.llama_token_data_array(array.ctypes.data_as(lib.llama_token_data_p), size, -1, False)
        if grammar_first:
            lib.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)

    def _grammar_allows(self, token: int) -> bool:
        return bool(allowed_tokens(self._grammar, [token])[0])

    def _begin_grammar(self) -> None:
        """Take the grammar through the tokens that the answer begins with."""
        for token in self._history[self._prompt_length :] if self._grammar else ():
            if not self._grammar_allows(token):  # accepting it would end the process (llama-grammar.cpp)
                raise BadValue(
                    "The grammar does not allow the answer to begin like this", "Choose another token, or no grammar."
                )
            lib.llama_sampler_accept(self._grammar, token)

    def _new_grammar(self, text: str) -> Any:
        if not text.strip():
            return None
        source, grammar = text.encode("utf-8", "replace"), None
        if b"\0" not in source:  # C would read up to there
            grammar = lib.llama_sampler_init_grammar(self.model.vocabulary, source, b"root")
        if not grammar:
            raise BadValue(
                "The grammar cannot be parsed", 'It must be GBNF with a rule named root, such as: root ::= "yes" | "no"'
            )
        return grammar

    def _seed_here(self) -> int:
        """Return the seed of a sampler that begins now; its place in the answer is in it: no draw is used twice."""
        written = len(self._history) - self._prompt_length
        return (self.seed + 0x9E3779B9 * written) % _SEEDS

    def close(self) -> None:
        """Free the samplers; may be called twice."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                lib.llama_sampler_free(sampler)
        self._chain = self._grammar = None
        self._parts, self._learning = {}, {}
