"""A text as one vector: the model's last hidden states, pooled; in the worker.

llama.cpp pools within one micro-batch only: a longer text would get the vector of its last piece, and nothing would
tell. So the context pools nothing (`parameters.py`), and the states are taken token by token and pooled here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from localknobs.engine.llama import LoadedModel, lib
from localknobs.errors import LocalknobsError, Unsupported
from localknobs.gguf_info import Header

MEAN, LAST = "mean", "last"
_POOLINGS = {1: MEAN, 2: "cls", 3: LAST, 4: "rank"}
"""`llama_pooling_type` of llama.h; a model that names none was not made for vectors, and gets the mean."""
PIECE_BYTES = 32 * 2**20
"""Most logits of one call: llama.cpp computes them beside the states, for every token of it."""


def named_pooling(header: Header) -> str:
    """Return the way that a file names, empty where it names none."""
    kind = header.number("pooling_type")
    return _POOLINGS.get(kind, "") if kind else ""


def pooling_of(header: Header) -> str:
    """Return how a file says that its states are made one vector: `mean` or `last`.

    Raises:
        Unsupported: it is no model that reads from left to right, or one that ranks.
    """
    name = named_pooling(header) or MEAN
    if name not in (MEAN, LAST) or header.metadata.get(f"{header.architecture}.attention.causal") is False:
        raise Unsupported(
            "This model gives no vectors here: it reads a text as a whole, or ranks pairs of texts",
            "Use a model that also chats, or one such as Qwen3-Embedding.",
        )
    return name


def embedding_of(model: LoadedModel, tokens: Sequence[int], pooling: str) -> npt.NDArray[np.float32]:
    """Return the vector of a text, of length 1. The cache is empty before and after.

    Args:
        model: The loaded model.
        tokens: The text's, as many as the context holds at most.
        pooling: `mean` or `last`.

    Raises:
        LocalknobsError: llama.cpp could not compute it, or its numbers are none.

    Shapes:
        result: (width of the model,).
    """
    width = int(lib.llama_model_n_embd_out(model.pointer))
    size = max(1, min(model.batch_size, PIECE_BYTES // (4 * model.vocabulary_size)))
    total = np.zeros(width)
    model.clear()
    lib.llama_set_embeddings(model.context, True)
    try:
        for begin in range(0, len(tokens), size):
            piece = tokens[begin : begin + size]
            if code := model.decode_all(piece):
                raise LocalknobsError(f"llama.cpp could not compute the text's vector (code {code})", "Try again.")
            for at in range(len(piece)):
                state = lib.llama_get_embeddings_ith(model.context, at)
                if not state:
                    raise Unsupported("This model tells no hidden states", "Use another model for vectors.")
                row = np.ctypeslib.as_array(state, (width,))
                total = total + row if pooling == MEAN else row.astype(np.float64)
    finally:
        lib.llama_set_embeddings(model.context, False)
        model.clear()
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or not length:
        raise LocalknobsError("The text's vector is no number", "The file is damaged, or overflows in its types.")
    return (total / length).astype(np.float32)
