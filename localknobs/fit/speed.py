"""How fast it would write: from the bytes a token reads and the bandwidth, corrected by what was measured.

Writing one token reads every active weight once, and the whole cache. The rest (the arithmetic, the waiting) is in a
share of the bandwidth that is reached; it is assumed until `localknobs bench` or a chat has measured this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from localknobs.engine.events import ModelInfo, Stats
from localknobs.engine.settings import LoadSettings
from localknobs.errors import LocalknobsError
from localknobs.fit.bill import Bill
from localknobs.fit.machine import FitMachine
from localknobs.gguf_info import Header, read_header
from localknobs.hardware import processor_name
from localknobs.measured_speeds import MeasuredSpeed, measured_speeds, remember_speeds

MEMORY_SHARE = 0.8
"""Share of the measured main memory bandwidth that is assumed to be reached."""
CARD_SHARE = 0.6
"""Share of a card's nominal bandwidth that is assumed to be reached: 55 to 60% were measured with 4-bit files on an
M1 Max (llama.cpp issue 27525), up to 85% on an M4 with Q4_K_M."""
LEAST_READ = 64 * 2**20
"""Bytes a token below which the caches of the processor serve it and the bandwidth says nothing."""
_ALIKE = 4
"""A measurement of a model up to so many times larger or smaller counts: tiny ones wait more than they read."""
_LEAST_TOKENS, _MOST_CONTEXT = 48, 2048
"""An answer of a chat is a measurement when it is so long, in a context so empty."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second.

    Args:
        empty: With an empty context.
        full: With a full one.
        basis: Where it comes from: `measured`, `estimated from measurements` or `estimated`.
    """

    empty: float
    full: float
    basis: str


@dataclass(frozen=True, slots=True)
class Reads:
    """What one token reads of a model's weights.

    Args:
        total: Bytes of all weights.
        embedding: Bytes of the token embedding, of which only one row is read.
        active: Bytes read of all the others, and of the embedding where it is the output too.
    """

    total: int
    embedding: int
    active: int


def reads_of(headers: Sequence[Header]) -> Reads:
    """Return what one token reads; of a mixture's experts, those in use."""
    header = headers[0]
    tensors = [tensor for one in headers for tensor in one.tensors]
    experts = header.number("expert_count")
    share = header.number("expert_used_count") / experts if experts else 1.0
    embedding = sum(tensor.size_bytes for tensor in tensors if tensor.name == "token_embd.weight")
    active = embedding if not any(tensor.name == "output.weight" for tensor in tensors) else 0
    for tensor in tensors:
        if tensor.name != "token_embd.weight":
            active += int(tensor.size_bytes * (share if "_exps" in tensor.name else 1.0))
    return Reads(sum(tensor.size_bytes for tensor in tensors), embedding, active)


def speed_of(bill: Bill, reads: Reads, machine: FitMachine, model: Path | None = None) -> Speed | None:
    """Return the expected speed, None where a bandwidth is not known.

    Args:
        bill: What lies where.
        reads: Of the model, at the size that the bill is for.
        machine: Where.
        model: Its file, to find what was measured with it.
    """
    seconds = _seconds(bill, reads, machine)
    if seconds is None:
        return None
    empty, full = seconds
    factor, basis = _correction(empty, reads, machine, model)
    if basis == "estimated" and reads.active < LEAST_READ:
        return None
    return Speed(factor / empty, factor / full, basis)


def _seconds(bill: Bill, reads: Reads, machine: FitMachine) -> tuple[float, float] | None:
    """Return the time of a token with an empty and with a full context."""
    dense = reads.total - reads.embedding
    tied = reads.active > dense
    share = min(1.0, reads.active / (reads.total if tied else dense)) if dense else 1.0
    empty = full = 0.0
    speeds = [(machine.memory_bandwidth, MEMORY_SHARE), *((card.bandwidth, CARD_SHARE) for card in machine.cards)]
    alone = not any(device.weights for device in bill.devices[1:])
    for device, (nominal, reached) in zip(bill.devices, speeds, strict=True):
        weights = device.weights
        if device is bill.devices[0] and not (tied and alone):
            weights = max(0, weights - reads.embedding)
        if not weights and not device.cache:
            continue
        if not nominal:
            return None
        empty += weights * share / (nominal * reached)
        full += (weights * share + device.cache) / (nominal * reached)
    return (empty, full) if empty else None


def _correction(seconds: float, reads: Reads, machine: FitMachine, model: Path | None) -> tuple[float, str]:
    """Return what the estimate is to be multiplied by, and why."""
    records = [
        one for one in measured_speeds()
        if one.processor == machine.processor and machine.processor and one.generation_tokens_per_s
        and _on_cards(one) == bool(machine.cards)
    ]  # fmt: skip
    for record in reversed(records):  # the newest stand last
        if model and record.model == str(model) and record.settings.get("n_gpu_layers", -1) == -1:
            return record.generation_tokens_per_s * seconds, "measured"
    bandwidth = machine.cards[0].bandwidth * CARD_SHARE if machine.cards else machine.memory_bandwidth * MEMORY_SHARE
    ratios = [
        one.bytes_per_s / bandwidth for one in records
        if bandwidth and reads.active / _ALIKE <= one.size_bytes <= reads.active * _ALIKE and _is_dense(one)
    ]  # fmt: skip
    return (median(ratios), "estimated from measurements") if ratios else (1.0, "estimated")


def _on_cards(record: MeasuredSpeed) -> bool:
    return any(not device.startswith("CPU") for device in record.devices)


def _is_dense(record: MeasuredSpeed) -> bool:
    try:
        return not read_header(Path(record.model)).number("expert_count")
    except LocalknobsError:
        return False


def remember_answer(info: ModelInfo, settings: LoadSettings, stats: Stats) -> None:
    """Keep the speed of an answer, unless `bench` has measured this model already; a full disk costs only that."""
    if stats.generated_tokens < _LEAST_TOKENS or stats.context_used > _MOST_CONTEXT or stats.drafted_tokens:
        return  # too short, read too much of the cache, or not one token at a time
    if any(record.model == info.path and record.prompt_tokens for record in measured_speeds()):
        return
    record = MeasuredSpeed(
        model=info.path, size_bytes=info.size_bytes, architecture=info.architecture,
        quant=info.description.rpartition(" ")[2], parameters=info.parameters,
        settings={"n_gpu_layers": settings.n_gpu_layers}, devices=info.devices, processor=processor_name(),
        generated_tokens=stats.generated_tokens, generation_tokens_per_s=stats.tokens_per_s,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    with contextlib.suppress(OSError):
        remember_speeds([record])
