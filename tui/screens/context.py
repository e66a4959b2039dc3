"""The Context screen: how far the model is to see, by what means, at what price, and what its rotations become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from localknobs.engine import LoadSettings
from localknobs.engine.refusals import check_settings
from localknobs.engine.rope import rope_notes, rope_of_file, rope_of_load
from localknobs.engine.rope_picture import Rotations
from localknobs.engine.target_length import BY_HAND, TARGET, WAY, TargetLength, target_length
from localknobs.errors import LocalknobsError
from localknobs.gguf_info import Header
from localknobs.hardware import available_memory_bytes
from localknobs.knobs import KNOBS, Value, knobs_of
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.screens.context_works import CACHE, ContextWorks
from localknobs.tui.screens.info import show_help
from localknobs.tui.screens.knob_editing import edit_knob
from localknobs.tui.widgets.field_list import FieldList
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.memory_bill import MemoryBill
from localknobs.tui.widgets.plot import Line, Picture, Plot

BY_ROPE: tuple[str, ...] = ("rope_scaling", "rope_scale", "rope_freq_base", "yarn_orig_ctx")
WHEN_FULL: tuple[str, ...] = ("context_full", "n_sink", "drop_by", "sliding_window", "park_cache")


@dataclass(frozen=True, slots=True)
class ContextChosen:
    """What the user chose.

    Args:
        values: Loading knobs of the chat.
        model: A file that was written and is to be chatted with; empty for the present model.
    """

    values: Mapping[str, Value]
    model: str = ""


class ContextScreen(ContextWorks[ContextChosen | None]):
    """Returns the loading knobs to go on with, or None.

    Args:
        header: Of the model.
        values: The loading knobs as they are.
    """

    DEFAULT_CSS = """
    ContextScreen {
        & #knobs { width: 48; border-right: vkey $surface-lighten-1; scrollbar-size-vertical: 1; }
        & .heading { height: 1; padding: 0 1; margin-top: 1; color: $text-muted; text-style: bold; }
        & #model { height: auto; padding: 0 1; text-style: bold; }
        & MemoryBill { padding: 0 1; margin-top: 1; }
        & #right { width: 1fr; padding: 0 1; }
        & #words { height: auto; max-height: 13; scrollbar-size-vertical: 1; }
        & #words:focus { background: $boost; }
        & #about { height: auto; }
        & #trouble { height: auto; color: $text-error; text-style: bold; }
        & #progress { height: auto; color: $accent; }
        &.-narrow #knobs { width: 38; }
        &.-narrow #words { max-height: 11; }
        &.-narrow #by-position { display: none; }
        &.-narrow.-position #by-position { display: block; }
        &.-narrow.-position #by-pair { display: none; }
        & #by-position { margin-top: 1; }
        &.-narrow #by-position { margin-top: 0; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("f1", "help", "Help", "every key; on a knob, its card"),
        Action("ctrl+l", "apply", "Apply", "use these settings in the chat; the model is loaded again where needed"),
        Action("w", "write", "Write a file", "write a GGUF file that extends its context by itself"),
        Action(
            "m", "measure", "Measure", "measure what the scaling does to short prompts and beyond the trained length"
        ),
        Action("ctrl+t", "chat", "Chat with it", "chat with the file that was written"),
        Action("left_square_bracket", "pair(-1)", "Pair before", "show the rotation of another pair", in_footer=False),
        Action("right_square_bracket", "pair(1)", "Pair after", "the same, the other way", in_footer=False),
        Action(
            "p", "picture", "Picture", "rotations by pair or by position; both where there is room", in_footer=False
        ),
        Action("d", "standard", "Model's own", "back to what the file says by itself", in_footer=False),
        Action("x", "stop", "Stop", "stop writing or measuring; no half file is left, and what was measured is kept"),
        Action("escape", "back", "Back", "go back and change nothing; writing and measuring go on"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(ACTIONS),
    ]

    def __init__(self, header: Header, values: Mapping[str, Value]) -> None:
        super().__init__(header, values)
        self._own = rope_of_file(header)
        self._free = available_memory_bytes()
        self._wanted_way = ""
        self._proposal: TargetLength | None = None
        self._unreachable: LocalknobsError | None = None  # why there is no way to the length
        self._pair: int | None = None

    def compose(self) -> ComposeResult:
        """Lay out knobs and memory on the left, words and pictures on the right."""
        with Horizontal():
            with FieldList(id="knobs"):
                yield Static(printable(self._header.name), id="model", markup=False)
                yield KnobRow(TARGET, self._length, self._own.window)
                yield KnobRow(WAY, "model", "model")
                for heading, names in (("RoPE", BY_ROPE), ("Cache", CACHE), ("When full", WHEN_FULL)):
                    yield Static(heading, classes="heading")
                    for name in names:
                        yield KnobRow(KNOBS[name], self.values[name], KNOBS[name].default)
                yield MemoryBill(sliders=())
            with Vertical(id="right"):
                with VerticalScroll(id="words"):
                    yield Static(id="trouble", markup=False)
                    yield Static(id="progress", markup=False)
                    yield Static(id="about", markup=False)
                yield Plot(id="by-pair")
                yield Plot(id="by-position")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Show how things are."""
        self.query(KnobRow).first().focus()
        self._show_work()
        self._propose(self._length, take=False)
        self._show()

    # ---- the settings -------------------------------------------------------------------------

    @property
    def settings(self) -> LoadSettings:
        """What the rows say."""
        return LoadSettings(model=self._header.path, **self.values)  # type: ignore[arg-type]

    @property
    def _length(self) -> int:
        return int(self.settings.n_ctx) or rope_of_load(self._header, self.settings).window

    def on_knob_row_changed(self, event: KnobRow.Changed) -> None:
        """Follow a row; the length and the way move the others."""
        event.stop()
        if event.row is TARGET:
            self._propose(int(str(event.value)), take=True)
        elif event.row is WAY:
            self._take_way(str(event.value))
        else:
            self.values[event.row.name] = event.value
            self._propose(self._length, take=False)
        self._show()

    def _propose(self, tokens: int, *, take: bool) -> None:
        """Ask how a length is reached, and take the proposal when the length was turned."""
        self._unreachable = None
        try:
            self._proposal = target_length(self._header, tokens, self.settings, self._free)
        except LocalknobsError as error:
            self._proposal, self._unreachable = None, error
            if take:
                self.values["n_ctx"] = tokens
            return
        if take:
            wanted = next((way for way in self._proposal.ways if way.name == self._wanted_way), self._proposal.proposed)
            self.values.update(wanted.values)

    def _take_way(self, name: str) -> None:
        ways = {way.name: way for way in self._proposal.ways} if self._proposal else {}
        if name in ways:
            self._wanted_way = name
            self.values.update(ways[name].values)
        elif name != BY_HAND and self._proposal:
            here = ", ".join(ways)
            self.notify(f"{name} is no way to {self._proposal.tokens:,} tokens with this model; there is: {here}.")

    def on_knob_row_refused(self, event: KnobRow.Refused) -> None:
        """Say what is allowed."""
        event.stop()
        self.notify(str(event.error), severity="error", timeout=6)

    def on_knob_row_opened(self, event: KnobRow.Opened) -> None:
        """Type or choose a value."""
        event.stop()
        edit_knob(self.app, event.knob_row)

    def action_standard(self) -> None:
        """Go back to what the file says by itself."""
        self.values.update({row.name: row.default for row in knobs_of("context")})
        self._propose(self._length, take=False)
        self._show()

    # ---- what they do -------------------------------------------------------------------------

    def _show(self) -> None:
        """Show rows, words, pictures and the bill of the present settings."""
        settings = self.settings
        self._refusal = self._unreachable
        try:
            check_settings(self._header, settings)
        except LocalknobsError as error:
            self._refusal = error
        shown = {**self.values, TARGET.name: self._length, WAY.name: self._way}
        for knob_row in self.query(KnobRow):
            knob_row.value = shown[knob_row.row.name]
        self._say("#trouble", str(self._refusal or ""))
        rotations = Rotations(self._own, rope_of_load(self._header, settings), self._length)
        self._say("#about", self._about(rotations))
        self._draw(rotations)
        bill = self.query_one(MemoryBill)
        bill.display = self._refusal is None  # the last one would be of other settings
        if self._refusal is None:
            bill.price(self._header.path, {**self.values, "n_ctx": self._length})
        self.refresh_bindings()

    @property
    def _way(self) -> str:
        return self._proposal.way_of(self.settings) if self._proposal else BY_HAND

    def _about(self, rotations: Rotations) -> str:
        notes = (*rope_notes(self._header, self.settings), *(self._proposal.notes if self._proposal else ()))
        lines = [*(f"! {text}" for text in notes), rotations.text]
        if self._proposal:
            chosen = next((way for way in self._proposal.ways if way.name == self._way), None)
            lines += [chosen.short_prompts] if chosen else []
            lines += [f"{what}: {how_much}" for what, how_much in self._proposal.price()]
        lines.append(f"The file: {self._own.window:,} tokens, {self._own.text}")
        if rotations.after != self._own:
            lines.append(f"Now: {rotations.length:,} tokens, {rotations.after.text}")
        return "\n".join(lines)

    def _draw(self, rotations: Rotations) -> None:
        if not rotations.pairs:
            return
        pair = rotations.critical if self._pair is None else min(self._pair, rotations.pairs - 1)
        self._pair = pair
        by_pair, by_position = rotations.by_pair(), rotations.by_position(pair)
        self.query_one("#by-pair", Plot).picture = Picture(
            title=f"Turns of each pair within {rotations.length:,} tokens",
            shade=by_pair.seen, shade_name="in training",
            lines=(Line("unscaled", by_pair.unscaled, "warning"), Line("scaled", by_pair.scaled, "foreground")),
            x_name="pair", y_name="turns", log=True, low=0.01,
        )  # fmt: skip
        self.query_one("#by-position", Plot).picture = Picture(
            title=f"Rotation of pair {pair} by position",
            shade=by_position.seen, shade_name="in training",
            lines=(Line("unscaled", by_position.unscaled, "warning"), Line("scaled", by_position.scaled, "foreground")),
            x_name="tokens", y_name="turns",
        )  # fmt: skip

    def action_pair(self, direction: int) -> None:
        """Show the rotation of another pair."""
        pairs = self._own.size // 2
        self._pair = max(0, min(pairs - 1, (self._pair or 0) + direction))
        self.add_class("-position")
        self._draw(Rotations(self._own, rope_of_load(self._header, self.settings), self._length))

    def action_picture(self) -> None:
        """Show the other picture, where only one has room."""
        self.toggle_class("-position")

    # ---- what is done with them ---------------------------------------------------------------

    def action_apply(self) -> None:
        """Use the settings in the chat."""
        if self._refusal:
            self.notify(str(self._refusal), severity="error", timeout=8)
        else:
            self.dismiss(ContextChosen(self.values))

    def action_chat(self) -> None:
        """Chat with the file that was written: it scales by itself, so the rows of RoPE go back to the model's own."""
        if self._written:
            own = {row.name: row.default for row in knobs_of("context") if row.name not in CACHE}
            self.dismiss(ContextChosen({**self.values, **own}, str(self._written)))

    def action_back(self) -> None:
        """Go back and change nothing."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Show the card of the focused knob, or every key."""
        show_help(self, "Context", [("On this screen", key_help(self.ACTIONS))])
