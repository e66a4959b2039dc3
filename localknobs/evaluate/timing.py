"""The worker's timing, as llama-bench counts it: reading a prompt, and writing token by token, from an empty cache."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from localknobs.engine.llama import lib
from localknobs.errors import LocalknobsError
from localknobs.evaluate.models import OpenModel


def time_models(worker: Any, order: dict[str, Any]) -> None:
    """Time all open models in turns, so that the machine's moods hit all alike; say one record a round and model.

    The order names `prompt` and `generated` (tokens), `rounds`, and `seed` of the tokens.
    """
    rng = np.random.default_rng(order["seed"])
    for number in range(order["rounds"] + 1):
        if worker.enough.is_set() and number > 1:
            break
        for one in worker.models:
            read, written = _time(one, order["prompt"], order["generated"], rng)
            if number:  # the first round pays for memory that is touched for the first time
                worker.say({"record": {
                    "model": one.number, "round": number, "prompt_tokens_per_s": order["prompt"] / read,
                    "tokens_per_s": order["generated"] / written,
                }})  # fmt: skip


def _time(one: OpenModel, prompt: int, generated: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the seconds of reading and of writing."""
    size = one.model.vocabulary_size
    tokens = rng.integers(0, size, prompt, np.int32)
    one.clear()
    began = perf_counter()
    for begin in range(0, prompt, one.model.batch_size):
        part = tokens[begin : begin + one.model.batch_size]
        _ok(one, one.batch.decode(part, begin, len(part) - 1))
    one.batch.logits()[0, 0]  # waits for a graphics card
    read = perf_counter() - began
    one.clear()
    began = perf_counter()
    for token in rng.integers(0, size, generated).tolist():
        _ok(one, one.model.decode([token]))
        lib.llama_get_logits(one.model.context)  # waits for a graphics card, as whoever draws a token does
    return read, perf_counter() - began


def _ok(one: OpenModel, code: int) -> None:
    if code:
        raise LocalknobsError(f"llama.cpp could not compute {one.label} (code {code})", "The log tells more.")
