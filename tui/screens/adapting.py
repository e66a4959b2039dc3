"""The part of the chat screen that puts adapters and control vectors on the model, and takes them off again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

from textual.content import Content

from localknobs.engine import LoadSettings
from localknobs.engine.adapter_files import (
    KNOB_OF,
    AdapterKind,
    check_adapters,
    find_adapter,
    path_and_scale,
    read_adapters,
)
from localknobs.engine.adapter_rack import AdapterRack, short_names
from localknobs.engine.adapter_search import FoundAdapter, fitting, found_adapters
from localknobs.errors import LocalknobsError
from localknobs.gguf_info import Header, read_header
from localknobs.knobs import Knob, Value
from localknobs.library import find_model
from localknobs.terminal_text import printable, shortened_in_the_middle
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.sampling import SamplingScreen
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.widgets.adapter_rows import AdapterRow, AdapterRows, adapter_number
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.knob_panel import KnobPanel
from localknobs.tui.widgets.knob_row import KnobRow

_BY_PATH, _MAKE = "by path", "make"
_TITLES: dict[AdapterKind, str] = {"adapter": "LoRA adapter", "control vector": "control vector"}


class AdaptingScreen(SamplingScreen):
    """Keeps the knobs of adapters, and shows a slider for each adapter in use."""

    def __init__(self) -> None:
        super().__init__()
        self._rack = AdapterRack()
        self._steering_draft: dict[str, str] = {}

    @property
    def rack(self) -> AdapterRack:
        """The adapters in use."""
        self._rack = self._rack.followed(self.load_values)
        return self._rack

    def use_rack(self, rack: AdapterRack) -> None:
        """Let other adapters, or other scales, count from the next answer on."""
        self._rack = rack
        self.load_values.update(rack.values())
        self.show_knobs()

    def show_adapters(self) -> None:
        """Show the adapters in use."""
        self.call_later(self._show_rack)

    async def _show_rack(self) -> None:
        for rows in self.query(AdapterRows):
            await rows.show(self.rack)
        rack = self.rack
        acting = short_names(rack.acting())
        said = f"+ {acting}" if acting else "without its adapters" if rack.rows else ""
        self.query_one(Composer).border_subtitle = Content(printable(said))

    # ---- what is asked ------------------------------------------------------------------------

    def action_adapters(self) -> None:
        """Go to the adapters in use; where there are none, choose one."""
        if self.rack.rows and self.query(AdapterRows):
            self._go_to(1)
        else:
            self.action_add_adapter()

    def _go_to(self, number: int) -> None:
        self.set_class(True, "-knobs")
        self.set_class(False, "-no-knobs")
        self.call_after_refresh(lambda: self.query_one(AdapterRows).focus_row(number))

    def action_without_adapters(self) -> None:
        """Let the base answer alone, or the adapters again: the next answer, or this one again (Ctrl+R)."""
        rack = self.rack
        if not rack.rows:
            self.notify("There are no adapters. Alt+A puts one on.")
            return
        self.use_rack(replace(rack, without=not rack.without))
        now = "The base answers from now on" if not rack.without else "The adapters are back"
        self.notify(f"{now}; Ctrl+R answers the last message again, beside the old answer.", timeout=4)

    def action_add_adapter(self) -> None:
        """Choose an adapter of this machine, or name a file."""
        self.run_worker(self._choose(), group="adapters", exclusive=True, description="looking for adapters",
                        exit_on_error=False)  # fmt: skip

    async def _choose(self) -> None:
        try:
            header = await asyncio.to_thread(self._header)
            found = await asyncio.to_thread(found_adapters, header)
        except LocalknobsError as error:
            await self.show_error(error)
            return
        on = {row.name for row in self.rack.rows}
        choices = [
            Choice(str(one.path), one.path.stem, _detail(one), allowed=not one.trouble)
            for one in found
            if str(one.path) not in on
        ]
        choices.append(Choice(_BY_PATH, "Another file …", "a GGUF adapter or control vector, or a folder of peft"))
        choices.append(Choice(_MAKE, "Make a control vector …", "from two lists of prompts"))
        note = (
            "They count from the next answer on, each with a slider from -2 to 2. Tune (Alt+U) trains adapters."
            if found
            else "There is none in the models folder or in this one. `localknobs finetune` makes some."
        )
        self.app.push_screen(Picker(f"Put an adapter on {self.model_name}", choices, note=note), self._chosen)

    def _header(self) -> Header:
        return read_header(find_model(self.wanted_name))

    def _chosen(self, path: str | None) -> None:
        if path == _BY_PATH:
            note = "A file or a folder, and its scale behind a colon if it is not to be 1: ~/mine.gguf:0.5"
            dialog = TextDialog("Adapter or control vector", note=note, several_lines=False)
            self.app.push_screen(dialog, self._chosen)
        elif path == _MAKE:
            from localknobs.tui.screens.steering import SteeringScreen

            self.app.push_screen(SteeringScreen(self.wanted_name, self._steering_draft), self._chosen)
        elif path and path.strip():
            self.run_worker(self._add(path.strip()), group="adapters", exclusive=True,
                            description="reading an adapter", exit_on_error=False)  # fmt: skip

    async def _add(self, text: str) -> None:
        try:
            kind, text, notes = await asyncio.to_thread(self._checked, text)
            rack = self.rack.added(kind, text)
        except LocalknobsError as error:
            await self.show_error(error)
            return
        for note in notes:
            self.notify(note, timeout=8)
        self.use_rack(rack)
        await self._show_rack()
        self._go_to(len(rack.rows))

    def _checked(self, text: str) -> tuple[AdapterKind, str, tuple[str, ...]]:
        """Return what a text names, and what the user should know; in a thread of its own.

        Raises:
            LocalknobsError: it is no adapter of this model.
        """
        from localknobs.convert.adapter_cache import as_gguf

        name = as_gguf(text)
        kind = self._kind_of(name)
        header = self._header()
        named: dict[str, Any] = {KNOB_OF[kind]: (name,)}
        settings = LoadSettings(model=header.path, lora_any_base=str(self.load_values["lora_any_base"]), **named)
        return kind, name, check_adapters(read_adapters(settings), header, settings)

    @staticmethod
    def _kind_of(text: str) -> AdapterKind:
        kind = read_header(find_adapter(path_and_scale(text)[0], "adapter")).kind
        return kind if kind in KNOB_OF else "adapter"  # what is neither is refused as one

    # ---- sliders ------------------------------------------------------------------------------

    def on_adapter_row_taken_off(self, event: AdapterRow.TakenOff) -> None:
        """Take an adapter off."""
        self.use_rack(self.rack.removed(event.number))
        self.call_after_refresh(self._after_taking_off, event.number)

    async def _after_taking_off(self, number: int) -> None:
        await self._show_rack()
        if self.rack.rows:
            self.query_one(AdapterRows).focus_row(number)
        else:
            self.query_one(KnobPanel).focus_row()

    def turn_adapter(self, row: Knob, value: Value) -> bool:
        """Take the scale of a slider, if it is one of an adapter; return whether it is."""
        number = adapter_number(row)
        if number:
            self._rack = self.rack.scaled(number, float(str(value)))
            self.load_values.update(self._rack.values())
            self.show_adapters()
        return bool(number)

    def on_knob_row_opened(self, event: KnobRow.Opened) -> None:
        """Choose adapters from a list, not as text."""
        if event.knob_row.row.name in KNOB_OF.values():
            event.prevent_default()
            self.action_adapters()

    # ---- another model ------------------------------------------------------------------------

    async def load_model(self, name: str) -> None:
        """Load a model; adapters that are not of it are taken off, with the reason."""
        if self.rack.rows:
            with suppress(LocalknobsError):  # what is wrong with the model is told when it is loaded
                header = await asyncio.to_thread(lambda: read_header(find_model(name)))
                any_base = str(self.load_values["lora_any_base"])
                rack, reasons = await asyncio.to_thread(fitting, self.rack, header, any_base)
                if reasons:
                    self.use_rack(rack)
                for reason in reasons:
                    self.notify(f"Taken off: {reason}", severity="warning", timeout=10)
        await super().load_model(name)


def _detail(found: FoundAdapter) -> str:
    where = shortened_in_the_middle(str(found.path.parent), 40) if found.path.is_file() else "a folder of peft"
    trouble = found.trouble.replace(str(found.path), "it")
    return f"{_TITLES[found.kind]} · {trouble or where}"
