"""Run as a process of its own: what llama.cpp's silent limits and codes become, on a real model. Prints JSON.

`python decode_codes.py MODEL`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from localknobs.engine import attention_scores
from localknobs.engine.attention_scores import AttentionScores
from localknobs.engine.batch import TokenBatch
from localknobs.engine.cache import TokenCache
from localknobs.engine.llama import LoadedModel, lib, send_log_to_stderr
from localknobs.engine.settings import LoadSettings
from localknobs.errors import LocalknobsError


def loaded(**settings: object) -> LoadedModel:
    """Load with a context of 100 tokens, which llama.cpp makes larger."""
    return LoadedModel(LoadSettings(model=Path(sys.argv[1]), **settings), 100, 1, False, lambda done: None)


def told(error: LocalknobsError) -> list[str]:
    """Return an error's kind and words."""
    return [type(error).__name__, error.message]


def logits(model: LoadedModel) -> list[float]:
    """Return the first logits of the last token."""
    return list(lib.llama_get_logits_ith(model.context, -1)[:8])


def after(cache: TokenCache, tokens: list[int]) -> list[float]:
    """Read tokens anew; return the logits."""
    assert cache.add(tokens) == 0
    return logits(cache.model)


def watched() -> tuple[list[float], list[float], str]:
    """Return the logits of a second call with a callback that looks on, with one that fails, its error."""
    rows = []
    for fails in (False, True):
        model = loaded()
        cache, scores = TokenCache(model), AttentionScores(2)
        scores.attach(cache)
        assert cache.add([5, 6, 7]) == 0
        if fails:
            attention_scores.tensor_values = None  # what it calls is gone: the next look raises
        rows.append(after(cache, [8, 9]))
        model.close()
    return rows[0], rows[1], str(scores.failure)


def main() -> None:
    """Try each."""
    send_log_to_stderr()
    found: dict[str, object] = {}
    for name, settings in (("large", {"n_batch": 4096, "n_ubatch": 4096}), ("small", {"n_batch": 48, "n_ubatch": 512})):
        model = loaded(**settings)
        asked = model._parameters.context
        found[name] = {
            "context": model.context_size, "real_context": int(lib.llama_n_ctx(model.context)),
            "batch": model.batch_size, "real_batch": int(lib.llama_n_batch(model.context)), "asked": asked.n_ctx,
            "room": TokenBatch(model)._room, "capacity": TokenCache(model).capacity,
        }  # fmt: skip
        model.close()
    model = loaded(n_batch=4096)
    cache, size = TokenCache(model), model.batch_size
    right = after(cache, [5, 6, 7])
    # All slots taken: fill the context through the same door as an answer does, then ask for one more.
    while cache.room:
        assert cache.add([9] * min(size, cache.room)) == 0
    code = cache.add([9])
    found["full"] = {"code": code, "held": len(cache.tokens), "in model": model.tokens_in_cache()}
    found["full error"] = told(cache.failed(code))
    found["after full"] = {"held": len(cache.tokens), "in model": model.tokens_in_cache()}
    found["after full is right"] = np.array_equal(after(cache, [5, 6, 7]), right)
    code = cache.add([model.vocabulary_size])
    found["no such token"] = {"code": code, "held": len(cache.tokens)}
    found["no such token error"] = told(cache.failed(code))
    found["after no such token is right"] = np.array_equal(after(cache, [5, 6, 7]), right)
    batch = TokenBatch(model)
    found["a gap"] = batch.decode(np.array([5], np.int32), 9, 0)
    found["backwards"] = batch.decode(np.array([5], np.int32), 1, 0)
    found["held after them"] = model.tokens_in_cache()
    # Aborted between micro-batches: what landed is counted by the model, not by what was asked for.
    model.close()
    model = loaded(n_batch=64, n_ubatch=16)
    cache, looks = TokenCache(model), []

    @lib.ggml_abort_callback
    def abort(_data: object) -> bool:
        looks.append(1)
        return model.tokens_in_cache() >= 32

    whole = after(cache, list(range(10, 74)))
    cache.clear()
    model.set_abort(abort)
    found["aborted"] = code = cache.add(list(range(10, 74)))
    cache.landed(list(range(10, 74)))
    model.set_abort(None)
    found["landed"] = {"held": len(cache.tokens), "in model": model.tokens_in_cache(), "asked": len(looks) > 0}
    rest = after(cache, list(range(10 + len(cache.tokens), 74)))
    found["after an abort is right"] = bool(np.allclose(rest, whole, atol=1e-3))
    model.close()
    found["watched"], found["failed watching"], found["failure"] = watched()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
