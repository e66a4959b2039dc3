"""One message of the transcript: who says it, what is said, and how it came about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from localknobs.conversations import Node
from localknobs.engine.adapter_rack import short_names
from localknobs.engine.events import draft_status
from localknobs.errors import LocalknobsError
from localknobs.knobs import KNOBS
from localknobs.terminal_text import printable
from localknobs.tui.sampler_text import level_style

Score = tuple[int, float, float]
"""Length of a message's text with a token, the token's probability, and the entropy it was drawn from in bits."""
NAMES = {"user": "You", "assistant": "Model", "system": "System"}
_OPENS_BLOCK = re.compile(r"(?:^|\n)[ \t]*(?:[-*+]|\d+[.)]|#{1,6}|>)$")
REASONS = {
    "stopped": "stopped",
    "length": "stopped at the token limit (max tokens); c continues",
    "context": "the context is full",
}


def tinted_text(text: str, kind: str, scores: Sequence[Score]) -> Content:
    """Return an answer coloured token by token.

    Args:
        text: The answer.
        kind: `confidence` or `entropy`.
        scores: Of its tokens, in order.
    """
    parts: list[tuple[str, str]] = []
    at = 0
    for end, confidence, entropy in scores:
        if end > at:
            parts.append((printable(text[at:end]), level_style(kind, confidence, entropy)))
            at = end
    return Content.assemble(*parts, printable(text[at:]))


def mark_text(changes: Mapping[str, Any]) -> str:
    """Return how a change of knobs is written into an answer: `temperature 0.2, top-k 10`."""
    words = []
    for name, value in changes.items():
        if row := KNOBS.get(name):
            try:
                shown = row.show(row.check(value))
            except LocalknobsError:
                continue  # of another version, or damaged
            words.append(f"{row.label} {shown[:24] or 'none'}")
    return ", ".join(words)


def marked(text: str, marks: list[tuple[int, dict[str, Any]]]) -> str:
    """Return an answer's Markdown with its knob changes written in where they took effect."""
    pieces: list[str] = []
    at = 0
    for place, changes in sorted(marks, key=lambda mark: mark[0]):
        pieces += [text[at:place], inline_mark("".join(pieces) + text[at:place], changes)]
        at = place
    return printable("".join([*pieces, text[at:]]))


def inline_mark(before: str, changes: Mapping[str, Any]) -> str:
    """Return one mark as Markdown; inside a code block it is written plainly."""
    shown = "◆ " + mark_text(changes).replace("`", "'").replace("\n", " ")
    in_code = sum(line.lstrip().startswith("```") for line in before.split("\n")) % 2 == 1
    if in_code:
        return f" {shown} "
    # A space outside would end emphasis that begins here ("** `"), but behind a list's dash one is needed.
    return f" `{shown}`" if _OPENS_BLOCK.search(before) else f"`{shown}`"


class MessageView(Vertical, can_focus=True):
    """A message.

    Args:
        node: What is shown; it may still grow.
        model: The model's name, for an answer's heading.
        growing: Whether it is being written now.
    """

    DEFAULT_CSS = """
    MessageView {
        height: auto; margin: 0 1 1 1; padding: 0 1; border-left: outer $surface-lighten-2;
        &.-user { border-left: outer $accent; background: $boost; }
        &.-assistant { border-left: outer $primary; }
        &:focus { background: $primary 15%; }
        & .heading { color: $text-muted; height: 1; }
        & .foot { color: $text-muted; height: auto; display: none; }
        & .foot.-shown { display: block; }
        & .tinted { height: auto; display: none; }
        & Markdown { margin: 0; padding: 0; background: transparent; }
        & MarkdownParagraph { margin: 0 0 1 0; }
        & MarkdownBlock:last-child { margin-bottom: 0; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("e", "act('edit')", "Edit"),
        Binding("r", "act('regenerate')", "Again"),
        Binding("c", "act('go_on')", "Continue"),
        Binding("y", "act('copy')", "Copy"),
        Binding("left", "branch(-1)", "Other branch", key_display="← →"),
        Binding("right", "branch(1)", "Next branch", show=False),
        Binding("home", "screen.show_earlier", "Earlier messages", show=False),
    ]

    class Asked(Message):
        """The user wants something done with this message: edit, regenerate, go_on, copy."""

        def __init__(self, view: MessageView, what: str) -> None:
            super().__init__()
            self.view = view
            self.what = what

    class BranchAsked(Message):
        """The user wants to see another branch at this message."""

        def __init__(self, view: MessageView, direction: int) -> None:
            super().__init__()
            self.view = view
            self.direction = direction

    class Moved(Message):
        """The user goes to the message above or below."""

        def __init__(self, view: MessageView, direction: int) -> None:
            super().__init__()
            self.view = view
            self.direction = direction

    def __init__(self, node: Node, model: str, *, growing: bool = False) -> None:
        super().__init__(classes=f"-{node.role}")
        self.node = node
        self.model = model
        self.growing = growing
        self._stream: MarkdownStream | None = None
        self._written = ""

    def compose(self) -> ComposeResult:
        """Lay out heading, text and foot."""
        yield Static(self._heading(), classes="heading", markup=False)
        if self.node.role == "assistant":
            self._written = marked(self.node.text, self.node.marks)
            yield Markdown(self._written, open_links=False)
            yield Static(classes="tinted", markup=False)
        else:
            yield Static(printable(self.node.text), classes="text", markup=False)
        foot = self._foot()
        yield Static(foot, classes="foot -shown" if foot else "foot", markup=False)

    def _heading(self, place: str = "") -> str:
        # An answer of an earlier time keeps the name of the model that wrote it.
        written_by = str(self.node.stats.get("model", self.model))
        name = written_by if self.node.role == "assistant" else NAMES[self.node.role]
        return f"{printable(name)}{place}"

    def _foot(self) -> str:
        node = self.node
        if node.role != "assistant":
            return ""
        words = []
        number = {name: value for name, value in node.stats.items() if isinstance(value, int | float)}
        if number.get("generated_tokens"):
            words.append(f"{number['generated_tokens']} tokens · {number.get('tokens_per_s', 0):,.0f} tokens/s")
            words.append(f"first token {number.get('time_to_first_token_s', 0) * 1000:,.0f} ms")
            if drafted := number.get("drafted_tokens"):
                accepted, gain = number.get("accepted_tokens", 0), number.get("draft_gain", 0)
                words.append(draft_status("model", int(drafted), int(accepted), gain))
            if number.get("seed", -1) >= 0:
                words.append(f"seed {number['seed']}")
        if isinstance(adapters := node.stats.get("adapters"), list) and adapters:
            words.append(printable(f"with {short_names(adapters)}"))
        if node.interrupted and not self.growing:
            words.append("interrupted; c continues")
        elif node.reason in REASONS:
            words.append(REASONS[node.reason])
        return " · ".join(words)

    def show_place(self, number: int, count: int) -> None:
        """Show which of the alternatives at this place it is."""
        place = f"  ‹ {number} of {count} ›" if count > 1 else ""
        self.query_one(".heading", Static).update(self._heading(place))

    # ---- colours ------------------------------------------------------------------------------

    def show_tint(self, kind: str, scores: Sequence[Score]) -> None:
        """Show the answer as plain text coloured by how sure the model was; as Markdown for no kind or no scores."""
        if self.node.role != "assistant":
            return
        markdown, tinted = self.query_one(Markdown), self.query_one(".tinted", Static)
        markdown.display = not (kind and scores)
        tinted.display = not markdown.display
        if tinted.display:
            tinted.update(tinted_text(self.node.text, kind, scores))

    # ---- growing ------------------------------------------------------------------------------

    async def grow(self, text: str) -> None:
        """Write more of an answer."""
        self.growing = True
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        text = printable(text)
        self._written += text
        await self._stream.write(text)

    async def mark(self, changes: Mapping[str, Any]) -> None:
        """Write that knobs took effect here."""
        await self.grow(inline_mark(self._written, changes))

    async def finish(self) -> None:
        """Show the answer's end."""
        self.growing = False
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()
        foot = self._foot()
        line = self.query_one(".foot", Static)
        line.update(foot)
        line.set_class(bool(foot), "-shown")

    # ---- keys ---------------------------------------------------------------------------------

    def action_act(self, what: str) -> None:
        """Ask for something to be done with this message."""
        self.post_message(self.Asked(self, what))

    def action_branch(self, direction: int) -> None:
        """Ask for another branch."""
        self.post_message(self.BranchAsked(self, direction))

    def action_move(self, direction: int) -> None:
        """Go to another message."""
        self.post_message(self.Moved(self, direction))
