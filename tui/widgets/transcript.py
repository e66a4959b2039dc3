"""The conversation on the screen: its messages, notices between them, and a greeting when there are none."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.reactive import reactive
from textual.widgets import Static

from localknobs.conversations import Conversation, Node
from localknobs.terminal_text import printable
from localknobs.tui.widgets.message_view import MessageView

PAGE = 40
"""Messages of a long conversation that are laid out at once; the ones before on request."""
GREETING = """\
Write a message and press Enter, such as:

  What does temperature do?
  Tell me a very short story.
  Which quantization should I choose?

F2 goes to the knobs. Move a slider while an answer is being written: \
it takes effect at the next token.

F7 is the menu of all screens: models, fine-tuning, quantizing, context, measuring and more. F1 shows every key.
"""


class Notice(Static):
    """Something said between the messages: an error or an offer."""

    DEFAULT_CSS = """
    Notice { height: auto; margin: 0 1 1 1; padding: 0 1; border-left: outer $warning; color: $text-warning; }
    Notice.-error { border-left: outer $error; color: $text-error; }
    """


class EarlierMessages(Static):
    """Stands for so many messages before the first shown one."""

    DEFAULT_CSS = "EarlierMessages { height: 1; margin: 0 1 1 1; color: $text-muted; }"
    count: reactive[int] = reactive(0)

    def __init__(self, count: int) -> None:
        super().__init__(markup=False)
        self.count = count

    def watch_count(self, count: int) -> None:
        """Say how many."""
        self.update(f"▲ {count} earlier messages: click here, or press Home on a message")

    async def on_click(self) -> None:
        """Show more of them."""
        await self.screen.run_action("show_earlier")


class Transcript(VerticalScroll, can_focus=False):
    """The messages of the shown branch, following the end while an answer is written."""

    DEFAULT_CSS = """
    Transcript { scrollbar-size-vertical: 1; padding-top: 1; }
    Transcript > .greeting { margin: 1 2; color: $text-muted; height: auto; }
    """

    def compose(self) -> ComposeResult:
        """Begin with the greeting."""
        yield Static(GREETING, classes="greeting", markup=False)

    def on_mount(self) -> None:
        """Keep the end in sight until the user scrolls up."""
        self.anchor()

    @property
    def views(self) -> list[MessageView]:
        """The messages shown, first to last."""
        return list(self.query(MessageView))

    def view_of(self, node: Node) -> MessageView | None:
        """Return the view of a message, when it is shown."""
        return next((view for view in self.views if view.node is node), None)

    async def show(self, conversation: Conversation, model: str) -> None:
        """Show a branch: what is shown of it already stays, and of a long one only the end is laid out."""
        branch = conversation.branch()
        views = self.views
        first = next((at for at, node in enumerate(branch) if views and views[0].node is node), None)
        same = 0
        if first is not None:
            pairs = zip(views, branch[first:], strict=False)
            same = next((at for at, (view, node) in enumerate(pairs) if view.node is not node), len(views))
            same = min(same, len(branch) - first)
        begin = first + same if first is not None and same else max(0, len(branch) - PAGE)
        with self.app.batch_update():
            kept = set(views[:same])
            for child in list(self.children):
                if child not in kept and not (same and isinstance(child, EarlierMessages)):
                    await child.remove()
            if not same and begin:
                await self.mount(EarlierMessages(begin))
            added = [MessageView(node, model) for node in branch[begin:]]
            nothing = [] if branch else [Static(GREETING, classes="greeting", markup=False)]
            await self.mount_all([*added, *nothing])
            for view in self.views[max(0, same - 1) :]:
                self._show_place(conversation, view)
        self.anchor()

    async def add(self, conversation: Conversation, node: Node, model: str, *, growing: bool = False) -> MessageView:
        """Show one more message at the end."""
        await self.query(".greeting").remove()
        view = MessageView(node, model, growing=growing)
        await self.mount(view)
        self._show_place(conversation, view)
        self.anchor()
        return view

    async def show_earlier(self, conversation: Conversation, model: str) -> None:
        """Lay out the page of messages before the first shown one, and go there."""
        earlier = self.query(EarlierMessages)
        if not earlier:
            self.scroll_home(animate=False)
            return
        count = earlier.first().count
        nodes = conversation.branch()[max(0, count - PAGE) : count]
        added = [MessageView(node, model) for node in nodes]
        self.release_anchor()
        with self.app.batch_update():
            await self.mount_all(added, after=earlier.first())
            for view in added:
                self._show_place(conversation, view)
            if count > PAGE:
                earlier.first().count = count - PAGE
            else:
                await earlier.remove()
        if added:
            added[-1].focus()

    @staticmethod
    def _show_place(conversation: Conversation, view: MessageView) -> None:
        alternatives = conversation.siblings(view.node)
        if len(alternatives) > 1:
            view.show_place(alternatives.index(view.node) + 1, len(alternatives))

    async def say(self, text: str, *, error: bool = False) -> None:
        """Show a notice at the end."""
        await self.query(".greeting").remove()
        await self.mount(Notice(printable(text), classes="-error" if error else "", markup=False))
        self.anchor()

    async def forget_notices(self) -> None:
        """Take the notices away."""
        await self.query(Notice).remove()

    def on_mouse_scroll_up(self, _event: events.MouseScrollUp) -> None:
        """Stay where the user scrolls to."""
        self.release_anchor()
