"""What a model would take of this machine's memory: a bar for each device, and sliders where it has some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from localknobs.fit.bill import DeviceBill
from localknobs.knobs import KNOBS, Value, defaults
from localknobs.terminal_text import printable
from localknobs.tui.pricing import Advised, Priced, PriceTeller
from localknobs.tui.widgets.fit_bar import FitBar
from localknobs.tui.widgets.knob_row import KnobRow

SLIDERS: tuple[str, ...] = ("n_ctx", "cache_type_k", "cache_type_v", "n_gpu_layers")
"""The knobs that move the bill most."""


class MemoryBill(Vertical):
    """The live bill of one model; nothing is loaded for it.

    Args:
        sliders: Names of the loading knobs that are turned here; none where the screen has rows of its own.
    """

    DEFAULT_CSS = """
    MemoryBill { height: auto; }
    MemoryBill .verdict { height: auto; text-style: bold; }
    MemoryBill .notes { height: auto; color: $text-muted; }
    """

    def __init__(self, sliders: Sequence[str] = SLIDERS) -> None:
        super().__init__()
        self._sliders = sliders
        self.values: dict[str, Value] = defaults("loading")
        self._path: Path | None = None
        self._teller: PriceTeller | None = None

    def compose(self) -> ComposeResult:
        """Lay out the sliders; the bars come with the first bill."""
        for name in self._sliders:
            yield KnobRow(KNOBS[name], self.values[name], self.values[name])
        yield Static("", classes="verdict", markup=False)
        yield Static("", classes="notes", markup=False)

    def on_unmount(self) -> None:
        """End the pricing."""
        if self._teller:
            self._teller.close()

    def show(self, path: Path, trained: int) -> None:
        """Price another model with the sliders as they stand.

        Args:
            path: Its file.
            trained: Tokens of context it was trained with, 0 when unknown.
        """
        if path == self._path:
            return
        self._path = path
        row = self.query_one("#knob-n_ctx", KnobRow)
        if self.values["n_ctx"] in (0, row.standard):  # not turned by the user
            row.value = self.values["n_ctx"] = trained
        row.standard = trained
        self._ask()

    def price(self, path: Path, values: Mapping[str, Value]) -> None:
        """Price a model with these loading knobs, which something else turns."""
        self._path, self.values = path, dict(values)
        self._ask()

    def on_knob_row_changed(self, event: KnobRow.Changed) -> None:
        """Price again."""
        event.stop()
        self.values[event.row.name] = event.value
        self._ask()

    def on_knob_row_refused(self, event: KnobRow.Refused) -> None:
        """Say what is allowed."""
        event.stop()
        self.notify(str(event.error), severity="error")

    def _ask(self) -> None:
        if self._path:
            self._teller = self._teller or PriceTeller(self.post_message)
            self._teller.ask(self._path, self.values)

    async def on_priced(self, event: Priced) -> None:
        """Show a bill, unless another model was marked meanwhile."""
        event.stop()
        if event.path != self._path:
            return
        devices = event.bill.devices if event.bill else ()
        bars = list(self.query(FitBar))
        for bar in bars[len(devices) :]:
            await bar.remove()
        for bar, device in zip(bars, devices, strict=False):
            _draw(bar, device)
        for device in devices[len(bars) :]:
            bar = FitBar()
            _draw(bar, device)
            await self.mount(bar, before=self.query_one(".verdict"))
        if event.bill is None or event.bill.refusal:
            self.query_one(".verdict", Static).update(printable(event.bill.refusal if event.bill else event.trouble))
        notes = event.bill.notes if event.bill else ()
        self.query_one(".notes", Static).update(printable("\n".join(notes)))

    def on_advised(self, event: Advised) -> None:
        """Say whether it fits, and what to do if not."""
        event.stop()
        if event.path == self._path:
            self.query_one(".verdict", Static).update(printable(event.text))


def _draw(bar: FitBar, device: DeviceBill) -> None:
    bar.device, bar.capacity_bytes = f"{device.name}, what is free now", device.free_bytes
    bar.parts = {
        "weights": device.weights, "cache": device.cache, "compute": device.compute, "program": device.overhead,
    }  # fmt: skip
