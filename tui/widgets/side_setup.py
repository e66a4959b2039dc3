"""Where the two sides of an A/B chat are written, with what both would take of the memory."""

from __future__ import annotations

from dataclasses import dataclass

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, Static

from localknobs.ab.price import BothBills, price_sides
from localknobs.ab.side import Side, read_side
from localknobs.errors import LocalknobsError
from localknobs.terminal_text import printable
from localknobs.tui.bridge import as_ours

PAUSE_S = 0.6
"""How long the fields must rest before they are read and priced."""
HOW = """\
A model, and flags if you like, as in a shell:
  some-Q4_K_M
  some-Q8_0 -ctk q4_0 -ctv q4_0
  built-in --preset creative --temp 1.1
  built-in --lora my-adapter:0.8"""


@dataclass
class SidesRead(Message):
    """The fields were read and priced.

    Args:
        texts: What stood in them.
        sides: The two sides; empty when they cannot be read.
        text: What they take, or why they cannot be read.
        bills: What they take; None when it was not asked for.
    """

    texts: tuple[str, str]
    sides: tuple[Side, ...]
    text: str
    bills: BothBills | None = None


class SideSetup(Vertical):
    """Two fields.

    Args:
        a: Text of the first at the beginning.
        b: Text of the second.
    """

    DEFAULT_CSS = """
    SideSetup {
        height: auto; padding: 0 1;
        & .how { color: $text-muted; height: auto; margin-bottom: 1; }
        & .label { height: 1; text-style: bold; }
        & Input { border: none; height: 1; padding: 0 1; margin: 0 0 1 0; background: $boost; }
        & Input:focus { border: none; background: $primary 25%; }
        & .price { height: auto; }
    }
    """

    class Ready(Message):
        """The user wants these two."""

        def __init__(self, a: str, b: str) -> None:
            super().__init__()
            self.texts = (a, b)

    def __init__(self, a: str, b: str) -> None:
        super().__init__()
        self._begin = (a, b)
        self._pause: Timer | None = None
        self._priced: SidesRead | None = None

    def compose(self) -> ComposeResult:
        """Lay out the fields and what they take."""
        yield Static(HOW, classes="how", markup=False)
        for name, text in zip("AB", self._begin, strict=True):
            yield Static(f"Side {name}", classes="label", markup=False)
            yield Input(text, id=f"side-{name.lower()}", select_on_focus=False)
        yield Static("", classes="price", markup=False)

    def on_mount(self) -> None:
        """Begin at the field to change."""
        self.focus_last()

    @property
    def texts(self) -> tuple[str, str]:
        """What stands in the fields."""
        return self.query_one("#side-a", Input).value.strip(), self.query_one("#side-b", Input).value.strip()

    def focus_last(self) -> None:
        """Go to the second field, which is the one to change."""
        field = self.query_one("#side-b", Input)
        field.focus()
        field.cursor_position = len(field.value)

    def put(self, model: str) -> None:
        """Put a model into the field that has the focus, in place of the one that stands there; flags stay."""
        for field in self.query(Input):
            if field.has_focus:
                _, dash, flags = field.value.partition(" -")
                field.value = f"{model}{dash}{flags}"
                field.cursor_position = len(field.value)

    # ---- reading ------------------------------------------------------------------------------

    def on_input_changed(self, event: Input.Changed) -> None:
        """Read and price again, after a moment."""
        event.stop()
        if self._pause:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE_S, lambda: self._read(self.texts))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: to the second field, then load."""
        event.stop()
        if event.input.id == "side-a":
            self.focus_last()
        else:
            self.accept()

    @property
    def bills(self) -> BothBills | None:
        """What the sides in the fields take, if that is known already."""
        return self._priced.bills if self._priced and self._priced.texts == self.texts else None

    def accept(self) -> None:
        """Say that these two are wanted."""
        self.post_message(self.Ready(*self.texts))

    @work(thread=True, exclusive=True, group="price", exit_on_error=False)
    def _read(self, texts: tuple[str, str]) -> None:
        self.post_message(read_sides(texts))

    def on_sides_read(self, event: SidesRead) -> None:
        """Show what both take."""
        event.stop()
        if event.texts == self.texts:
            self._priced = event
            self.say(f"{event.text}\n\nEnter loads them." if event.sides else event.text)

    def say(self, text: str) -> None:
        """Show a line under the fields."""
        self.query_one(".price", Static).update(printable(text))


def read_sides(texts: tuple[str, str], *, priced: bool = True) -> SidesRead:
    """Read both sides, and price them; for a thread, as the disk may be slow.

    Args:
        texts: What was written.
        priced: Whether to price them too.
    """
    sides: list[Side] = []
    try:
        for name, text in zip("AB", texts, strict=True):
            try:
                sides.append(read_side(text))
            except LocalknobsError as error:
                return SidesRead(texts, (), f"{name}: {error}")
        bills = price_sides(sides) if priced else None
        return SidesRead(texts, tuple(sides), bills.text if bills else "", bills)
    except Exception as error:
        return SidesRead(texts, (), str(as_ours(error, "reading the sides")))
