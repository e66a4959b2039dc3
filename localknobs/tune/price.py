"""What a training takes, before it starts: parameters of the adapter, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ADAPTER_BYTES = 16
"""Of an adapter's parameter: value, gradient and the optimizer's two moments, in float32."""
_ACTIVATIONS = 34 / 2
"""Values kept a token, layer and width for the way back (arXiv:2205.05198, equation 2, without attention's scores)."""
_PROGRAM_BYTES = 500 * 2**20
"""Torch, transformers and what they load, beside the model."""


@dataclass(frozen=True, slots=True)
class Price:
    """Memory of a training, in bytes.

    Args:
        base: The frozen weights.
        adapter: What is trained, with gradients and moments.
        activations: What is kept for the way back, at the longest batch.
        checkpointing: Whether each layer is computed twice to keep less.
        adapter_parameters: How many values are trained.
    """

    base: int
    adapter: int
    activations: int
    checkpointing: bool
    adapter_parameters: int

    @property
    def total(self) -> int:
        """All of it, the program included."""
        return self.base + self.adapter + self.activations + _PROGRAM_BYTES


def price(
    *, parameters: int, shapes: Sequence[tuple[int, int]], rank: int, tokens: int, layers: int, width: int,
    vocabulary: int, item_bytes: int, available: int,
) -> Price:  # fmt: skip
    """Return what a training takes; each layer is computed twice where the memory asks for it.

    Args:
        parameters: Of the base.
        shapes: (rows, columns) of the weights that get an adapter.
        rank: Of the adapter.
        tokens: Of a batch, at most.
        layers: Of the base.
        width: Of its hidden state.
        vocabulary: Its tokens.
        item_bytes: Of a value of the base while it is trained: 4 on a processor, 2 on a graphics card.
        available: Bytes of memory there are; 0 when unknown.
    """
    trained = sum(rank * (rows + columns) for rows, columns in shapes)
    # Logits, their softmax and its gradient, in float32, once.
    head = 3 * 4 * tokens * vocabulary
    kept = int(tokens * layers * width * _ACTIVATIONS * item_bytes)
    plain = Price(parameters * item_bytes, trained * ADAPTER_BYTES, kept + head, False, trained)
    if not available or plain.total <= available:
        return plain
    one_layer = kept // max(1, layers)
    entries = tokens * layers * width * item_bytes
    return Price(plain.base, plain.adapter, one_layer + entries + head, True, trained)
