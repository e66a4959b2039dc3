"""The bar on which a person says which of two answers is better."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Static

Verdict = Literal["left", "right", "tie", "both bad"]


class VoteBar(Horizontal, can_focus=True):
    """Asks which answer is better; by key or by a click."""

    DEFAULT_CSS = """
    VoteBar {
        height: 1; padding: 0 1; margin: 0 1; background: $primary 25%;
        & Static { width: auto; padding: 0 1; }
        & VoteChoice:hover { background: $primary; }
        &:focus .question { text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,1", "vote('left')", "Left", key_display="← →"),
        Binding("right,2", "vote('right')", show=False),
        Binding("t", "vote('tie')", "Tie"),
        Binding("b", "vote('both bad')", "Both bad"),
        Binding("up,k", "screen.look(-1)", show=False),
        Binding("down,j", "screen.look(1)", show=False),
    ]

    class Voted(Message):
        """The user chose."""

        def __init__(self, verdict: Verdict) -> None:
            super().__init__()
            self.verdict = verdict

    def compose(self) -> ComposeResult:
        """Lay out the question and the choices."""
        yield Static("Which is better?", classes="question", markup=False)
        for verdict, text in (("left", "← left"), ("right", "→ right"), ("tie", "t tie"), ("both bad", "b both bad")):
            yield VoteChoice(verdict, text)
        yield Static("Esc no vote", markup=False)

    def action_vote(self, verdict: Verdict) -> None:
        """Choose."""
        self.post_message(self.Voted(verdict))


class VoteChoice(Static):
    """One choice, to click on."""

    def __init__(self, verdict: str, text: str) -> None:
        super().__init__(text, markup=False)
        self._verdict = verdict

    def on_click(self) -> None:
        """Choose it."""
        bar = self.parent
        if isinstance(bar, VoteBar):
            bar.action_vote(self._verdict)  # type: ignore[arg-type]
