"""How long a training will take: two steps of the same model, cut down to one layer and to two, tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from localknobs.tune.encode import Encoded
from localknobs.tune.losses import batches_of, summed_loss
from localknobs.tune.rehearsal import old_beside
from localknobs.tune.trainee import load_trainee

_WAY_FORWARD = 1 / 3
"""Share of a step that computes the loss alone, as a look does: the way back takes twice as long."""


def estimated_seconds(
    order: Mapping[str, Any], learn: Sequence[Encoded], old: Sequence[Encoded], looked_at: int
) -> float:
    """Return about how many seconds the steps and the looks of a training take; its answers come on top.

    Args:
        order: Of the training, with the numbers of `tune.training`.
        learn: What it learns from.
        old: What is rehearsed.
        looked_at: Tokens that are read at each look.
    """
    from transformers import AutoConfig

    layers: int = AutoConfig.from_pretrained(order["base"], local_files_only=True).num_hidden_layers
    batches = sorted(batches_of(learn, order["batch"], order["seed"], 0), key=_tokens)
    piece = batches[len(batches) // 2][: order["at_once"]]
    one, two = (_step_seconds({**order, "layers": count}, piece) for count in (1, min(2, layers)))
    per_token = (one + (layers - 1) * max(0.0, two - one)) / _tokens(piece)
    beside = old_beside(order["batch"], order["rehearsal_share"]) * _tokens(old) / max(1, len(old))
    in_a_step = (sum(map(_tokens, batches)) / len(batches) + beside) * order["accumulation"]
    looks = order["steps"] / order["look_every"] + 2
    return float(per_token * (order["steps"] * in_a_step + (looks * looked_at + _tokens(old)) * _WAY_FORWARD))


def _tokens(examples: Sequence[Encoded]) -> int:
    return sum(len(example.tokens) for example in examples)


def _step_seconds(order: Mapping[str, Any], batch: Sequence[Encoded]) -> float:
    """Return what a batch takes, forward and back, at its best after a first time that prepares things."""
    import torch

    trainee, device = load_trainee(order)
    times = []
    for _ in range(3):
        began = perf_counter()
        loss, _, _ = summed_loss(trainee, batch, device, order["pack"])
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - began)
    return min(times[1:])
