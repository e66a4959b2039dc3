"""The adapters in use, on top of the panel of knobs: a slider each, and whether they rest."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from localknobs.engine.adapter_rack import AdapterRack, RackRow
from localknobs.knobs import Knob
from localknobs.tui.widgets.knob_row import KnobRow

LOWEST, HIGHEST = -2.0, 2.0
"""Ends of a scale's slider; any other number can be typed."""


_NAME = "adapter_scale_"


def adapter_number(knob: Knob) -> int:
    """Return which adapter's scale a knob is, from 1; 0 for another knob."""
    return int(knob.name.removeprefix(_NAME)) if knob.name.startswith(_NAME) else 0


def scale_knob(number: int, row: RackRow) -> Knob:
    """Return the knob that a slider shows: the scale of one adapter.

    Args:
        number: Its place in the rack, from 1.
        row: The adapter.
    """
    return Knob(
        name=f"{_NAME}{number}", lever="finetune", group="Live adapters", kind="float", default=1.0, low=-100.0,
        high=100.0, live_low=LOWEST, live_high=HIGHEST, step=0.05, off=0.0, label=row.title, applies="next answer",
        help=f"How strongly the {row.kind} {row.name} acts: 1 is as it was made, 0 the base, below 0 away from it.",
        cost="None; after a change the conversation is read again, unless the same scale was in use before.",
        fails="Far beyond 1 answers fall apart.", source="llama.cpp common/arg.cpp --lora-scaled",
    )  # fmt: skip


class AdapterRow(KnobRow):
    """The slider of one adapter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # A narrow footer must show the keys that only an adapter has.
        Binding("shift+left", "step_wide(-1)", "Much less", show=False),
        Binding("enter", "open", "Type a value", show=False),
        Binding("a", "screen.add_adapter", "Add"),
        Binding("x", "take_off", "Take off"),
        Binding("w", "screen.without_adapters", "Without / with"),
    ]

    class TakenOff(Message):
        """The user wants an adapter off."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, number: int, row: RackRow) -> None:
        super().__init__(scale_knob(number, row), row.scale, 1.0)
        self.number = number

    def action_take_off(self) -> None:
        """Say that it shall go."""
        self.post_message(self.TakenOff(self.number))


class AdapterRows(Vertical):
    """All adapters in use; nothing where there are none."""

    DEFAULT_CSS = """
    AdapterRows { height: auto; display: none; }
    AdapterRows.-some { display: block; }
    AdapterRows.-without AdapterRow { opacity: 40%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rack = AdapterRack()
        self._turn = asyncio.Lock()  # sliders come and go over several frames

    def compose(self) -> ComposeResult:
        """Lay out the heading."""
        yield Static("", classes="heading", markup=False)

    async def show(self, rack: AdapterRack) -> None:
        """Show what is in use, one call after another; the sliders stay where only scales changed."""
        async with self._turn:
            before, self._rack = self._rack, rack
            self.set_class(bool(rack.rows), "-some")
            self.set_class(rack.without, "-without")
            said = "Adapters rest: the base answers (w)" if rack.without else "Adapters, from the next answer on"
            self.query_one(Static).update(said)
            named = [(row.kind, row.name) for row in rack.rows]
            if named != [(row.kind, row.name) for row in before.rows]:
                await self.query(AdapterRow).remove()
                await self.mount(*(AdapterRow(number, row) for number, row in enumerate(rack.rows, 1)))
            for slider, row in zip(self.query(AdapterRow), rack.rows, strict=True):
                slider.value = row.scale

    def focus_row(self, number: int = 1) -> None:
        """Focus the slider of one, counted from 1; the last where there are fewer."""
        if rows := list(self.query(AdapterRow)):
            rows[min(number, len(rows)) - 1].focus()
