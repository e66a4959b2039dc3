"""Training processes that make each step together: on several cards or machines, as `accelerate launch` starts them.

Every process has the whole model and goes through the data in the same order; each computes its share of a batch, and
the gradients are added. So the result is that of one process, and only the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from localknobs.errors import BadValue

Piece = TypeVar("Piece")


def rank() -> int:
    """Return the number of this process among those that train together; 0 is the one that writes."""
    return _number("RANK", 0)


def count() -> int:
    """Return how many processes train together."""
    return max(1, _number("WORLD_SIZE", 1))


def count_here() -> int:
    """Return how many of them are on this machine."""
    return max(1, _number("LOCAL_WORLD_SIZE", count()))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise BadValue(f"The environment says {name}={text}, which is no number", f"Unset it: unset {name}")
    return int(text) if text else default


class Ranks:
    """The processes that train together; of a single one nothing is asked."""

    def __init__(self) -> None:
        self.rank, self.count = rank(), count()

    def join(self) -> None:
        """Wait for the others, and take the card that is meant for this process."""
        if self.count == 1:
            return
        import torch

        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(_number("LOCAL_RANK", 0) % torch.cuda.device_count())
            backend = "nccl"
        torch.distributed.init_process_group(backend)

    def share(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Return the pieces of a step that this process computes."""
        return pieces[self.rank :: self.count]

    def add_gradients(self, trained: Iterable[Any]) -> None:
        """Add up the gradients of all processes, in each of them."""
        if self.count == 1:
            return
        import torch

        for value in trained:
            if value.grad is None:  # this process had nothing to compute
                value.grad = torch.zeros_like(value)
            torch.distributed.all_reduce(value.grad)

    def added(self, number: float) -> float:
        """Return the sum of a number over all processes."""
        if self.count == 1:
            return number
        import torch

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        total = torch.tensor(number, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return float(total)

    def any(self, flag: bool) -> bool:
        """Return whether any process says so: all must stop at the same step."""
        return self.added(float(flag)) > 0
