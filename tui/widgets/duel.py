"""One prompt with its two answers side by side."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from localknobs.ab.votes import Choice
from localknobs.engine import ContextDropped, Finished, Noted
from localknobs.engine import Message as Turn
from localknobs.errors import LocalknobsError
from localknobs.terminal_text import printable
from localknobs.tui.bridge import Growing
from localknobs.tui.widgets.message_view import REASONS
from localknobs.tui.widgets.vote_bar import Verdict

Histories = tuple[tuple[Turn, ...], tuple[Turn, ...]]
"""What each side has heard and said."""


class AnswerPane(Vertical):
    """One of the two answers."""

    DEFAULT_CSS = """
    AnswerPane {
        width: 1fr; height: auto; margin: 0 1; padding: 0 1; border-left: outer $primary;
        & .heading { color: $text-muted; height: auto; }
        & .foot { color: $text-muted; height: auto; }
        & .trouble { color: $text-error; height: auto; display: none; }
        & Markdown { margin: 0; padding: 0; background: transparent; }
        & MarkdownParagraph { margin: 0 0 1 0; }
        &.-better { border-left: outer $success; }
    }
    """

    def __init__(self, heading: str) -> None:
        super().__init__()
        self._heading = heading
        self._shown = 0
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        """Lay out heading, text, trouble and numbers."""
        yield Static(printable(self._heading), classes="heading", markup=False)
        yield Markdown("", open_links=False)
        yield Static("", classes="trouble", markup=False)
        yield Static("", classes="foot", markup=False)

    def name_it(self, heading: str) -> None:
        """Show whose answer it is."""
        self.query_one(".heading", Static).update(printable(heading))

    def say(self, text: str) -> None:
        """Show numbers, or what goes on, under the answer."""
        self.query_one(".foot", Static).update(printable(text))

    def fail(self, text: str) -> None:
        """Show what went wrong."""
        trouble = self.query_one(".trouble", Static)
        trouble.display = True
        trouble.update(printable(text))

    async def show(self, text: str) -> None:
        """Show an answer as far as it goes; it has only grown since the last time."""
        if len(text) > self._shown:
            more, self._shown = text[self._shown :], len(text)
            if self._stream is None:
                self._stream = Markdown.get_stream(self.query_one(Markdown))
            await self._stream.write(printable(more))

    async def finish(self) -> None:
        """Nothing more comes."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()


class TurnView(Vertical):
    """A prompt and its two answers.

    Args:
        prompt: What both sides were asked.
        seed: What both answers are drawn with.
        labels: What the sides are called, the first one first.
        order: Which side is shown left and which right.
        blind: Whether it is hidden until `reveal` which is which.
        before: What each side had heard and said before.
    """

    DEFAULT_CSS = """
    TurnView {
        height: auto; margin: 0 0 1 0;
        & .prompt { height: auto; margin: 0 1; padding: 0 1; border-left: outer $accent; background: $boost; }
        & Horizontal { height: auto; margin: 1 0 0 0; }
        & .verdict { height: auto; padding: 0 2; color: $text-muted; }
    }
    """

    class Resized(Message):
        """It became taller or shorter."""

        def __init__(self, turn: TurnView) -> None:
            super().__init__()
            self.turn = turn

    def __init__(
        self, prompt: str, seed: int, labels: Sequence[str], order: tuple[int, int], before: Histories, *, blind: bool
    ) -> None:
        super().__init__()
        self.prompt, self.seed, self.order, self.before, self.blind = prompt, seed, order, before, blind
        self.hidden = blind
        self.answers: tuple[Growing, ...] = ()
        self.texts = ["", ""]
        self.ends: dict[int, Finished | LocalknobsError | None] = {}
        self._labels = labels
        self._notes: tuple[list[str], list[str]] = ([], [])

    def compose(self) -> ComposeResult:
        """Lay out the prompt over the two answers."""
        yield Static(printable(self.prompt), classes="prompt", markup=False)
        with Horizontal():
            for place, side in enumerate(self.order):
                yield AnswerPane(("Left", "Right")[place] if self.hidden else self._whose(side))
        yield Static("", classes="verdict", markup=False)

    def _whose(self, side: int) -> str:
        return f"{'AB'[side]}: {self._labels[side]}"

    def on_resize(self) -> None:
        """Tell whoever keeps its beginning in sight."""
        self.post_message(self.Resized(self))

    @property
    def number(self) -> int:
        """Which prompt of the conversation it is, from 1."""
        return 1 + max(map(len, self.before)) // 2

    def pane(self, side: int) -> AnswerPane:
        """Return where a side's answer is shown."""
        return list(self.query(AnswerPane))[self.order.index(side)]

    # ---- what comes ---------------------------------------------------------------------------

    async def take(self, side: int) -> bool:
        """Show what came of a side's answer; return whether there was anything."""
        pieces = self.answers[side].take()
        for piece in pieces:
            if isinstance(piece, str):
                self.texts[side] += piece
            elif isinstance(piece, Noted | ContextDropped):
                self._notes[side].append(piece.text)
        await self._show()
        return bool(pieces)

    async def _show(self) -> None:
        """Show both answers; while it is hidden which is which, both at the pace of the slower, which would tell."""
        unfinished = [len(self.texts[side]) for side in (0, 1) if side not in self.ends]
        room = min(unfinished) if self.hidden and unfinished else None
        for side in (0, 1):
            await self.pane(side).show(self.texts[side][:room])
            if not self.hidden:
                self.pane(side).say(self._numbers(side))

    def doing(self, side: int, text: str) -> None:
        """Say what a side does before its first text came."""
        if not self.hidden and not self.texts[side] and side not in self.ends:
            self.pane(side).say(text)

    def _numbers(self, side: int) -> str:
        """Return the counts and speeds of a side's answer, its end and what it noted."""
        answer, end = self.answers[side], self.ends.get(side)
        words = []
        if isinstance(end, Finished):
            stats = end.stats
            words = [f"{stats.generated_tokens:,} tokens", f"{stats.tokens_per_s:,.0f} tokens/s"]
            words.append(f"first {stats.time_to_first_token_s * 1000:,.0f} ms")
            if reason := REASONS.get(end.reason):
                words.append(reason.partition(";")[0])
        elif answer.last:
            words = [f"{answer.last.generated_tokens:,} tokens", f"{answer.last.tokens_per_s:,.0f} tokens/s"]
            words.append(f"first {answer.first_text_s * 1000:,.0f} ms")
        elif side in self.ends and end is None:
            words = ["stopped before it began"]
        return "\n".join(filter(None, [" · ".join(words), *self._notes[side]]))

    async def end(self, side: int, how: Finished | LocalknobsError | None) -> None:
        """A side's answer is over; one that failed can get no vote, so that it is shown whose it is."""
        self.ends[side] = how
        await self.take(side)
        if isinstance(how, LocalknobsError):
            await self.reveal()
            self.pane(side).fail(str(how))
        if self.over:
            for pane in self.query(AnswerPane):
                await pane.finish()

    @property
    def over(self) -> bool:
        """Whether both answers are complete, or given up."""
        return len(self.ends) == 2

    @property
    def can_be_voted_on(self) -> bool:
        """Whether there are two answers to choose from."""
        return self.over and all(isinstance(end, Finished) for end in self.ends.values()) and all(self.texts)

    async def reveal(self) -> None:
        """Show which answer is whose, and its numbers."""
        self.hidden = False
        for side in (0, 1):
            self.pane(side).name_it(self._whose(side))
        if self.answers:
            await self._show()
        self._say(f"seed {self.seed}")

    def choice_of(self, verdict: Verdict) -> Choice:
        """Return whose answer a verdict is for."""
        if verdict in ("tie", "both bad"):
            return verdict
        return "a" if self.order[verdict == "right"] == 0 else "b"

    def choose(self, verdict: Verdict) -> None:
        """Show what was voted."""
        texts = {"left": "the left answer is better", "right": "the right answer is better"}
        if verdict in texts:
            self.pane(self.order[("left", "right").index(verdict)]).add_class("-better")
        self._say(f"You said: {texts.get(verdict, verdict)} · seed {self.seed}")

    def _say(self, text: str) -> None:
        self.query_one(".verdict", Static).update(text)
