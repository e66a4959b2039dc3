"""Several examples in one row, none of which sees another: no place of a batch is left empty.

Each example's positions begin at 0; transformers tells from that where one ends, and masks attention accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localknobs.errors import Unsupported
from localknobs.tune.encode import Encoded

_LARGEST_DIFFERENCE = 1e-2
"""Of a mean loss, packed and alone: 16-bit sums differ by less, an example that sees another by far more."""
_LOOK_TOKENS = 64


def rows_of(examples: Sequence[Encoded], width: int) -> list[list[Encoded]]:
    """Return examples in as few rows as the longest-first rule finds, none wider than asked.

    Args:
        examples: In any order.
        width: Most tokens of a row; an example that is longer gets one for itself.
    """
    rows: list[list[Encoded]] = []
    free: list[int] = []
    for example in sorted(examples, key=lambda one: -len(one.tokens)):
        size = len(example.tokens)
        at = next((row for row, room in enumerate(free) if room >= size), None)
        if at is None:
            rows.append([])
            free.append(max(0, width))
            at = len(rows) - 1
        rows[at].append(example)
        free[at] -= size
    return rows


def packed_batch(examples: Sequence[Encoded], width: int) -> tuple[dict[str, Any], Any]:
    """Return what a model is given for packed examples, and what it is to say; -100 where nothing is learned.

    Shapes:
        each: (rows, tokens of the longest row).
    """
    import torch

    rows = rows_of(examples, width)
    longest = max(sum(len(example.tokens) for example in row) for row in rows)
    tokens, places = (torch.zeros((len(rows), longest), dtype=torch.long) for _ in range(2))
    wanted = torch.full((len(rows), longest), -100, dtype=torch.long)
    for number, row in enumerate(rows):
        at = 0
        for example in row:
            end = at + len(example.tokens)
            tokens[number, at:end] = torch.tensor(example.tokens)
            places[number, at:end] = torch.arange(len(example.tokens))
            learned = torch.tensor(example.learned)
            learned[0] = False  # nothing before it says what it is
            wanted[number, at:end][learned] = tokens[number, at:end][learned]
            at = end
    return {"input_ids": tokens, "position_ids": places}, wanted


def check_packing(model: Any, examples: Sequence[Encoded], device: str) -> None:
    """Compare the loss of a few examples, packed and one by one.

    Args:
        model: What is trained.
        examples: To learn from.
        device: Where it is.

    Raises:
        Unsupported: they differ: this model lets packed examples see each other.
    """
    import torch

    from localknobs.tune.losses import summed_loss

    tried = [
        Encoded(example.tokens[:_LOOK_TOKENS], [True] * len(example.tokens[:_LOOK_TOKENS]), example.line, example.was)
        for example in examples[:3]
    ]
    model.eval()
    with torch.no_grad():
        alone = [summed_loss(model, [example], device)[:2] for example in tried]
        together, count, _ = summed_loss(model, tried, device, pack=_LOOK_TOKENS * len(tried))
    model.train()
    difference = abs(float(together) - sum(float(loss) for loss, _ in alone)) / max(1, count)
    if difference > _LARGEST_DIFFERENCE:
        raise Unsupported(
            f"This model cannot be trained with packed examples: their loss differs by {difference:.3f} from what it "
            "is one by one",
            "Leave --packing out.",
        )
