"""Which llama.cpp samplers a set of knob values asks for, in which order.

A sampler that is off is left out, which costs nothing and gives the same tokens. Order and
semantics follow llama.cpp common/sampling.cpp: logit bias first, then the `samplers` list (or
temperature and mirostat alone), then what draws the token. Typical-p alone differs, where llama.cpp's goes wrong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, cast

from localknobs.engine.binding import lib
from localknobs.engine.llama import LoadedModel
from localknobs.errors import BadValue
from localknobs.knobs import Value

_ALWAYS = 1e9
"""Stands for a bias of +infinity, from which the softmax would make no numbers (inf - inf)."""
NOTHING = 1e-30
"""Probability, against the likeliest token's, below which typical-p does not see a token."""
_MIROSTAT_CANDIDATES = 100  # m of the paper, as in llama.cpp's common chain


@dataclass(frozen=True, slots=True)
class Link:
    """One sampler of a chain.

    Args:
        key: Name and every parameter: a chain that asks for the same key again keeps the sampler with
            its memory and its random numbers.
        make: Makes the llama.cpp sampler; raises `BadValue`.
        window: How many of the last tokens it must be shown when it is new; 0 when it has no memory.
        name: Its name in the list `samplers`, or of what stands before and after it.
        learns: Whether it keeps numbers of its own from draw to draw, beyond random ones and the last tokens.
    """

    key: tuple[Any, ...]
    make: Callable[[], Any]
    window: int = 0
    name: str = ""
    learns: bool = False


def links(model: LoadedModel, values: Mapping[str, Value], seed: int) -> Iterator[Link]:
    """Yield the samplers, first to last; the last one draws the token.

    Args:
        model: Whose vocabulary counts.
        values: Complete sampling values.
        seed: For samplers with random numbers that begin now.
    """
    number = {name: cast(float, value) for name, value in values.items() if isinstance(value, int | float)}
    order = cast("tuple[str, ...]", values["samplers"])
    bias = (
        *cast("tuple[tuple[int, float], ...]", values["logit_bias"]),
        *((token, -inf) for token in model.suppressed_tokens),
    )
    if bias:
        yield Link(("logit_bias", bias), lambda: _logit_bias(model, bias), name="logit_bias")
    if number["mirostat"]:
        if number["temp"] > 0:
            yield replace(_temperature(number["temp"], 0.0, 1.0), name="temperature")
    else:
        for name in order:
            if link := _named(name, model, number, values, seed):
                yield replace(link, name=name)
    yield _selector(model, number, order, seed)


def _named(
    name: str, model: LoadedModel, number: Mapping[str, float], values: Mapping[str, Value], seed: int
) -> Link | None:
    """Return the sampler of that name, None when it is off."""
    if name == "penalties":
        window = int(number["repeat_last_n"])
        penalties = (number["repeat_penalty"], number["frequency_penalty"], number["presence_penalty"])
        if window and penalties != (1, 0, 0):
            return Link(
                (name, window, penalties),
                lambda: lib.llama_sampler_init_penalties(model.vocabulary_size, window, *penalties),
                window,
            )
    elif name == "dry":
        window = int(number["dry_penalty_last_n"])
        if number["dry_multiplier"] and window:
            shape = (number["dry_multiplier"], number["dry_base"], int(number["dry_allowed_length"]))
            breakers = cast("tuple[str, ...]", values["dry_sequence_breakers"])
            return Link((name, window, shape, breakers), lambda: dry_sampler(model, window, shape, breakers), window)
    elif name == "top_n_sigma" and number[name] > 0:
        return _simple(lib.llama_sampler_init_top_n_sigma, number[name])
    elif name == "top_k" and number[name] > 0:
        return _simple(lib.llama_sampler_init_top_k, int(number[name]))
    elif name == "typ_p" and number[name] < 1:
        share = number[name]
        return Link((name, share), lambda: _typical(share))
    elif name == "top_p" and number[name] < 1:
        return _simple(lib.llama_sampler_init_top_p, number[name], 0)
    elif name == "min_p" and number[name] > 0:
        return _simple(lib.llama_sampler_init_min_p, number[name], 0)
    elif name == "xtc" and number["xtc_probability"] and number["xtc_threshold"] <= 0.5:
        chance, threshold = number["xtc_probability"], number["xtc_threshold"]
        return Link((name, chance, threshold), lambda: lib.llama_sampler_init_xtc(chance, threshold, 0, seed))
    elif name == "temperature" and (number["temp"] != 1 or number["dynatemp_range"] > 0):
        return _temperature(number["temp"], number["dynatemp_range"], number["dynatemp_exponent"])
    return None


def _simple(make: Callable[..., Any], *parameters: float) -> Link:
    return Link((make.__name__, *parameters), lambda: make(*parameters))


def _typical(share: float) -> Any:
    """Return a typical-p that first takes out what cannot be drawn.

    llama.cpp's own makes no number of a probability of 0: with one barred token in the list, its choice is arbitrary.
    """
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_min_p(NOTHING, 0))
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_typical(share, 0))
    return chain


def _temperature(temp: float, spread: float, exponent: float) -> Link:
    if spread > 0:
        return _simple(lib.llama_sampler_init_temp_ext, temp, spread, exponent)
    return _simple(lib.llama_sampler_init_temp, temp)


def _selector(model: LoadedModel, number: Mapping[str, float], order: tuple[str, ...], seed: int) -> Link:
    """Return what draws the token."""
    temp, target = number["temp"], number["adaptive_target"]
    # llama.cpp draws from the one token that a temperature of 0 leaves; taking it is the same and cheaper.
    heeded = number["mirostat"] or ("temperature" in order and not number["dynatemp_range"])
    if temp <= 0 and heeded:
        return replace(_simple(lib.llama_sampler_init_greedy), name="greedy")
    if number["mirostat"]:
        tau, eta = number["mirostat_tau"], number["mirostat_eta"]
        if number["mirostat"] == 1:
            return Link(
                ("mirostat", 1, tau, eta),
                lambda: lib.llama_sampler_init_mirostat(model.vocabulary_size, seed, tau, eta, _MIROSTAT_CANDIDATES),
                name="mirostat",
                learns=True,
            )
        make = partial(lib.llama_sampler_init_mirostat_v2, seed, tau, eta)
        return Link(("mirostat", 2, tau, eta), make, name="mirostat", learns=True)
    if target >= 0 or "adaptive_p" in order:
        decay = number["adaptive_decay"]
        make = partial(lib.llama_sampler_init_adaptive_p, target, decay, seed)
        return Link(("adaptive_p", target, decay), make, name="adaptive_p", learns=True)
    return Link(("dist",), lambda: lib.llama_sampler_init_dist(seed), name="dist")


def dry_sampler(model: LoadedModel, window: int, shape: tuple[float, float, int], breakers: tuple[str, ...]) -> Any:
    """Return a new DRY.

    Args:
        model: Whose vocabulary counts.
        window: Last tokens in which repetitions are looked for.
        shape: Multiplier, base and allowed length.
        breakers: Texts across which nothing repeats.
    """
    texts = (ctypes.c_char_p * len(breakers))(*(breaker.encode("utf-8", "replace") for breaker in breakers))
    return lib.llama_sampler_init_dry(model.vocabulary, *shape, window, texts, len(breakers))


def _logit_bias(model: LoadedModel, bias: tuple[tuple[int, float], ...]) -> Any:
    size = model.vocabulary_size
    for token, _ in bias:
        if token >= size:
            raise BadValue(
                f"logit_bias names token {token}, and this model has {size} tokens",
                f"Token ids go from 0 to {size - 1}.",
            )
    array = (lib.llama_logit_bias * len(bias))(
        *(lib.llama_logit_bias(token, min(value, _ALWAYS)) for token, value in bias)
    )
    return lib.llama_sampler_init_logit_bias(size, len(bias), array)
