"""The sampler chain: knob values in, llama.cpp samplers in the order the user sees out.

A sampler that is off is left out, which costs nothing and gives the same tokens. Order and
semantics follow llama.cpp common/sampling.cpp: logit bias first, then the `samplers` list (or
temperature and mirostat alone), then the draw.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, cast

import llama_cpp as lib
import numpy as np

from localknobs.engine.llama import LoadedModel
from localknobs.errors import BadValue
from localknobs.knobs import Value

REPLAYED = ("penalties", "dry")
"""Samplers that depend on what was written before."""
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data of llama.h


class Sampler:
    """A chain built from knob values, which draws tokens and can be changed between two of them.

    Args:
        model: Whose logits it reads.
        values: Complete sampling values (`knobs.defaults` overlaid with the user's).
        history: Tokens before the first draw, oldest first: penalties and DRY count them, as in llama.cpp's server.
    """

    def __init__(self, model: LoadedModel, values: Mapping[str, Value], history: Iterable[int]) -> None:
        self.model = model
        self.history = list(history)
        seed = int(cast(int, values["seed"]))
        self.seed = secrets.randbelow(2**32 - 1) if seed < 0 else seed
        self.values: dict[str, Value] = {}
        self._chain: Any = None
        self._grammar: Any = None
        self._draw: tuple[Any, ...] = ()
        self.change(values)

    def change(self, values: Mapping[str, Value]) -> None:
        """Use other values from the next token on; the random numbers go on where they were.

        Raises:
            BadValue: the grammar cannot be parsed, or a biased token does not exist; the old chain stays.
        """
        merged = {**self.values, **values}
        grammar = self._grammar
        if merged["grammar"] != self.values.get("grammar"):
            grammar = self._new_grammar(str(merged["grammar"]))
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        try:
            for sampler in self._samplers(merged):
                lib.llama_sampler_chain_add(chain, sampler)
        except BadValue:
            lib.llama_sampler_free(chain)
            raise
        draw, kind = self._selector(merged)
        lib.llama_sampler_chain_add(chain, draw)
        if self._replays(merged):
            window = max(int(cast(int, merged["repeat_last_n"])), int(cast(int, merged["dry_penalty_last_n"])))
            for token in self.history[-window:] if window else ():
                # Only penalties and DRY remember; accepting on the selector would advance nothing.
                lib.llama_sampler_accept(chain, token)
        if self._chain:
            lib.llama_sampler_free(self._chain)
        if self._grammar and self._grammar is not grammar:
            lib.llama_sampler_free(self._grammar)
        self._chain, self._grammar, self._draw, self.values = chain, grammar, (draw, kind), merged

    def next(self) -> int:
        """Draw the next token from the logits of the last one decoded."""
        if self._grammar:
            token = self._next_by_grammar()
        else:
            token = int(lib.llama_sampler_sample(self._chain, self.model.context, -1))
        self.history.append(token)
        return token

    def _next_by_grammar(self) -> int:
        # As llama.cpp does: draw freely, and only if the grammar refuses that token filter all of them.
        token = self._apply(grammar_first=False)
        if not self._grammar_allows(token):
            token = self._apply(grammar_first=True)
        lib.llama_sampler_accept(self._grammar, token)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _apply(self, *, grammar_first: bool) -> int:
        size = self.model.vocabulary_size
        logits = lib.llama_get_logits_ith(self.model.context, -1)
        array = np.empty(size, _TOKEN_DATA)
        array["id"], array["p"] = np.arange(size), 0.0
        array["logit"] = np.ctypeslib.as_array(logits, (size,))
        candidates = lib.llama_token_data_array(array.ctypes.data_as(lib.llama_token_data_p), size, -1, False)
        if grammar_first:
            lib.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)

    def _grammar_allows(self, token: int) -> bool:
        one = (lib.llama_token_data * 1)(lib.llama_token_data(token, 1.0, 0.0))
        candidates = lib.llama_token_data_array(one, 1, -1, False)
        lib.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        return bool(one[0].logit != float("-inf"))

    def _new_grammar(self, text: str) -> Any:
        if not text.strip():
            return None
        grammar = lib.llama_sampler_init_grammar(self.model.vocabulary, text.encode(), b"root")
        if not grammar:
            raise BadValue(
                "The grammar cannot be parsed", 'It must be GBNF with a rule named root, such as: root ::= "yes" | "no"'
            )
        return grammar

    def _replays(self, values: Mapping[str, Value]) -> bool:
        order = cast("tuple[str, ...]", values["samplers"])
        return not values["mirostat"] and any(name in order for name in REPLAYED)

    def _samplers(self, values: Mapping[str, Value]) -> Iterable[Any]:
        number = {name: cast(float, value) for name, value in values.items() if isinstance(value, int | float)}
        bias = cast("tuple[tuple[int, float], ...]", values["logit_bias"])
        if bias:
            yield self._logit_bias(bias)
        if values["mirostat"] and number["temp"] > 0:
            yield lib.llama_sampler_init_temp(number["temp"])
            return
        for name in cast("tuple[str, ...]", values["samplers"]):
            sampler = self._one(name, number, values)
            if sampler:
                yield sampler

    def _one(self, name: str, number: Mapping[str, float], values: Mapping[str, Value]) -> Any:
        if name == "penalties":
            repeat, frequency, presence = (
                number[key] for key in ("repeat_penalty", "frequency_penalty", "presence_penalty")
            )
            if number["repeat_last_n"] and (repeat != 1 or frequency or presence):
                return lib.llama_sampler_init_penalties(
                    self.model.vocabulary_size, int(number["repeat_last_n"]), repeat, frequency, presence
                )
        elif name == "dry" and number["dry_multiplier"] and number["dry_penalty_last_n"]:
            return self._dry(number, cast("tuple[str, ...]", values["dry_sequence_breakers"]))
        elif name == "top_n_sigma" and number["top_n_sigma"] > 0:
            return lib.llama_sampler_init_top_n_sigma(number["top_n_sigma"])
        elif name == "top_k" and number["top_k"] > 0:
            return lib.llama_sampler_init_top_k(int(number["top_k"]))
        elif name == "typ_p" and number["typ_p"] < 1:
            return lib.llama_sampler_init_typical(number["typ_p"], 0)
        elif name == "top_p" and number["top_p"] < 1:
            return lib.llama_sampler_init_top_p(number["top_p"], 0)
        elif name == "min_p" and number["min_p"] > 0:
            return lib.llama_sampler_init_min_p(number["min_p"], 0)
        elif name == "xtc" and number["xtc_probability"] and number["xtc_threshold"] <= 0.5:
            return lib.llama_sampler_init_xtc(number["xtc_probability"], number["xtc_threshold"], 0, self._seed_here())
        elif name == "temperature":
            if number["dynatemp_range"] > 0:
                return lib.llama_sampler_init_temp_ext(
                    number["temp"], number["dynatemp_range"], number["dynatemp_exponent"]
                )
            if number["temp"] != 1:
                return lib.llama_sampler_init_temp(number["temp"])
        return None

    def _dry(self, number: Mapping[str, float], breakers: tuple[str, ...]) -> Any:
        texts = (ctypes.c_char_p * len(breakers))(*(breaker.encode() for breaker in breakers))
        return lib.llama_sampler_init_dry(
            self.model.vocabulary,
            number["dry_multiplier"],
            number["dry_base"],
            int(number["dry_allowed_length"]),
            int(number["dry_penalty_last_n"]),
            texts,
            len(breakers),
        )

    def _logit_bias(self, bias: tuple[tuple[int, float], ...]) -> Any:
        size = self.model.vocabulary_size
        for token, _ in bias:
            if token >= size:
                raise BadValue(
                    f"logit_bias names token {token}, and this model has {size} tokens",
                    f"Token ids go from 0 to {size - 1}.",
                )
        array = (lib.llama_logit_bias * len(bias))(*(lib.llama_logit_bias(token, value) for token, value in bias))
        return lib.llama_sampler_init_logit_bias(size, len(bias), array)

    def _selector(self, values: Mapping[str, Value]) -> tuple[Any, tuple[Any, ...]]:
        """Return what draws the token, and what it is made from; its random state is kept while that stays the same."""
        kind = _selector_kind(values)
        if self._draw and self._draw[1] == kind:
            return lib.llama_sampler_clone(self._draw[0]), kind
        seed = self._seed_here()
        if kind[0] == "greedy":
            return lib.llama_sampler_init_greedy(), kind
        if kind[0] == "mirostat" and kind[1] == 1:
            return lib.llama_sampler_init_mirostat(self.model.vocabulary_size, seed, kind[2], kind[3], 100), kind
        if kind[0] == "mirostat":
            return lib.llama_sampler_init_mirostat_v2(seed, kind[2], kind[3]), kind
        if kind[0] == "adaptive":
            return lib.llama_sampler_init_adaptive_p(kind[1], kind[2], seed), kind
        return lib.llama_sampler_init_dist(seed), kind

    def _seed_here(self) -> int:
        """Return the seed of a sampler that begins now; its place in the answer is in it: no draw is used twice."""
        return (self.seed + (0x9E3779B9 * len(self.history) if self.values else 0)) % (2**32 - 1)

    def close(self) -> None:
        """Free the samplers; may be called twice."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                lib.llama_sampler_free(sampler)
        self._chain = self._grammar = None


def _selector_kind(values: Mapping[str, Value]) -> tuple[Any, ...]:
    """Return which way of drawing the values ask for, with the values it depends on."""
    if cast(float, values["temp"]) <= 0:
        return ("greedy",)
    if values["mirostat"]:
        return ("mirostat", values["mirostat"], values["mirostat_tau"], values["mirostat_eta"])
    if cast(float, values["adaptive_target"]) >= 0:
        return ("adaptive", values["adaptive_target"], values["adaptive_decay"])
    return ("dist",)
