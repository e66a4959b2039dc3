"""The chat screen: transcript, composer, knobs; every action by key, in the footer and in the command palette."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer

from localknobs.conversations import Node
from localknobs.errors import LocalknobsError
from localknobs.knobs import Value, defaults
from localknobs.library import BUILT_IN
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.screens.adapting import AdaptingScreen
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.knob_panel import KnobPanel, PresetRow
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.lines import Lines
from localknobs.tui.widgets.message_view import MessageView
from localknobs.tui.widgets.status_line import StatusLine
from localknobs.tui.widgets.tint_legend import TintLegend
from localknobs.tui.widgets.transcript import Transcript

PANEL_NEEDS = 100
"""Columns from which the panel of knobs is open at the start."""
CHANGE_PAUSE_S = 0.06
"""A dragged slider sends its value to the answer being written at most this often; the last one is always sent."""


ACTIONS: tuple[Action, ...] = (
    Action("f1", "help", "Help", "every key; on a knob, its card"),
    Action("f2", "knobs", "Knobs", "go to the knobs; once more hides them"),
    Action("ctrl+t", "samplers", "Samplers", "see what each sampler makes of a token, and branch; once more closes it"),
    Action("f3", "models", "Models", "chat with another model"),
    Action("f4", "chats", "Chats", "go on with a saved conversation"),
    Action("ctrl+n", "new_chat", "New", "start a new conversation"),
    Action("ctrl+r", "regenerate", "Again", "answer the last message again; the old answer stays as a branch"),
    Action("escape", "stop", "Stop", "stop the answer being written; else go back to the message box"),
    Action("alt+t", "tint", "Tint", "colour the answers by confidence, by entropy, or not"),
    Action("ctrl+l", "reload", "Reload", "load the model again with the knobs marked ⟳"),
    Action("f7", "go", "Go to", "every screen of the program, to choose from", first=True),
    Action("f12", "get", "Get models", "search the hub and fetch models", in_footer=False),
    Action("ctrl+g", "forge", "Forge", "make smaller files of a model: merge, convert, quantize", in_footer=False),
    Action(
        "f6", "context", "Context", "how far the model sees, by what means, at what price", in_footer=False, first=True
    ),
    Action(
        "alt+v", "ab", "A/B", "two models or settings answer the same prompt; vote, blind if wished", in_footer=False
    ),
    Action("alt+u", "tune", "Tune", "teach a model: from a file of examples to an adapter", in_footer=False),
    Action("alt+j", "jobs", "Jobs", "what runs and what ran, how far it is, and stop it", in_footer=False),
    Action("alt+m", "measure", "Measure", "what a change did to a model: quality against size", in_footer=False),
    Action("alt+a", "adapters", "Adapters", "put adapters on the model, each with a slider", in_footer=False),
    Action("alt+s", "diagnose", "Diagnose", "from a symptom to the first lever, after a probe here", in_footer=False),
    Action("f5", "system", "System prompt", "set the system prompt", in_footer=False),
    Action("f10", "levers", "Cards", "every lever and knob: what it does, costs, and did here", in_footer=False),
    Action("f8", "presets", "Presets", "choose a preset", in_footer=False),
    Action("f9", "save_preset", "Save preset", "save the knobs as a preset of your own", in_footer=False),
    Action("ctrl+s", "save_text", "Save text", "write the conversation as Markdown into a file", in_footer=False),
    Action("ctrl+o", "copy_last", "Copy answer", "copy the last answer to the clipboard", in_footer=False),
)

MORE_KEYS: dict[str, list[tuple[str, str]]] = {
    "everywhere": [
        ("Tab", "message box → knobs → messages"),
        ("Ctrl+P", "the command palette: every action by name, and the themes"),
        ("Ctrl+Q", "leave; everything is saved already"),
    ],
    "composer": [
        ("Enter", "send"),
        ("Ctrl+J, Shift+Enter", "begin a new line"),
        ("↑", "in an empty box: go to the messages"),
        ("Ctrl+A E K U W", "as in a shell"),
    ],
    "knob": [
        ("← →", "one step; with Shift ten, or half as much again"),
        ("digits, Enter", "type a value"),
        ("0, Backspace", "back to the preset's value"),
        ("Home End", "lowest and highest"),
        ("mouse", "click or drag the slider"),
        ("F1", "the knob's card: what it does, costs, and how it fails"),
    ],
    "adapter": [
        ("← →", "its scale: 1 as it was made, 0 the base, below 0 away from it; from the next answer on"),
        ("a", "add another one"),
        ("x", "take it off"),
        ("w", "without all of them, and with them again; Ctrl+R answers again for comparison"),
    ],
    "samplers": [
        ("← →", "the token before, the token after; Home and End the first and the last"),
        ("Enter", "on a candidate: the answer goes on with it, as a branch; on a stage: its knob"),
        ("⇧↑ ⇧↓", "on a stage: earlier or later in the chain"),
        ("n", "the token that comes next"),
        ("Tab", "between stages, candidates and the rest"),
    ],
    "message": [
        ("e", "edit: yours is answered anew, the model's is continued; the old one stays as a branch"),
        ("r", "answer again"),
        ("c", "continue the last answer"),
        ("← →", "other branches"),
        ("y", "copy"),
    ],
}
"""Keys that belong to a part of the screen, for the help page."""


class ChatScreen(AdaptingScreen):
    """The screen that the program opens with.

    Args:
        model: Name or path of the model to begin with.
    """

    ACTIONS: ClassVar[tuple[Action, ...]] = ACTIONS
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (PANEL_NEEDS, "-wide")]
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(ACTIONS),
        Binding("tab", "zone(1)", "Next part", show=False),
        Binding("shift+tab", "zone(-1)", "Previous part", show=False),
        Binding("question_mark", "help", "Help", show=False),
    ]

    def __init__(self, model: str | None = None) -> None:
        super().__init__()
        self._first_model = model or BUILT_IN
        self._changes: dict[str, Value] = {}
        self._change_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """Lay out what the first frame shows; the knobs come right after it."""
        with Horizontal():
            with Vertical(id="talk"):
                yield Transcript()
                yield TintLegend()
                yield StatusLine()
                yield Composer("Write a message. Enter sends, Ctrl+J begins a new line.")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Draw first, then load."""
        self.query_one(Composer).focus()
        self.status.activity = "loading the model …"
        self.call_after_refresh(self._after_first_frame)

    async def _after_first_frame(self) -> None:
        await self.load_model(self._first_model)
        await self.query_one(Horizontal).mount(KnobPanel({**self.sampler.values, **self.load_values}))

    def on_resize(self) -> None:
        """Do not leave the focus in a panel that became hidden."""
        self.call_after_refresh(self._leave_hidden_panel)

    def _leave_hidden_panel(self) -> None:
        for panel in self.query(KnobPanel):
            if panel.has_focus_within and not panel.display:
                self.query_one(Composer).focus()

    def on_unmount(self) -> None:
        """End the engine and close the conversation with the screen; its cache is kept where the user wants that."""
        if self.load_values["park_cache"] == "disk" and self.conversation.nodes and not self.answer:
            self.bridge.change_caches("disk", self.conversation.path.stem)
        self.bridge.close()
        self.conversation.close()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show Stop only while an answer is written, and Reload only when a knob waits for it."""
        if action == "stop":
            return True if self.answer or self._waiting else None if self.focused is self._composer else True
        if action == "reload" and self.is_mounted:
            return not self.bridge.loading and (self.reload_pending or not self.bridge.ready)
        return True

    # ---- messages -----------------------------------------------------------------------------

    @property
    def _composer(self) -> Composer | None:
        found = self.query(Composer)
        return found.first() if found else None

    async def on_composer_sent(self, event: Composer.Sent) -> None:
        """Send, unless an answer is still being written."""
        if self.answer or self._waiting:
            doing = "An answer is still being written" if self.answer else "A message waits for the model"
            self.notify(f"{doing}. Esc stops it.", severity="warning")
            return
        self.query_one(Composer).text = ""
        try:
            await self.send(event.text)
        except LocalknobsError as error:
            self.query_one(Composer).text = event.text
            await self.show_error(error)

    def on_composer_went_up(self) -> None:
        """Go to the last message."""
        if views := self.transcript.views:
            views[-1].focus()

    def on_message_view_moved(self, event: MessageView.Moved) -> None:
        """Go to the message above or below; below the last is the composer."""
        views = self.transcript.views
        if event.view not in views:
            return  # it was replaced while the key was on its way
        at = views.index(event.view) + event.direction
        if at >= len(views):
            self.query_one(Composer).focus()
        else:
            views[max(0, at)].focus()

    def on_message_view_branch_asked(self, event: MessageView.BranchAsked) -> None:
        """Show another branch."""
        self.show_branch(event.view.node, event.direction)

    def action_regenerate(self) -> None:
        """Answer the last message again."""
        self.regenerate()

    def action_stop(self) -> None:
        """Stop the answer, or take back the message that waits for the model, or go back to the composer."""
        branch = self.conversation.branch()
        if self.answer:
            self.status.activity = "stopping …"
            self.bridge.stop(self.answer)
        elif self._waiting and branch and branch[-1].role == "user":
            self.take_back(branch[-1])
        else:
            self.query_one(Composer).focus()

    def take_back(self, node: Node) -> None:
        """Take an unanswered message out of the conversation and into the composer."""
        composer = self.query_one(Composer)
        composer.text = composer.text or node.text
        composer.focus()
        self.forget(node)

    async def action_show_earlier(self) -> None:
        """Show more of the messages before the first shown one."""
        await self.transcript.show_earlier(self.conversation, self.model_name)

    def action_copy_last(self) -> None:
        """Copy the last answer."""
        answers = [view.node.text for view in self.transcript.views if view.node.role == "assistant"]
        if answers:
            self.app.copy_to_clipboard(answers[-1])
        self.notify("Copied." if answers else "There is no answer yet.")

    # ---- knobs --------------------------------------------------------------------------------

    def on_knob_row_changed(self, event: KnobRow.Changed) -> None:
        """Turn a knob: of the answer being written at once, of the load when it is loaded again."""
        name = event.row.name
        if self.turn_adapter(event.row, event.value):
            return
        if name in self.load_values:
            self.load_values[name] = event.value
            self.refresh_bindings()
            if event.row.applies == "reload":
                hint = "Ctrl+L loads the model again with the changed ⟳ knobs"
                self.status.trouble = hint if self.reload_pending else ""
            return
        self.sampler.set(name, event.value)
        self._send_changes({name: event.value})
        self.query_one(KnobPanel).show_preset(self.sampler.preset.name, changed=self.sampler.changed)

    def _send_changes(self, changes: dict[str, Value]) -> None:
        """Send changes to the answer being written: the first at once, those of a drag gathered."""
        self._changes.update(changes)
        if self._change_timer is None:
            self._flush_changes()
            self._change_timer = self.set_timer(CHANGE_PAUSE_S, self._end_change_pause)

    def _end_change_pause(self) -> None:
        self._change_timer = None
        self._flush_changes()

    def _flush_changes(self) -> None:
        if self._changes and self.answer:
            self.bridge.set_sampler(self._changes)
        self._changes = {}

    def on_knob_row_refused(self, event: KnobRow.Refused) -> None:
        """Say what is allowed."""
        self.notify(str(event.error), severity="error", timeout=6)

    def on_preset_row_other(self, event: PresetRow.Other) -> None:
        """Take the neighbouring preset."""
        self.use_preset(self.sampler.neighbour(event.direction))

    def use_preset(self, name: str) -> None:
        """Take a preset, for the answer being written too."""
        try:
            self._send_changes(self.sampler.use(name))
        except LocalknobsError as error:
            self.notify(str(error), severity="error")
        self.show_knobs()

    def show_knobs(self) -> None:
        """Show the values of all knobs, and which preset they came from."""
        for panel in self.query(KnobPanel):
            standard = {**self.sampler.standard, **defaults("loading")}
            panel.show_values({**self.sampler.values, **self.load_values}, standard)
            panel.show_preset(self.sampler.preset.name, changed=self.sampler.changed)
        self.show_adapters()
        self.look_again()

    # ---- parts of the screen ------------------------------------------------------------------

    def action_knobs(self) -> None:
        """Go to the knobs; hide them when the focus is there already."""
        if not self.query(KnobPanel):
            return
        panel = self.query_one(KnobPanel)
        if panel.has_focus_within:
            self.set_class(False, "-knobs")
            self.set_class(True, "-no-knobs")
            self.query_one(Composer).focus()
        else:
            self.set_class(True, "-knobs")
            self.set_class(False, "-no-knobs")
            self.call_after_refresh(panel.focus_row)

    def action_zone(self, direction: int) -> None:
        """Go round: message box, knobs, messages."""
        panel = self.query_one(KnobPanel) if self.query(KnobPanel) else None
        zones: list[Composer | KnobPanel | MessageView | Lines] = [self.query_one(Composer)]
        if panel and panel.display:
            zones.append(panel)
        zones += self.query(Lines)
        if self.transcript.views:
            zones.append(self.transcript.views[-1])
        at = 0
        if panel and panel.has_focus_within and panel in zones:
            at = zones.index(panel)
        elif isinstance(self.focused, MessageView):
            at = len(zones) - 1
        elif isinstance(self.focused, Lines):
            at = zones.index(self.focused)
        chosen = zones[(at + direction) % len(zones)]
        if isinstance(chosen, KnobPanel):
            chosen.focus_row()
        else:
            chosen.focus()

    def on_descendant_focus(self, _event: events.DescendantFocus) -> None:
        """The footer shows the keys of what has the focus."""
        self.refresh_bindings()

    def key_sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return the help page's sections: heading, then (key, what it does) pairs."""
        return [
            ("Everywhere", [*key_help(ACTIONS), *MORE_KEYS["everywhere"]]),
            ("In the message box", MORE_KEYS["composer"]),
            ("On a knob", MORE_KEYS["knob"]),
            ("On an adapter (Alt+A)", MORE_KEYS["adapter"]),
            ("In the sampler view", MORE_KEYS["samplers"]),
            ("On a message (↑ in an empty message box, or Tab)", MORE_KEYS["message"]),
        ]
