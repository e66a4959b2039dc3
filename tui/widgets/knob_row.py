"""One knob on one line: its name, a slider where one makes sense, and its value. Emits what the user did to it."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from localknobs.errors import LocalknobsError
from localknobs.knobs import Knob, Value
from localknobs.knobs.scale import fraction_of, has_slider, stepped, value_at

LABEL_WIDTH, VALUE_WIDTH = 17, 8
_TYPED = set("0123456789.-")
ZERO_PAUSE_S = 0.7
"""How long a 0 waits for a second key before it means reset."""


class KnobRow(Widget, can_focus=True):
    """A knob. Arrows step it, digits type a value, the mouse drags it; `Changed` says what came of it.

    Args:
        row: The knob's record.
        value: Its value now.
        standard: What 0 and Backspace go back to: the value of the chosen preset.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "knob--label",
        "knob--filled",
        "knob--empty",
        "knob--thumb",
        "knob--value",
        "knob--changed",
        "knob--typed",
        "knob--off",
    }
    DEFAULT_CSS = """
    KnobRow {
        height: 1; padding: 0 1;
        & .knob--label { color: $foreground; }
        & .knob--filled { color: $primary; }
        & .knob--empty { color: $foreground; text-style: dim; }
        & .knob--thumb { color: $primary; text-style: bold; }
        & .knob--value { color: $foreground; text-style: bold; }
        & .knob--changed { color: $text-warning; text-style: bold; }
        & .knob--typed { color: $background; background: $accent; }
        & .knob--off { color: $foreground; text-style: dim; }
        &:hover { background: $boost; }
        &:focus { background: $primary 25%; }
        &:focus .knob--thumb { color: $accent; }
        &:focus .knob--filled { color: $accent; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Turn", show=True, key_display="← →"),
        Binding("right", "step(1)", "More", show=False),
        Binding("shift+left", "step_wide(-1)", "Turn far", show=True, key_display="⇧← ⇧→"),
        Binding("shift+right", "step_wide(1)", "Much more", show=False),
        Binding("backspace,delete", "reset", "Reset", show=True, key_display="0"),
        Binding("enter", "open", "Type a value", show=True),
        Binding("home", "end_of_range(0)", "Lowest", show=False),
        Binding("end", "end_of_range(1)", "Highest", show=False),
    ]

    value: reactive[Value] = reactive[Value](0, layout=False)
    typed: reactive[str] = reactive("", layout=False)

    class Changed(Message):
        """The user set a knob."""

        def __init__(self, row: Knob, value: Value) -> None:
            super().__init__()
            self.row = row
            self.value = value

    class Refused(Message):
        """What the user typed is no value of this knob."""

        def __init__(self, error: LocalknobsError) -> None:
            super().__init__()
            self.error = error

    class Opened(Message):
        """The user wants to see or edit the whole value, which does not fit on the line."""

        def __init__(self, knob_row: KnobRow) -> None:
            super().__init__()
            self.knob_row = knob_row

    def __init__(self, row: Knob, value: Value, standard: Value) -> None:
        super().__init__(id=f"knob-{row.name}")
        self.row = row
        self.standard = standard
        self.slides = has_slider(row)
        self.set_reactive(KnobRow.value, value)
        self.tooltip = f"{row.help}\n{row.range_text()}"

    # ---- drawing ------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """Draw the line."""
        width = self.size.width
        label = self.row.label + (" ⟳" if self.row.applies == "reload" else "")
        shown = f"{label:<{LABEL_WIDTH}.{LABEL_WIDTH}} "
        value_style = "knob--changed" if self.value != self.standard else "knob--value"
        if self.typed:
            value_text, value_style = f"{self.typed}_", "knob--typed"
        else:
            value_text = self.value_text()
            if self.row.off is not None and self.value == self.row.off:
                value_style = "knob--off" if self.value == self.standard else value_style
        if not self.slides:
            room = max(1, width - len(shown))
            text = value_text if len(value_text) <= room else value_text[: room - 1] + "…"
            pieces = [(shown, "knob--label"), (f"{text:>{room}}", value_style)]
        else:
            bar = self._bar_width()
            at = round(self._fraction() * (bar - 1))
            pieces = [
                (shown, "knob--label"),
                ("━" * at, "knob--filled"),
                ("●", "knob--thumb"),
                ("─" * (bar - 1 - at), "knob--empty"),
                (f"{value_text:>{VALUE_WIDTH}.{VALUE_WIDTH}}", value_style),
            ]
        base = self.rich_style
        return Strip([Segment(text, base + self._part(name)) for text, name in pieces]).adjust_cell_length(width, base)

    def _part(self, name: str) -> Style:
        return self.get_component_rich_style(name, partial=True)

    def _bar_width(self) -> int:
        return max(3, self.size.width - LABEL_WIDTH - 1 - VALUE_WIDTH)

    def _fraction(self) -> float:
        return fraction_of(self.row, self.value) if self.slides else 0.0

    def value_text(self) -> str:
        """Return the value as the line shows it: a special one by its short meaning."""
        if self.row.is_number:
            for special, meaning in self.row.special:
                if self.value == special and len(meaning) < VALUE_WIDTH:
                    return meaning
            if any(self.value == special for special, _ in self.row.special) and not self.slides:
                return "random"
            if self.row.low is not None and isinstance(self.value, int | float) and self.value < self.row.low:
                return "auto"
        text = self.row.show(self.value).replace("\n", "⏎")
        return text or "none"

    # ---- keys ---------------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """Take digits as a typed value; 0 alone resets."""
        key = event.character or ""
        if not self.row.is_number:
            return
        if self.typed and event.key in ("backspace", "enter", "escape"):
            event.prevent_default().stop()
            self._typing(event.key)
        elif key in _TYPED:
            event.prevent_default().stop()
            self.typed += key
            if self.typed == "0":
                # 0 alone resets, but "0.3" and "0 Enter" are typed as anybody would: wait a moment for more.
                self.set_timer(ZERO_PAUSE_S, self._reset_after_zero)

    def _typing(self, key: str) -> None:
        text, self.typed = self.typed, self.typed[:-1] if key == "backspace" else ""
        if key == "enter":
            self.take(text)

    def take(self, text: str) -> None:
        """Set the knob to a value given as text, or say why not."""
        try:
            value = self.row.parse(text)
        except LocalknobsError as error:
            self.post_message(self.Refused(error))
        else:
            self.change(value)

    def change(self, value: Value) -> None:
        """Show another value and tell of it."""
        if value != self.value:
            self.value = value
            self.post_message(self.Changed(self.row, value))

    def action_step(self, direction: int) -> None:
        """One step up or down; the next choice for a choice."""
        if self.row.is_number:
            self.change(stepped(self.row, self.value, direction))
        elif self.row.kind == "choice":
            at = self.row.choices.index(str(self.value))
            self.change(self.row.choices[(at + direction) % len(self.row.choices)])

    def action_step_wide(self, direction: int) -> None:
        """A wide step."""
        if self.row.is_number:
            self.change(stepped(self.row, self.value, direction, wide=True))

    def action_end_of_range(self, end: int) -> None:
        """Jump to an end of the slider."""
        if self.slides:
            self.change(value_at(self.row, float(end)))

    def action_reset(self) -> None:
        """Go back to the preset's value."""
        self.change(self.standard)

    def action_open(self) -> None:
        """Edit the value in a box of its own."""
        self.post_message(self.Opened(self))

    def on_blur(self) -> None:
        """Forget what was half typed."""
        self._reset_after_zero()
        self.typed = ""

    def _reset_after_zero(self) -> None:
        if self.typed == "0":
            self.typed = ""
            self.action_reset()

    # ---- mouse --------------------------------------------------------------------------------

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Take hold of the slider."""
        if self.slides and self._slide_to(event):
            self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Follow the mouse while the button is held."""
        if self.app.mouse_captured is self:
            self._slide_to(event, held=True)

    def on_mouse_up(self, _event: events.MouseUp) -> None:
        """Let go."""
        self.release_mouse()

    def on_click(self, event: events.Click) -> None:
        """Open the editor of a value that has no slider."""
        if not self.slides or event.chain == 2:
            self.action_open()

    def _slide_to(self, event: events.MouseEvent, *, held: bool = False) -> bool:
        offset = event.get_content_offset(self)
        x = (offset.x if offset is not None else event.x - self.gutter.left) - LABEL_WIDTH - 1
        bar = self._bar_width()
        if not held and not 0 <= x < bar:
            return False
        self.change(value_at(self.row, x / (bar - 1)))
        return True
