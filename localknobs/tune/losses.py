"""Batches and their loss, in the training process; the order of the batches depends on the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from localknobs.tune.encode import Encoded
from localknobs.tune.packing import packed_batch

_SORTED_TOGETHER = 16
"""Batches' worth of examples that are sorted by length, so that a batch has few empty places."""


class Row(Protocol):
    """What is put into batches."""

    @property
    def tokens(self) -> list[int]:
        """Of the row."""


AnyRow = TypeVar("AnyRow", bound=Row)


def batches_of(examples: Sequence[AnyRow], size: int, seed: int, epoch: int) -> list[list[AnyRow]]:
    """Return the batches of one reading of the data, in the order of the seed and the reading."""
    chance = random.Random(f"{seed} {epoch}")
    order = list(range(len(examples)))
    chance.shuffle(order)
    batches = []
    for at in range(0, len(order), size * _SORTED_TOGETHER):
        part = sorted(order[at : at + size * _SORTED_TOGETHER], key=lambda index: len(examples[index].tokens))
        batches += [part[first : first + size] for first in range(0, len(part), size)]
    chance.shuffle(batches)
    return [[examples[index] for index in batch] for batch in batches]


def summed_loss(model: Any, batch: Sequence[Encoded], device: str, pack: int = 0) -> tuple[Any, int, int]:
    """Return the summed loss of a batch's learned tokens, their number, and how often the top token is right.

    Args:
        model: What computes it.
        batch: The examples.
        device: Where the model is.
        pack: Tokens of a row that several examples share; 0 for a row each.
    """
    import torch

    logits, targets = placed_logits(model, batch, device, pack)
    chosen = logits.float()
    loss = torch.nn.functional.cross_entropy(chosen, targets, reduction="sum")
    return loss, int(targets.numel()), int((chosen.argmax(-1) == targets).sum())


def placed_logits(model: Any, batch: Sequence[Encoded], device: str, pack: int = 0) -> tuple[Any, Any]:
    """Return what a model says at each learned place of a batch, row after row, and the token that stands there.

    Args:
        model: What computes it.
        batch: The examples.
        device: Where the model is.
        pack: As `summed_loss` has it.
    Shapes:
        logits: (learned places, vocabulary).  tokens: (learned places).
    """
    given, wanted = packed_batch(batch, pack) if pack else _padded_batch(batch)
    given, wanted = {name: value.to(device) for name, value in given.items()}, wanted[:, 1:].to(device)
    logits = model(**given, use_cache=False).logits[:, :-1]
    places = wanted != -100
    return logits[places], wanted[places]


def _padded_batch(batch: Sequence[Encoded]) -> tuple[dict[str, Any], Any]:
    import torch

    width = max(len(example.tokens) for example in batch)
    tokens = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    wanted = torch.full((len(batch), width), -100, dtype=torch.long)
    for row, example in enumerate(batch):
        count = len(example.tokens)
        tokens[row, :count] = torch.tensor(example.tokens)
        mask[row, :count] = 1
        learned = torch.tensor(example.learned)
        wanted[row, :count][learned] = tokens[row, :count][learned]
    return {"input_ids": tokens, "attention_mask": mask}, wanted


def mean_loss(model: Any, examples: Sequence[Encoded], size: int, device: str) -> tuple[float, float]:
    """Return the mean loss of the learned tokens and the share at which the top token is right."""
    import torch

    ordered = sorted(examples, key=lambda example: len(example.tokens))
    total, count, right = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for at in range(0, len(ordered), size):
            loss, tokens, hits = summed_loss(model, ordered[at : at + size], device)
            total, count, right = total + float(loss), count + tokens, right + hits
    model.train()
    return total / max(1, count), right / max(1, count)


def endless(examples: Sequence[AnyRow], size: int, seed: int, done: int) -> Iterator[list[AnyRow]]:
    """Yield batches for ever, reading after reading, from the batch on at which `done` others were taken."""
    per_epoch = -(-len(examples) // size)
    epoch, skip = divmod(done, per_epoch)
    while True:
        yield from batches_of(examples, size, seed, epoch)[skip:]
        epoch, skip = epoch + 1, 0


def rate_at(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Return the share of the top learning rate at a step, from 0."""
    import math

    rising = max(1, round(warmup * steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]
