"""What a training takes, before it starts: values that are trained, memory, and what is computed at once to fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TRAINED_BYTES = 16
"""Of a value that is trained, beside itself or in place of the base's: gradient, the optimizer's two moments, and the
value of the best look, in float32."""
_ACTIVATIONS = 34 / 2
"""Values kept a token, layer and width for the way back (arXiv:2205.05198, equation 2, without attention's scores)."""
_PROGRAM_BYTES = 500 * 2**20
"""Torch, transformers and what they load, beside the model."""
_ENOUGH_TOKENS = 2048
"""Tokens at once below which a processor or a card is not used well: then layers are rather computed twice."""


@dataclass(frozen=True, slots=True)
class Price:
    """Memory of a training, in bytes.

    Args:
        base: The model's weights.
        trained: What is kept of each value that is trained.
        noted: What the base says at old rows, for rehearsal.
        activations: What is kept for the way back, at the longest examples.
        checkpointing: Whether each layer is computed twice to keep less.
        trained_parameters: How many values are trained.
        at_once: Examples of a batch that are computed together; the rest of it follows, and the result is the same.
    """

    base: int
    trained: int
    activations: int
    checkpointing: bool
    trained_parameters: int
    at_once: int
    noted: int = 0

    @property
    def total(self) -> int:
        """All of it, the program included."""
        return self.base + self.trained + self.noted + self.activations + _PROGRAM_BYTES


def price(
    *, base: int, trained: int, each: int = TRAINED_BYTES, noted: int = 0, batch: int, longest: int, layers: int,
    width: int, vocabulary: int, item_bytes: int, available: int,
) -> Price:  # fmt: skip
    """Return what a training takes: the whole batch at once if it fits, else less of it, else with layers twice.

    Args:
        base: Bytes of the model's weights.
        trained: Values that are trained.
        each: Bytes kept of each of them.
        noted: Bytes of what the base says at old rows.
        batch: Examples in a batch.
        longest: Tokens of the longest of them.
        layers: Of the base.
        width: Of its hidden state.
        vocabulary: Its tokens.
        item_bytes: Of a value while it is computed: 4 on a processor, 2 on a graphics card.
        available: Bytes of memory there are; 0 when unknown.
    """

    def at(count: int, checkpointing: bool) -> Price:
        tokens = count * longest
        head = 3 * 4 * tokens * vocabulary  # logits, their softmax and its gradient, in float32, once
        kept = int(tokens * layers * width * _ACTIVATIONS * item_bytes)
        if checkpointing:  # one layer, and what goes into each
            kept = kept // max(1, layers) + tokens * layers * width * item_bytes
        return Price(base, trained * each, kept + head, checkpointing, trained, count, noted)

    ways = [at(count, False) for count in _halves(batch) if count == batch or count * longest >= _ENOUGH_TOKENS]
    ways += [at(count, True) for count in _halves(batch)]
    return next((way for way in ways if not available or way.total <= available), ways[-1])


def _halves(count: int) -> Iterator[int]:
    while count:
        yield count
        count = -(-count // 2) if count > 1 else 0
