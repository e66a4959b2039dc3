"""How fast a model reads and writes, as llama-bench counts it; in the worker."""

from __future__ import annotations

from time import perf_counter

from localknobs.engine.binding import lib
from localknobs.engine.llama import LoadedModel
from localknobs.errors import LocalknobsError


def seconds_of(model: LoadedModel, *, read: int = 0, written: int = 0, depth: int = 0) -> float:
    """Return the seconds of reading a prompt (pp of llama-bench), or of computing tokens one by one (tg).

    Nothing is drawn and nothing is turned into text: this is the model alone. The cache is left empty.

    Args:
        model: The loaded model.
        read: Tokens of the prompt, in batches of the model's size.
        written: Tokens computed one by one.
        depth: Tokens the cache holds before; reading them is not counted.
    """
    model.clear()
    _compute(model, depth, model.batch_size)
    lib.llama_synchronize(model.context)
    began = perf_counter()
    _compute(model, read, model.batch_size)
    _compute(model, written, 1)
    lib.llama_synchronize(model.context)
    seconds = perf_counter() - began
    model.clear()
    return seconds


def _compute(model: LoadedModel, count: int, size: int) -> None:
    """Decode so many tokens; which ones does not matter to the time, but a mixture's experts want different ones."""
    for done in range(0, count, size):
        piece = [(7919 * at) % model.vocabulary_size for at in range(done, min(count, done + size))]
        if code := model.decode(piece):
            model.clear()
            raise LocalknobsError(
                f"llama.cpp could not compute the next tokens (code {code})",
                "Try fewer tokens (-p, -n) or layers (-ngl).",
            )
