"""Rehearsal: beside what is new, each step reads some old rows, and is held to what the base says there.

What the base says is noted once, before the first step: of each place its likeliest tokens, and the rest as one. The
loss of an old row is the model's divergence from that, and not from the row's own words: an answer that the base would
give otherwise teaches nothing. Knows the numbers, not where the rows come from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from localknobs.convert.child import Say
from localknobs.tune.encode import Encoded
from localknobs.tune.losses import placed_logits

KEPT_TOKENS = 32
"""Likeliest tokens of a place that are noted; what they leave over counts as one token more."""
NOTED_BYTES = KEPT_TOKENS * (4 + 4) + 4
"""Memory of a noted place."""
MOST_PLACES = 200_000
"""Tokens of old rows that are noted at most: 50 MiB."""
CHAT_LENGTH, TEXT_LENGTH = 256, 128
"""Most tokens of an old conversation, and of a piece of old text: more of them are worth more than long ones."""
TEMPERATURE = 2.0
"""At which the two are compared: at 1 a token that the base took for unlikely hardly counts, but a loss counts it."""
_SMALLEST = 1e-6
"""Of a share whose logarithm is taken."""


def old_beside(batch: int, share: float) -> int:
    """Return how many old rows are read beside a batch, at least one.

    Args:
        batch: New examples in it.
        share: Old ones among all rows, 0 to 0.9; 0 for none at all.
    """
    return max(1, round(batch * share / (1 - share))) if share else 0


def chosen_rows(rows: Sequence[Encoded], most: int, seed: int) -> list[Encoded]:
    """Return rows that have something to be held to, by chance, within `MOST_PLACES`.

    Args:
        rows: All there are.
        most: How many a training can read.
        seed: Of the training.
    """
    useful = [row for row in rows if any(row.learned[1:])]
    random.Random(f"{seed} rehearsal").shuffle(useful)
    kept: list[Encoded] = []
    room = MOST_PLACES
    for row in useful[:most]:
        room -= len(row.tokens)
        if room < 0:
            break
        kept.append(row)
    return kept


@dataclass(frozen=True, slots=True)
class OldRow:
    """An old row with what the base says.

    Args:
        row: Its tokens.
        likeliest: Tokens.
        shares: Logarithms of their probabilities.
        rest: Logarithm of what they leave over.
    Shapes:
        likeliest, shares: (learned places, `KEPT_TOKENS` or the whole vocabulary).  rest: (learned places).
    """

    row: Encoded
    likeliest: Any
    shares: Any
    rest: Any

    @property
    def tokens(self) -> list[int]:
        """Of the row."""
        return self.row.tokens


def noted(
    model: Any, rows: Sequence[Encoded], size: int, device: str, say: Say, stopped: Callable[[], bool]
) -> list[OldRow] | None:
    """Return rows with what a model says before it is trained; None when it was stopped.

    Args:
        model: The base, or the base with an adapter that changes nothing yet.
        rows: As `chosen_rows` returns them.
        size: Rows that are computed at once.
        device: Where the model is.
        say: Hears how many more rows are noted: `noted`.
        stopped: Whether to stop; asked after every part.
    """
    import torch

    found: dict[int, OldRow] = {}
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    model.eval()
    with torch.no_grad():
        for at in range(0, len(order), size):
            part = order[at : at + size]
            logits, _ = placed_logits(model, [rows[index] for index in part], device)
            shares = logits.float().log_softmax(-1)
            top, likeliest = shares.topk(min(KEPT_TOKENS, shares.shape[-1]))
            counts = [sum(rows[index].learned[1:]) for index in part]
            pieces = zip(
                part, *(value.cpu().split(counts) for value in (likeliest.int(), top, _rest(top))), strict=True
            )
            for index, *values in pieces:
                found[index] = OldRow(rows[index], *(value.clone() for value in values))  # no view of the whole batch
            say({"noted": len(part)})
            if stopped():
                return None
    model.train()
    return [found[index] for index in range(len(rows))]


def summed_divergence(model: Any, rows: Sequence[OldRow], device: str) -> Any:
    """Return how far a model is from what was noted, summed over the places of rows: Kullback-Leibler, in nats.

    Both are taken at `TEMPERATURE`, and the sum times its square, which keeps gradients as large as they are at 1. The
    tokens that were not noted are compared as one.

    Args:
        model: What is trained.
        rows: Old ones.
        device: Where it is.

    Source:
        Learning without forgetting, arXiv:1606.09282, section 3, with its temperature;
        the base as the reference: arXiv:1909.08593, section 2.
    """
    import torch

    logits, _ = placed_logits(model, [row.row for row in rows], device)
    likeliest, before, rest = (
        torch.cat([getattr(row, name) for row in rows]).to(device) for name in ("likeliest", "shares", "rest")
    )
    now = logits.float().log_softmax(-1).gather(-1, likeliest.long())
    first, second = _softened(before, rest), _softened(now, _rest(now))
    return TEMPERATURE**2 * (first.exp() * (first - second)).sum()


def _softened(shares: Any, rest: Any) -> Any:
    """Return logarithms of the probabilities of some tokens and of the rest, at the temperature."""
    import torch

    return (torch.cat([shares, rest[:, None]], -1) / TEMPERATURE).log_softmax(-1)


def _rest(shares: Any) -> Any:
    """Return the logarithm of what some tokens leave over of each place."""
    return (1 - shares.exp().sum(-1)).clamp_min(_SMALLEST).log()
