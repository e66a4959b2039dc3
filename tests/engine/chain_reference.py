"""Draws tokens twice, in a process of its own: by the engine's chain, and by llama.cpp's common chain written out.

`python chain_reference.py MODEL`; each line on standard input is `{"values": ..., "prompt": [...], "count": n}`, and
is answered with `{"ours": [...], "reference": [...]}`. The reference follows common/sampling.cpp to the letter:
every sampler of the list is in the chain, also those that are off.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp as lib

from localknobs.engine.llama import LoadedModel
from localknobs.engine.sampling import Sampler
from localknobs.engine.settings import LoadSettings
from localknobs.knobs import check_values, defaults


@lib.llama_log_callback
def silent(level, text, data):
    pass


lib.llama_log_set(silent, ctypes.c_void_p(0))
model = LoadedModel(LoadSettings(model=Path(sys.argv[1])), 1024, 1, False, lambda done: None)


def reference_chain(values):
    """Return llama.cpp's common chain for these values (common_sampler_init)."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    seed, size = values["seed"], model.vocabulary_size

    def add(sampler):
        lib.llama_sampler_chain_add(chain, sampler)

    if values["logit_bias"]:
        bias = [lib.llama_logit_bias(*pair) for pair in values["logit_bias"]]
        add(lib.llama_sampler_init_logit_bias(size, len(bias), (lib.llama_logit_bias * len(bias))(*bias)))
    if values["mirostat"]:
        add(lib.llama_sampler_init_temp(values["temp"]))
        tau, eta = values["mirostat_tau"], values["mirostat_eta"]
        if values["mirostat"] == 1:
            add(lib.llama_sampler_init_mirostat(size, seed, tau, eta, 100))
        else:
            add(lib.llama_sampler_init_mirostat_v2(seed, tau, eta))
        return chain
    breakers = [text.encode() for text in values["dry_sequence_breakers"]]
    make = {
        "penalties": lambda: lib.llama_sampler_init_penalties(
            size, values["repeat_last_n"], values["repeat_penalty"], values["frequency_penalty"],
            values["presence_penalty"],
        ),
        "dry": lambda: lib.llama_sampler_init_dry(
            model.vocabulary, values["dry_multiplier"], values["dry_base"], values["dry_allowed_length"],
            values["dry_penalty_last_n"], (ctypes.c_char_p * len(breakers))(*breakers), len(breakers),
        ),
        "top_n_sigma": lambda: lib.llama_sampler_init_top_n_sigma(values["top_n_sigma"]),
        "top_k": lambda: lib.llama_sampler_init_top_k(values["top_k"]),
        "typ_p": lambda: lib.llama_sampler_init_typical(values["typ_p"], 0),
        "top_p": lambda: lib.llama_sampler_init_top_p(values["top_p"], 0),
        "min_p": lambda: lib.llama_sampler_init_min_p(values["min_p"], 0),
        "xtc": lambda: lib.llama_sampler_init_xtc(values["xtc_probability"], values["xtc_threshold"], 0, seed),
        "temperature": lambda: lib.llama_sampler_init_temp_ext(
            values["temp"], values["dynatemp_range"], values["dynatemp_exponent"]
        ),
    }  # fmt: skip
    for name in values["samplers"]:
        if name != "adaptive_p":
            add(make[name]())
    if "adaptive_p" in values["samplers"]:
        add(lib.llama_sampler_init_adaptive_p(values["adaptive_target"], values["adaptive_decay"], seed))
    else:
        add(lib.llama_sampler_init_dist(seed))
    return chain


def write(prompt, count, draw):
    """Return `count` tokens after the prompt, drawn by `draw()`."""
    model.clear()
    assert model.decode(prompt) == 0
    tokens = []
    for _ in range(count):
        tokens.append(draw())
        assert model.decode(tokens[-1:]) == 0
    return tokens


for line in sys.stdin:
    request = json.loads(line)
    values = {**defaults("sampling"), **check_values(request["values"])}
    prompt, count = request["prompt"], request["count"]
    sampler = Sampler(model, values, prompt)
    ours = write(prompt, count, sampler.next)
    sampler.close()
    chain = reference_chain(values)
    for token in prompt:  # as llama.cpp's server does
        lib.llama_sampler_accept(chain, token)
    reference = write(prompt, count, lambda chain=chain: lib.llama_sampler_sample(chain, model.context, -1))
    lib.llama_sampler_free(chain)
    print(json.dumps({"ours": ours, "reference": reference}), flush=True)
