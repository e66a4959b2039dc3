"""The conversation on the screen: its messages, notices between them, and a greeting when there are none."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from localknobs.conversations import Conversation, Node
from localknobs.tui.widgets.message_view import MessageView

SHOWN_AT_FIRST = 40
"""Messages of a long conversation that are laid out at once; the ones before on request."""
GREETING = """\
Write a message and press Enter, such as:

  What does temperature do?
  Tell me a very short story.
  Which quantization should I choose?

F2 goes to the knobs. Move a slider while an answer is being written: \
it takes effect at the next token. F1 shows every key.
"""


class Notice(Static):
    """Something said between the messages: an error or an offer."""

    DEFAULT_CSS = """
    Notice { height: auto; margin: 0 1 1 1; padding: 0 1; border-left: outer $warning; color: $text-warning; }
    Notice.-error { border-left: outer $error; color: $text-error; }
    """


class EarlierMessages(Static, can_focus=True):
    """Stands for the messages before the first shown one."""

    DEFAULT_CSS = "EarlierMessages { height: 1; margin: 0 1 1 1; color: $text-muted; }"

    async def on_click(self) -> None:
        """Show them."""
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

    async def show(self, conversation: Conversation, model: str, *, whole: bool = False) -> None:
        """Lay out the branch that is shown, the last messages of it when it is long."""
        branch = conversation.branch()
        shown: Sequence[Node] = branch if whole else branch[-SHOWN_AT_FIRST:]
        with self.app.batch_update():
            await self.query("*").remove()
            hidden = len(branch) - len(shown)
            if hidden:
                await self.mount(EarlierMessages(f"▲ {hidden} earlier messages: click, or press Home to show them"))
            views = [MessageView(node, model) for node in shown]
            await self.mount_all(views or [Static(GREETING, classes="greeting", markup=False)])
            for view in views:
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

    @staticmethod
    def _show_place(conversation: Conversation, view: MessageView) -> None:
        alternatives = conversation.siblings(view.node)
        if len(alternatives) > 1:
            view.show_place(alternatives.index(view.node) + 1, len(alternatives))

    async def say(self, text: str, *, error: bool = False) -> None:
        """Show a notice at the end."""
        await self.query(".greeting").remove()
        await self.mount(Notice(text, classes="-error" if error else "", markup=False))
        self.anchor()

    async def forget_notices(self) -> None:
        """Take the notices away."""
        await self.query(Notice).remove()

    def on_mouse_scroll_up(self, _event: events.MouseScrollUp) -> None:
        """Stay where the user scrolls to."""
        self.release_anchor()
