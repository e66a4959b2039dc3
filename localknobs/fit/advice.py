"""Which file of a model to take: every one with its bill, and one recommendation with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from localknobs.engine.settings import LoadSettings
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.fit.machine import FitMachine
from localknobs.fit.pricer import Pricer
from localknobs.fit.speed import Reads, Speed, reads_of, speed_of
from localknobs.gguf_info import Header
from localknobs.units import size_text

Verdict = Literal["fits", "part", "context", "weights", "refused"]
"""`fits`: whole, with the wished context, on the cards if there are any; `part`: some layers stay in main memory;
`context`: the weights fit, the wished context does not; `weights`: not even the weights; `refused`: by llama.cpp."""
VERDICT_WORDS: dict[Verdict, str] = {
    "fits": "yes", "part": "in part", "context": "context too long", "weights": "no", "refused": "refused",
}  # fmt: skip
"""Each verdict as people read it, in answer to "does it fit?"."""
USUAL_CONTEXT = 8192
"""Tokens of context that a model is judged by when nobody says."""
LEAST_CONTEXT = 512
"""Tokens below which nobody would call it a context."""
_STEP = 256
NEAR_LOSSLESS_BITS = 8.6
"""Bits a weight (Q8_0 has 8.5) beyond which a file costs time and memory and no reader sees a difference."""
READING_PACE = 5.5
"""Tokens a second that a reader of 250 words a minute takes; below it one waits for the answer."""
MUCH_LOST_BITS = 3.5
"""Bits a weight below which answers suffer so that a larger file, a part of it in main memory, is the better choice."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to choose from.

    Args:
        name: How it is shown and asked for, such as `Q4_K_M`.
        size_bytes: Its weights.
        path: Where it lies; None when it is not on this machine.
        pricer: Of its own header; without one the bill of the reference is scaled to its size.
        exists: False for a file that could be made of another.
        fetch: What `localknobs pull` takes to fetch it; empty for a file that is here.
    """

    name: str
    size_bytes: int
    path: Path | None = None
    pricer: Pricer | None = None
    exists: bool = True
    fetch: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate, judged.

    Args:
        candidate: Which.
        bill: For the wished context, with as many layers on the cards as fit.
        verdict: See `Verdict`.
        layers: On the cards.
        all_layers: There are; the output counts as one.
        context: Largest that fits, at most what the model was trained with; 0 for none.
        context_q8: The same with a cache of 8 bits, where only the context does not fit; else 0.
        speed: Expected, None where it cannot be said.
        bits: A weight.
    """

    candidate: Candidate
    bill: Bill
    verdict: Verdict
    layers: int
    all_layers: int
    context: int
    context_q8: int
    speed: Speed | None
    bits: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What to take.

    Args:
        row: Which; None when nothing fits.
        reason: Why, in one or two sentences.
        flags: To load it so that it fits, as typed; empty when none is needed.
    """

    row: Row | None
    reason: str
    flags: tuple[str, ...] = ()


class Adviser:
    """Judges the files of one model on one machine.

    Args:
        reference: Prices the model's shape; its own file is the one that others are scaled from.
        settings: As wished; `n_ctx` is the wished context.
    """

    def __init__(self, reference: Pricer, settings: LoadSettings) -> None:
        self._reference, self._settings = reference, settings
        self._machine: FitMachine = reference.machine
        header = reference.headers[0]
        self._trained = max(header.context_trained or settings.n_ctx, LEAST_CONTEXT)
        self._parameters = sum(one.parameters for one in reference.headers)
        self._layers = header.number("block_count") + 1
        self._reads = reads_of(reference.headers)
        self._bills: dict[tuple[int, LoadSettings], Bill] = {}

    def rows(self, candidates: Sequence[Candidate]) -> list[Row]:
        """Return every candidate judged, the largest first."""
        return [self.row(one) for one in sorted(candidates, key=lambda one: -one.size_bytes)]

    def row(self, candidate: Candidate) -> Row:
        """Judge one candidate."""
        layers, bill = self._place(candidate, self._settings)
        everything = self._layers if self._machine.cards else 0
        whole = self._bill(candidate, self._with_layers(self._settings, everything, LEAST_CONTEXT))
        chosen = everything if whole.fits and self._settings.n_gpu_layers < 0 else layers
        context = self._largest(candidate, self._settings, chosen)
        verdict: Verdict
        if bill.refusal:
            verdict = "refused"
        elif bill.fits and (layers == everything or self._settings.n_gpu_layers >= 0):
            verdict = "fits"  # as many layers on the cards as were asked for
        elif chosen == everything and context:
            verdict = "context"  # with a smaller one, all layers are on the cards
        elif bill.fits:
            verdict = "part"
        else:
            verdict = "context" if context else "weights"
        smaller = replace(self._settings, cache_type_k="q8_0", cache_type_v="q8_0")
        context_q8 = self._largest(candidate, smaller, chosen) if verdict == "context" else 0
        return Row(
            candidate, bill, verdict, layers, everything, context, context_q8,
            speed_of(bill, self._reads_of(candidate), self._machine, candidate.path) if bill.fits else None,
            8 * candidate.size_bytes / self._parameters if self._parameters else 0.0,
        )  # fmt: skip

    def bill_as_advised(self, advice: Advice) -> Bill | None:
        """Return the bill of the recommended file with the flags that go with it; None where nothing is recommended."""
        row = advice.row
        if row is None or row.verdict != "context" or not advice.flags:
            return row.bill if row else None
        settings = self._with_layers(self._settings, row.all_layers or -1, int(advice.flags[1]))
        if "-ctk" in advice.flags:
            settings = replace(settings, cache_type_k="q8_0", cache_type_v="q8_0")
        return self._bill(row.candidate, settings)

    def _place(self, candidate: Candidate, settings: LoadSettings) -> tuple[int, Bill]:
        """Return the most layers that fit on the cards, and the bill with them."""
        if not self._machine.cards:
            return 0, self._bill(candidate, settings)
        if settings.n_gpu_layers >= 0:
            layers = min(settings.n_gpu_layers, self._layers)
            return layers, self._bill(candidate, settings)
        whole = self._bill(candidate, self._with_layers(settings, self._layers))
        if whole.fits or whole.refusal:
            return self._layers, whole
        low, high, middle = 0, self._layers - 1, self._guessed_layers(whole)
        while low < high:
            middle = min(high, max(low + 1, middle))
            bill = self._bill(candidate, self._with_layers(settings, middle))
            if any(name != "RAM" for name in bill.short_of):
                high, middle = middle - 1, middle - 1
            else:
                low, middle = middle, middle + 1
        return low, self._bill(candidate, self._with_layers(settings, low))

    def _guessed_layers(self, whole: Bill) -> int:
        """Return how many layers the cards hold if all were alike; the search begins there and takes a few steps."""
        cards = whole.devices[1:]
        room = sum(device.free_bytes - device.overhead - device.compute for device in cards)
        wanted = sum(device.weights + device.cache for device in cards)
        return int(max(0, room) / max(1, wanted) * self._layers)

    def _largest(self, candidate: Candidate, settings: LoadSettings, layers: int) -> int:
        """Return the largest context that fits with so many layers on the cards; 0 for none.

        The cost of a token is the same everywhere but for padding, so a line through two prices is close.
        """

        def bill_at(context: int) -> Bill:
            return self._bill(candidate, self._with_layers(settings, layers, context))

        if not bill_at(LEAST_CONTEXT).fits:
            return 0
        if bill_at(self._trained).fits:
            return self._trained
        low, high = LEAST_CONTEXT, self._trained
        for _ in range(12):
            if high - low <= _STEP:
                break
            middle = min(high - _STEP, max(low + _STEP, self._guess(bill_at(low), bill_at(high), low, high)))
            middle = middle // _STEP * _STEP
            if bill_at(middle).fits:
                low = middle
                if high - low > 2 * _STEP and not bill_at(low + _STEP).fits:
                    break
            else:
                high = middle
        return low

    @staticmethod
    def _guess(small: Bill, large: Bill, low: int, high: int) -> int:
        """Return where the tightest device would be full, if its bill grew evenly."""
        reach = [float(high)]
        for before, after in zip(small.devices, large.devices, strict=True):
            growth = (after.used_bytes - before.used_bytes) / (high - low)
            if before.free_bytes and growth > 0:
                reach.append(low + max(0, before.left_bytes) / growth)
        return int(min(reach))

    def _with_layers(self, settings: LoadSettings, layers: int, context: int = 0) -> LoadSettings:
        return replace(settings, n_gpu_layers=layers, n_ctx=context or settings.n_ctx)

    def _bill(self, candidate: Candidate, settings: LoadSettings) -> Bill:
        pricer = candidate.pricer or self._reference
        key = (id(pricer), settings)
        if key not in self._bills:
            self._bills[key] = pricer.price(settings)
        bill = self._bills[key]
        return bill if candidate.pricer else scaled(bill, candidate.size_bytes / max(1, self._reads.total))

    def _reads_of(self, candidate: Candidate) -> Reads:
        if candidate.pricer:
            return reads_of(candidate.pricer.headers)
        ratio = candidate.size_bytes / max(1, self._reads.total)
        reads = self._reads
        return Reads(candidate.size_bytes, int(reads.embedding * ratio), int(reads.active * ratio))


def usual_context(header: Header) -> int:
    """Return the context to judge a model by: the usual one, or what it was trained with when that is less."""
    return min(USUAL_CONTEXT, header.context_trained or USUAL_CONTEXT)


def scaled(bill: Bill, ratio: float) -> Bill:
    """Return the bill of another file of the same model: the weights scaled, cache and buffers as they are."""
    devices = tuple(replace(device, weights=int(device.weights * ratio)) for device in bill.devices)
    return replace(bill, devices=devices)


def advise(rows: Sequence[Row], machine: FitMachine, wished_context: int) -> Advice:
    """Return one recommendation.

    Args:
        rows: Every candidate, judged.
        machine: Where.
        wished_context: Tokens that were asked for.
    """
    refusals = [row.bill.refusal for row in rows if row.verdict == "refused"]
    if refusals and len(refusals) == len(rows):
        return Advice(None, refusals[0] if len(rows) == 1 else f"None of them can be loaded. {refusals[0]}")
    rows = [row for row in rows if row.verdict != "refused"]
    where = " and ".join(dict.fromkeys(card.name for card in machine.cards)) or "memory"
    whole = [row for row in rows if row.verdict == "fits"]
    if whole and max(row.bits for row in whole) < MUCH_LOST_BITS and (better := _less_lossy(rows)):
        return Advice(
            better,
            f"What fits {where} whole has lost much ({max(whole, key=lambda row: row.bits).candidate.name}). "
            f"With {better.layers} of {better.all_layers} layers there, {better.candidate.name} still writes at "
            "reading pace.",
            ("-ngl", str(better.layers)),
        )
    if whole:
        return _among_whole(whole, where, wished_context)
    if shorter := [row for row in rows if row.verdict == "context" and row.context >= LEAST_CONTEXT]:
        return _shorter(shorter, where, wished_context)
    if part := [row for row in rows if row.verdict == "part"]:
        best = max(part, key=lambda row: (row.layers / max(1, row.all_layers), row.bits))
        return Advice(
            best,
            f"No file fits {where} whole. {best.candidate.name} puts {best.layers} of {best.all_layers} layers there, "
            "the most of all; the rest is computed by the processor, which sets the pace.",
            ("-ngl", str(best.layers)),
        )
    return Advice(None, _nothing(rows, where))


def _less_lossy(rows: Sequence[Row]) -> Row | None:
    """Return the quickest of the larger files that write at reading pace with a part of them in main memory."""
    good = [row for row in rows if row.verdict == "part" and row.bits >= 4 and row.speed]
    quick = [row for row in good if row.speed and row.speed.empty >= READING_PACE]
    return max(quick, key=lambda row: row.layers) if quick else None


def _among_whole(rows: Sequence[Row], where: str, wished: int) -> Advice:
    light = [row for row in rows if row.bits <= NEAR_LOSSLESS_BITS] or [min(rows, key=lambda row: row.bits)]
    light = [row for row in light if row.bits >= MUCH_LOST_BITS] or light
    quick = [row for row in light if row.speed is None or row.speed.empty >= READING_PACE]
    best = max(quick, key=lambda row: row.bits) if quick else min(light, key=lambda row: row.bits)
    room = f"fits {where} with {wished:,} tokens of context"
    if not quick:
        return Advice(best, f"It {room}. None writes at reading pace; smaller ones are quicker and lose much.")
    larger = [row for row in rows if row.bits > best.bits]
    if not larger and len(rows) == 1:
        return Advice(best, f"It {room}.")
    if not larger:
        return Advice(best, f"The most exact file that {room}.")
    if best.bits > 8:
        return Advice(best, f"It {room}; the larger ones read the same and write more slowly.")
    return Advice(best, f"The most exact file that {room} and writes at reading pace.")


def _shorter(rows: Sequence[Row], where: str, wished: int) -> Advice:
    enough = [row for row in rows if row.context_q8 >= wished]
    if enough:
        best = max(enough, key=lambda row: row.bits)
        return Advice(
            best,
            f"Its weights fit {where}; only the context of {wished:,} tokens does not. With a cache of 8 bits it fits; "
            f"with the cache as it is, {best.context:,} tokens do.",
            ("-c", str(wished), "-ctk", "q8_0", "-ctv", "q8_0"),
        )
    best = max(rows, key=lambda row: (row.context, row.bits))
    more = f", or {best.context_q8:,} with -ctk q8_0 -ctv q8_0" if best.context_q8 > best.context else ""
    return Advice(
        best,
        f"Its weights fit {where}; only the context of {wished:,} tokens does not. "
        f"Shorten it to {best.context:,}{more}.",
        ("-c", str(best.context)),
    )


def _nothing(rows: Sequence[Row], where: str) -> str:
    smallest = min(rows, key=lambda row: row.candidate.size_bytes)
    short = _shortest(smallest.bill.devices)
    return (
        f"The weights do not fit: even {smallest.candidate.name} takes {size_text(short.used_bytes)} of {short.name}, "
        f"where {size_text(short.free_bytes)} are free. Take a smaller quantization or a smaller model."
    )


def _shortest(devices: Sequence[DeviceBill]) -> DeviceBill:
    return min(devices, key=lambda device: device.left_bytes if device.free_bytes else 0)
