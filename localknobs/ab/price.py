"""What both sides take of this machine's memory before either is loaded: together, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from localknobs.ab.side import Side
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.fit.machine import FitMachine, this_machine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import read_headers
from localknobs.units import size_text


@dataclass(frozen=True, slots=True)
class BothBills:
    """The bills of both sides.

    Args:
        bills: Of each model that is loaded; one where one serves both sides.
    """

    bills: tuple[Bill, ...]

    @property
    def shared(self) -> bool:
        """Whether one loaded model serves both."""
        return len(self.bills) == 1

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why a side would not load at all."""
        return tuple(bill.refusal for bill in self.bills if bill.refusal)

    @property
    def together(self) -> Bill:
        """Both loaded at once, each in a process of its own."""
        first, *others = self.bills
        return replace(first, devices=_sums([first.devices, *(bill.devices for bill in others)]))

    @property
    def fits(self) -> bool:
        """Whether both can be loaded at once."""
        return not self.refusals and self.together.fits

    @property
    def too_large(self) -> tuple[int, ...]:
        """Sides that do not fit even alone."""
        return tuple(at for at, bill in enumerate(self.bills) if not bill.refusal and not bill.fits)

    @property
    def text(self) -> str:
        """What it takes and what that means, on one line."""
        if self.refusals:
            return self.refusals[0]
        device = max(self.together.devices, key=lambda one: one.used_bytes)
        room = f" of {size_text(device.free_bytes)} that {device.name} has free" if device.free_bytes else ""
        if self.shared:
            what = f"One model serves both sides: {size_text(device.used_bytes)}{room}"
            return what + ("." if self.fits else ", too little: it may fail to load.")
        each = " and ".join(size_text(bill.total_bytes) for bill in self.bills)
        what = f"{each}, together {size_text(device.used_bytes)}{room}"
        if self.fits:
            return f"{what}: both are loaded at once."
        if self.too_large:
            names = " and ".join("AB"[at] for at in self.too_large)
            return f"{what}: {names} alone is too large, and may fail to load."
        return f"{what}: too little for both, so one is loaded after the other for every answer."


def _sums(lists: Sequence[Sequence[DeviceBill]]) -> tuple[DeviceBill, ...]:
    sums: dict[str, DeviceBill] = {}
    for devices in lists:
        for one in devices:
            known = sums.get(one.name)
            sums[one.name] = one if known is None else replace(
                known, weights=known.weights + one.weights, cache=known.cache + one.cache,
                compute=known.compute + one.compute, overhead=known.overhead + one.overhead,
            )  # fmt: skip
    return tuple(sums.values())


def price_sides(
    sides: Sequence[Side], machine: FitMachine | None = None, planning: Planning | None = None
) -> BothBills:
    """Return what the sides take; nothing is loaded.

    Args:
        sides: Both of them.
        machine: What they are to fit; this machine as it is now when not given.
        planning: A warm child process that plans; without one, one is started and ended.

    Raises:
        BadFile, NotFound, Unsupported: a file cannot be read.
    """
    machine = machine or this_machine()
    own = planning or Planning()
    try:
        bills = []
        for side in sides:
            with Pricer(read_headers(side.path), machine, planning=own) as pricer:
                bills.append(pricer.price(side.load_settings))
    finally:
        if planning is None:
            own.close()
    if sides[0].loads_like(sides[1]) and not any(bill.refusal for bill in bills):
        bills = [max(bills, key=lambda bill: bill.total_bytes)]  # one has adapters that the other lacks, perhaps
    return BothBills(tuple(bills))
