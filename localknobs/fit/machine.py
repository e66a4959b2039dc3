"""The machine a model is to fit: this one, or one that is only asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localknobs.bandwidth import bandwidth
from localknobs.engine.build import Build, describe_build
from localknobs.errors import LocalknobsError
from localknobs.fit.cards import GIB, Card, known_cards
from localknobs.hardware import available_memory_bytes, processor_name, total_memory_bytes

CARD_OVERHEAD = GIB // 2
"""Bytes of a card that the driver's context and the screen take: an assumption (llama.cpp's own --fit leaves 1 GiB)."""
SYSTEM_SHARE = 0.1
"""Share of the memory of a machine that is only asked about which its system takes: an assumption."""
UNIFIED_SHARE = 0.75
"""Share of unified memory that the graphics card may use: macOS's default on machines of more than 36 GB."""


@dataclass(frozen=True, slots=True)
class FitMachine:
    """A machine.

    Args:
        memory_bytes: Main memory.
        free_bytes: What of it is free; 0 when unknown.
        memory_bandwidth: Bytes a second that the processor reads from it; 0 when unknown.
        cards: Graphics cards that the model may use.
        simulated: Whether the cards are only asked about; llama.cpp is then shown pretended ones.
        processor: Its name, to look up what was measured here; empty for another machine.
        assumptions: What was assumed about it, as sentences.
    """

    memory_bytes: int
    free_bytes: int
    memory_bandwidth: float
    cards: tuple[Card, ...] = ()
    simulated: bool = False
    processor: str = ""
    assumptions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it is, on one line."""
        memory = f"{self.memory_bytes / GIB:.0f} GiB of memory"
        if not self.cards:
            return f"the processor alone, {memory}"
        titles = [card.title for card in self.cards]
        counted = [f"{titles.count(title)}x {title}" if titles.count(title) > 1 else title for title in titles]
        return ", ".join(dict.fromkeys(counted)) + f", {memory}"


def this_machine(build: Build | None = None, memory_bytes: int = 0) -> FitMachine:
    """Return the machine the program runs on, with the cards that this build of llama.cpp can use.

    Args:
        build: What llama.cpp says; asked for when not given.
        memory_bytes: Main memory to assume instead of the real one; 0 for the real one.
    """
    notes: list[str] = []
    if build is None:
        try:
            build = describe_build()
        except LocalknobsError as error:
            notes.append(f"llama.cpp could not be asked for its devices ({error.message}): the processor alone is used")
    devices = [device for device in build.devices if "gpu" in device.kind] if build else []
    cards = tuple(
        Card(
            device.description or device.name, "", device.memory_bytes, device.free_bytes,
            _bandwidth_of(device.description), device.kind == "integrated gpu" or "apple" in device.description.lower(),
        )
        for device in devices
    )  # fmt: skip
    total, free = total_memory_bytes(), available_memory_bytes()
    if memory_bytes:
        total, free = memory_bytes, int(memory_bytes * (1 - SYSTEM_SHARE))
        notes.append(_system_note(memory_bytes))
    if cards:
        notes.append(_driver_note())
    else:
        notes.append("no graphics card that this build of llama.cpp can use: all is counted for the processor")
    return FitMachine(total, free, bandwidth().memory, cards, False, processor_name(), tuple(notes))


def other_machine(cards: Sequence[Card], memory_bytes: int = 0) -> FitMachine:
    """Return a machine that is only asked about.

    Args:
        cards: Its graphics cards; with unified memory, its only memory.
        memory_bytes: Its main memory; 0 takes this machine's, or the card's when that is unified.
    """
    notes = []
    unified = next((card for card in cards if card.unified), None)
    total = memory_bytes or (unified.total_bytes if unified else 0)
    if total:
        free = int(total * (1 - SYSTEM_SHARE))
        notes.append(_system_note(total))
    else:
        total, free = total_memory_bytes(), available_memory_bytes()
        notes.append("main memory as on this machine (--ram changes it)")
    speed = unified.bandwidth if unified else bandwidth().memory
    if not unified:
        notes.append(f"its main memory as fast as this machine's, measured: {speed / 1e9:.0f} GB/s")
    priced = []
    for card in cards:
        free_bytes = int(card.free_bytes * UNIFIED_SHARE) if card.unified else card.free_bytes
        priced.append(Card(card.name, card.vendor, card.total_bytes, free_bytes, card.bandwidth, card.unified))
    if unified:
        notes.append(f"a graphics card may use {UNIFIED_SHARE:.0%} of unified memory")
    if any(not card.unified for card in cards):
        notes.append(_driver_note())
    return FitMachine(total, free, speed, tuple(priced), bool(cards), "", tuple(notes))


def _system_note(total: int) -> str:
    return f"the system takes {SYSTEM_SHARE:.0%} of {total / GIB:.0f} GiB of main memory"


def _driver_note() -> str:
    return f"driver and screen take {CARD_OVERHEAD // 2**20} MiB of each graphics card"


def _bandwidth_of(description: str) -> float:
    """Return the nominal bandwidth of a real card, by the name its driver gives; 0 when the table has none."""
    from localknobs.fit.cards import find_cards

    try:
        return find_cards(description)[0].bandwidth
    except LocalknobsError:
        pass
    longest = [card for card in known_cards() if card.name.lower() in description.lower()]
    return max(longest, key=lambda card: len(card.name)).bandwidth if longest else 0.0
