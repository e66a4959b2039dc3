"""Prices settings: a warm child process plans with llama.cpp; where that fails, the formula answers and says so."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from localknobs.engine.adapter_files import read_adapters
from localknobs.engine.probe import extra_buffers_work
from localknobs.engine.refusals import check_settings
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue, EngineDied, LocalknobsError
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.fit.formula import ENGINE_BYTES, VOCABULARY_BYTES, computed_bill
from localknobs.fit.hollow import vocabulary_size, write_hollow
from localknobs.fit.machine import CARD_OVERHEAD, FitMachine
from localknobs.fit.planning import Planning
from localknobs.gguf_info import Header

REFUSED = "llama.cpp refuses"
"""How the planner begins the message of a setting that llama.cpp itself turns down."""


class Pricer:
    """Prices one model on one machine for any settings. Use it as a context manager or call `close`.

    The first price starts a child process (half a second); the next ones take milliseconds. It never raises for a
    setting: what would not load comes back as a bill with a `refusal`. Calls from several threads take turns.

    Args:
        headers: Of all files of the model, the first one's first; `settings.model` of a price is not looked at.
        machine: What it is to fit.
        draft: Headers of a draft model that is loaded with it, with the same context.
        planning: A child that is shared with other pricers; without one it has its own.
    """

    def __init__(
        self,
        headers: Sequence[Header],
        machine: FitMachine,
        draft: Sequence[Header] = (),
        planning: Planning | None = None,
    ) -> None:
        self.headers, self.machine = tuple(headers), machine
        self._planning, self._own = planning or Planning(), planning is None
        self._draft = Pricer(draft, machine, planning=self._planning) if draft else None
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="localknobs-fit-", ignore_cleanup_errors=True)
        self._finalizer = weakref.finalize(self, _forget, self._planning if self._own else None)
        self._hollow: Path | None = None

    def price(self, settings: LoadSettings) -> Bill:
        """Return the bill for some settings; `n_ctx` 0 is the context the model was trained with.

        Falls back to the formula when the child dies or cannot plan, and notes it.
        """
        settings = replace(settings, n_ctx=settings.n_ctx or self.headers[0].context_trained or 4096)
        with self._lock:
            bill = self._price(settings)
        if self._draft and not bill.refusal:
            own = LoadSettings(  # as engine/drafting.py loads it
                model=settings.model, n_ctx=bill.context, n_gpu_layers=settings.n_gpu_layers_draft,
                n_batch=settings.n_batch, n_ubatch=settings.n_ubatch,
            )  # fmt: skip
            bill = _together(bill, self._draft.price(own))
        return bill

    def _price(self, settings: LoadSettings) -> Bill:
        try:
            check_settings(self.headers[0], settings)
            beside = sum(file.header.tensor_bytes for file in read_adapters(settings))
        except LocalknobsError as refusal:
            return self._refused(settings, str(refusal))
        try:
            return _with_adapters(self._planned(settings), beside)
        except EngineDied:
            why = "llama.cpp ended while it planned these settings"
        except OSError as error:
            why = f"the plan's file cannot be written ({error.strerror or error})"
        except LocalknobsError as error:
            if isinstance(error, BadValue) or error.message.startswith(REFUSED):
                return self._refused(settings, str(error))
            why = error.message[0].lower() + error.message[1:]
        bill = computed_bill(self.headers, settings, self.machine)
        note = f"computed from the header, as {why}"
        return _with_adapters(replace(bill, notes=(note, *bill.notes)), beside)

    def _refused(self, settings: LoadSettings, why: str) -> Bill:
        return Bill((DeviceBill("RAM", self.machine.free_bytes),), settings.n_ctx, "computed", refusal=why)

    def _planned(self, settings: LoadSettings) -> Bill:
        if self._hollow is None:
            self._hollow = write_hollow(self.headers, Path(self._folder.name) / "model.gguf")
        plain = {field.name: getattr(settings, field.name) for field in fields(settings)}
        answer = self._planning.ask(
            {
                "settings": {**plain, "model": str(self._hollow)},
                "devices": self._devices(),
                "use_extra_bufts": extra_buffers_work(),
            }
        )
        return self._bill(answer)

    def _devices(self) -> list[dict[str, Any]] | None:
        if not self.machine.simulated:
            return None
        return [
            {"name": f"GPU{at}", "total_bytes": card.total_bytes, "free_bytes": card.free_bytes}
            for at, card in enumerate(self.machine.cards)
        ]

    def _bill(self, answer: dict[str, Any]) -> Bill:
        overhead = ENGINE_BYTES + vocabulary_size(self.headers[0]) * VOCABULARY_BYTES
        memory = DeviceBill("RAM", self.machine.free_bytes, compute=int(answer["output_bytes"]), overhead=overhead)
        on_cards = [
            DeviceBill(card.name, card.free_bytes, overhead=0 if card.unified else CARD_OVERHEAD, unified=card.unified)
            for card in self.machine.cards
        ]
        buffers = {share["buffer"] for share in answer["shares"] if not share["host"]}
        names = sorted(buffers, key=lambda name: (len(name), name))  # CUDA0, CUDA1 ... CUDA10, as ggml counts them
        for share in answer["shares"]:
            at = -1 if share["host"] else names.index(share["buffer"])
            if 0 <= at < len(on_cards):
                on_cards[at] = _added(on_cards[at], share["weights"], share["cache"], share["compute"])
            else:
                memory = _added(memory, share["weights"], share["cache"], share["compute"])
        return Bill((memory, *on_cards), int(answer["context"]), "planned", self.machine.assumptions)

    def close(self) -> None:
        """End the child, unless others share it, and remove its file; may be called twice."""
        self._finalizer()
        if self._draft:
            self._draft.close()
        with contextlib.suppress(OSError):
            self._folder.cleanup()

    def __enter__(self) -> Pricer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _forget(planning: Planning | None) -> None:
    if planning:
        planning.close()


def _with_adapters(bill: Bill, size_bytes: int) -> Bill:
    """Add adapters: llama.cpp puts each pair beside the matrix it changes."""
    weights = bill.weights or 1
    devices = tuple(_added(device, size_bytes * device.weights // weights) for device in bill.devices)
    return replace(bill, devices=devices) if size_bytes else bill


def _added(device: DeviceBill, weights: int, cache: int = 0, compute: int = 0) -> DeviceBill:
    return replace(
        device,
        weights=device.weights + weights,
        cache=device.cache + cache,
        compute=device.compute + compute,
    )


def _together(bill: Bill, draft: Bill) -> Bill:
    """Return the bill of two models in one process."""
    if draft.refusal:
        return replace(bill, refusal=f"The draft model: {draft.refusal}")
    pairs = zip(bill.devices, draft.devices, strict=True)
    devices = tuple(_added(one, other.weights, other.cache, other.compute) for one, other in pairs)
    return replace(bill, devices=devices, method=bill.method if draft.method == "planned" else "computed")
