"""The bill: what a model with its settings takes, device by device, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Method = Literal["planned", "computed"]
"""`planned`: llama.cpp laid everything out and allocated nothing; `computed`: by formula, from the header."""


@dataclass(frozen=True, slots=True)
class DeviceBill:
    """What one device holds, in bytes.

    Args:
        name: `RAM`, or the card's name.
        free_bytes: What it has free before the load; 0 when unknown.
        weights, cache, compute: The model's matrices, the key-value cache, the buffers of a computation.
        overhead: The program itself in main memory, the driver's own share on a card.
        unified: Whether the card shares the main memory.
    """

    name: str
    free_bytes: int
    weights: int = 0
    cache: int = 0
    compute: int = 0
    overhead: int = 0
    unified: bool = False

    @property
    def used_bytes(self) -> int:
        """The sum."""
        return self.weights + self.cache + self.compute + self.overhead

    @property
    def left_bytes(self) -> int:
        """What stays free; negative when it does not fit."""
        return self.free_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class Bill:
    """The whole bill.

    Args:
        devices: Main memory first, then the cards.
        context: Tokens it is for.
        method: How it was found.
        notes: What was assumed, and why a plan could not be had.
        refusal: Why llama.cpp would not load this at all; empty when it would.
    """

    devices: tuple[DeviceBill, ...]
    context: int
    method: Method
    notes: tuple[str, ...] = field(default=())
    refusal: str = ""

    @property
    def weights(self) -> int:
        """Bytes of the weights on all devices."""
        return sum(device.weights for device in self.devices)

    @property
    def cache(self) -> int:
        """Bytes of the key-value cache on all devices."""
        return sum(device.cache for device in self.devices)

    @property
    def compute(self) -> int:
        """Bytes of the compute buffers on all devices."""
        return sum(device.compute for device in self.devices)

    @property
    def overhead(self) -> int:
        """Bytes that the program and the drivers take."""
        return sum(device.overhead for device in self.devices)

    @property
    def total_bytes(self) -> int:
        """Everything."""
        return sum(device.used_bytes for device in self.devices)

    @property
    def fits(self) -> bool:
        """Whether every device has room; what is unknown is taken to have."""
        return not self.refusal and not self.short_of

    @property
    def short_of(self) -> tuple[str, ...]:
        """Names of the devices that have too little room."""
        short = [device.name for device in self.devices if device.free_bytes and device.left_bytes < 0]
        memory = self.devices[0]
        together = memory.used_bytes + sum(device.used_bytes for device in self.devices[1:] if device.unified)
        if memory.free_bytes and together > memory.free_bytes and memory.name not in short:
            short.append(memory.name)
        return tuple(short)
