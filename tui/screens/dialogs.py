"""What the chat screen asks in boxes of their own: models, conversations, presets, texts, help."""

from __future__ import annotations

import asyncio
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from localknobs.conversations import Conversation, Node, delete_conversation, plain_text, saved_conversations
from localknobs.errors import LocalknobsError
from localknobs.gguf_info import check_is_model, read_header
from localknobs.knobs import KNOBS, check_value, defaults, flag_words
from localknobs.library import find_model, list_models
from localknobs.paths import user_path
from localknobs.presets import check_preset_name, delete_preset, presets
from localknobs.tui.places import PLACES
from localknobs.tui.screens.answering import after_the_answer
from localknobs.tui.screens.info import show_help
from localknobs.tui.screens.knob_editing import edit_knob
from localknobs.tui.screens.model_loading import ModelScreen
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.screens.wish import Wish
from localknobs.tui.widgets.knob_panel import KnobPanel, PresetRow
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.message_view import MessageView
from localknobs.units import size_text

if TYPE_CHECKING:
    from localknobs.tui.app import LocalknobsApp
    from localknobs.tui.downloads import Downloads
    from localknobs.tui.screens.context import ContextChosen
    from localknobs.tui.screens.diagnose import Remedied


class Dialogs(ModelScreen):
    """The actions that open a box."""

    def __init__(self) -> None:
        super().__init__()
        self._titles: dict[str, str] = {}

    # ---- choosing -----------------------------------------------------------------------------

    def action_models(self) -> None:
        """Show the models of this machine; one can be chatted with, or made smaller."""
        from localknobs.tui.screens.models import ModelsScreen

        self.app.push_screen(ModelsScreen(self.wanted_name), self._wished)

    def _wished(self, wish: Wish | None) -> None:
        if wish and wish.what == "chat":
            if wish.adapter:
                self.load_values["lora"] = (wish.adapter,)
                self.show_knobs()
            self.use_model(wish.model)
        elif wish and wish.what == "forge":
            self._open_forge(wish.model, wish.adapter)
        elif wish and wish.what == "measure":
            self._open_measure(wish.model, fresh=True)
        elif wish and wish.what == "go":
            self._go(wish.model)
        elif wish:
            self.action_get()

    def action_go(self) -> None:
        """Choose a screen to go to."""
        choices = [Choice(row.action, f"{row.name:<12}", f"{row.key:<7} {row.help}") for row in PLACES]
        self.app.push_screen(Picker("Go to", choices, note="Type the first letters of a name."), self._go)

    def _go(self, action: str | None) -> None:
        if action:
            self.call_later(self.run_action, action)

    def action_jobs(self) -> None:
        """Show all long work and all downloads."""
        from localknobs.tui.screens.jobs import JobsScreen

        self.app.push_screen(JobsScreen(), self._wished)

    def action_ab(self) -> None:
        """Let two models or settings answer the same prompt."""
        from localknobs.tui.screens.ab import ABScreen

        gave_room = False

        def make_room() -> bool:
            nonlocal gave_room
            if self.answer or not self.bridge.ready:
                return False
            gave_room = True
            self.bridge.close()
            return True

        def left(_nothing: None) -> None:
            if gave_room:
                self.use_model(self.wanted_name)

        self.app.push_screen(ABScreen(self.wanted_name, make_room), left)

    def action_get(self) -> None:
        """Search the hub and fetch models."""
        from localknobs.tui.screens.get import GetScreen

        self.app.push_screen(GetScreen(self.downloads), self._wished)

    @property
    def downloads(self) -> Downloads:
        """The application's queue."""
        return cast("LocalknobsApp", self.app).downloads

    def _model_chosen(self, name: str | None) -> None:
        if name:
            self.use_model(name)

    def action_forge(self) -> None:
        """Open the Forge; what it made can be chatted with at once."""
        self._open_forge(self.wanted_name)

    def _open_forge(self, source: str, adapters: str = "") -> None:
        from localknobs.tui.screens.forge import ForgeScreen

        self.app.push_screen(ForgeScreen(source, adapters), self._model_chosen)

    def action_tune(self) -> None:
        """Train an adapter; it can be chatted with, or merged."""
        from localknobs.tui.screens.tune import TuneScreen

        self.app.push_screen(TuneScreen(), self._wished)

    def action_measure(self) -> None:
        """Measure models; what runs or ran last is shown, else the chat's model with what changes its numbers."""
        loading = defaults("loading")
        turned = {
            name: value
            for name, value in self.load_values.items()
            if value != loading[name] and KNOBS[name].group in ("RoPE", "Cache", "Live adapters")
        }
        flags = shlex.join(flag_words(turned))
        self._open_measure(f"{self.wanted_name} {flags}".strip())

    def _open_measure(self, model: str, *, fresh: bool = False) -> None:
        from localknobs.tui.screens.measure import MeasureScreen

        self.app.push_screen(MeasureScreen(model, fresh=fresh))

    def action_diagnose(self) -> None:
        """Go from what is seen to the first lever, with the model, the knobs and the last prompt of the chat."""
        from localknobs.tui.screens.diagnose import DiagnoseScreen

        asked = next((node.text for node in reversed(self.conversation.branch()) if node.role == "user"), "")
        sampling, loading = (
            {name: value for name, value in values.items() if value != defaults(group)[name]}
            for group, values in (("sampling", self.sampler.values), ("loading", self.load_values))
        )
        self.app.push_screen(DiagnoseScreen(self.wanted_name, asked, sampling, loading), self._remedied)

    def _remedied(self, chosen: Remedied | None) -> None:
        if chosen is None:
            return
        if chosen.action:
            self._go(chosen.action)
            return
        before = {**self.sampler.values, **self.load_values}
        wanted = {
            name: check_value(name, tuple(value) if isinstance(value, list) else value)  # JSON knows no tuples
            for name, value in chosen.values.items()
        }
        changes = {name: value for name, value in wanted.items() if value != before[name]}
        sampling = {name: value for name, value in changes.items() if name not in self.load_values}
        for name, value in sampling.items():
            self.sampler.set(name, value)
        if self.answer:
            self.bridge.set_sampler(sampling)
        for name, value in changes.items():
            if name in self.load_values:
                self.load_values[name] = value
        self.show_knobs()
        said = ", ".join(f"{KNOBS[name].label} {KNOBS[name].show(value)}" for name, value in changes.items())
        self.notify(f"Set: {said}." if said else "The knobs stand so already.")
        if self.reload_pending:
            self.use_model(self.wanted_name)

    async def action_context(self) -> None:
        """Choose how far the model is to see, and by what means."""
        from localknobs.tui.screens.context import ContextScreen

        try:
            header = read_header(find_model(self.wanted_name))
            check_is_model(header)
        except LocalknobsError as error:
            await self.show_error(error)
        else:
            self.app.push_screen(ContextScreen(header, self.load_values), self._context_chosen)

    def _context_chosen(self, chosen: ContextChosen | None) -> None:
        if chosen is None:
            return
        self.load_values.update(chosen.values)
        self.show_knobs()
        if chosen.model or self.reload_pending:
            self.use_model(chosen.model or self.wanted_name)

    def action_chats(self) -> None:
        """Choose a saved conversation."""
        choices = []
        self._titles = {}
        for entry in saved_conversations():
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed))
            detail = f"{when} · {entry.messages} messages" + (" · interrupted" if entry.interrupted else "")
            choices.append(Choice(str(entry.path), entry.title, detail))
            self._titles[str(entry.path)] = entry.title
        if not choices:
            self.notify("There is no saved conversation yet; every conversation is saved as it is written.")
            return
        picker = Picker("Saved conversations", choices, chosen=str(self.conversation.path), deletable=True)
        self.app.push_screen(picker, self._chat_chosen)

    async def _chat_chosen(self, path: str | None) -> None:
        if not path:
            return
        deleted = path.removeprefix("delete:")
        if deleted != path:
            self._delete_chat(Path(deleted))
            return
        if Path(path) == self.conversation.path:
            return
        try:
            conversation = Conversation(Path(path))
        except LocalknobsError as error:
            await self.show_error(error)
        else:
            self.open_conversation(conversation)

    def _delete_chat(self, path: Path) -> None:
        def confirmed(choice: str | None) -> None:
            if choice == "delete":
                self._delete(path)
            else:
                self.action_chats()

        title = self._titles.get(str(path), path.name)
        choices = [Choice("keep", "Keep it"), Choice("delete", "Delete it", "this cannot be undone")]
        self.app.push_screen(Picker(f"Delete the conversation “{title}”?", choices), confirmed)

    @after_the_answer
    async def _delete(self, path: Path) -> None:
        if path == self.conversation.path:
            self.conversation.close()
            self.conversation = self.empty_conversation()
            await self.show_conversation()
        delete_conversation(path)
        self.action_chats()

    def action_new_chat(self) -> None:
        """Start a new conversation."""
        if not self.at_root:
            self.open_conversation(self.empty_conversation())

    def action_presets(self) -> None:
        """Choose a preset."""
        known = presets(self.sampler.recommended).values()
        choices = [Choice(entry.name, entry.name, entry.help) for entry in known]
        picker = Picker("Presets", choices, chosen=self.sampler.preset.name, deletable=True)
        self.app.push_screen(picker, self._preset_chosen)

    def _preset_chosen(self, name: str | None) -> None:
        if name and name.startswith("delete:"):
            try:
                delete_preset(name.removeprefix("delete:"))
            except LocalknobsError as error:
                self.notify(str(error), severity="error")
            self.action_presets()
        elif name:
            self.use_preset(name)

    def use_preset(self, name: str) -> None:
        """Take a preset."""
        raise NotImplementedError

    def on_preset_row_choose(self, _event: PresetRow.Choose) -> None:
        """Open the list of presets."""
        self.action_presets()

    # ---- writing ------------------------------------------------------------------------------

    def action_save_preset(self) -> None:
        """Save the knobs under a name."""
        note = "Keeps every sampling knob as it is now. Letters, digits, - and _. F8 lists and deletes presets."
        dialog = TextDialog("Save as preset", note=note, several_lines=False, check=check_preset_name)
        self.app.push_screen(dialog, self._preset_saved)

    def _preset_saved(self, name: str | None) -> None:
        if name:
            try:
                self.sampler.save(name)
            except LocalknobsError as error:
                self.notify(str(error), severity="error")
            else:
                self.notify(f"Saved as the preset {name}.")
            self.show_knobs()

    def action_system(self) -> None:
        """Change the system prompt."""

        def changed(text: str | None) -> None:
            if text is None:
                return
            try:
                self.conversation.instruct(text.strip())
            except LocalknobsError as error:
                self.notify(str(error), severity="error")
            else:
                used = "The system prompt is used from the next answer on." if text.strip() else "No system prompt."
                self.notify(used)

        note = "What the model is told before the conversation. Empty for none."
        self.app.push_screen(TextDialog("System prompt", self.conversation.system, note=note), changed)

    def on_knob_row_opened(self, event: KnobRow.Opened) -> None:
        """Type a knob's value."""
        if event.knob_row.row.name == "model_draft":
            self.run_worker(self._choose_draft(event.knob_row), group="draft", exclusive=True,
                            description="looking for draft models", exit_on_error=False)  # fmt: skip
        else:
            edit_knob(self.app, event.knob_row)

    async def _choose_draft(self, knob_row: KnobRow) -> None:
        """Choose a draft model; the smallest first, as a draft pays by being fast.

        The folders are read in a thread: a disk may be slow. Who has gone elsewhere meanwhile is left alone.
        """
        found = (await asyncio.to_thread(list_models)).entries
        if self.app.screen is not self:
            return
        models = sorted((one for one in found if one.usable), key=lambda one: one.size_bytes)
        choices = [Choice("none", "None", "nobody guesses, or the text itself does (drafts: ngram)")]
        for one in models:
            detail = f"{size_text(one.size_bytes)} · {one.architecture} · {one.quant}"
            choices.append(Choice(one.argument, one.name, detail))
        note = f"{knob_row.row.help} One whose tokens are others is refused when it is loaded. Ctrl+L loads."

        def chosen(name: str | None) -> None:
            if name is None:
                return
            knob_row.take("" if name == "none" else name)
            draft = self.query_one("#knob-draft", KnobRow)
            if name != "none" and draft.value == "none":
                draft.change("auto")  # naming one means wanting it where it pays, as on the command line

        self.app.push_screen(Picker("Draft model", choices, note=note, chosen=str(knob_row.value)), chosen)

    async def on_message_view_asked(self, event: MessageView.Asked) -> None:
        """Do what was asked with a message."""
        node = event.view.node
        if event.what == "copy":
            self.app.copy_to_clipboard(node.text)
            self.notify("Copied.")
        elif event.what == "regenerate":
            self.regenerate(node)
        elif event.what == "go_on":
            await self._go_on(node)
        elif event.what == "edit":
            self._edit(node)

    async def _go_on(self, node: Node) -> None:
        if node.role != "assistant" or node.id != self.conversation.leaf:
            self.notify("Only the last answer can be continued; e edits this one into a branch that goes on.")
        elif self.answer is None:
            self.begin_answer(continued=node)

    def _edit(self, node: Node) -> None:
        async def edited(text: str | None) -> None:
            if text is not None and text.strip() and (text != node.text or node.role == "assistant"):
                self.replace(node, text if node.role == "assistant" else text.strip())

        if node.role == "user":
            title, note = "Edit your message", "It is answered anew as a branch; the old one stays (← → on it)."
        else:
            title, note = (
                "Edit the answer",
                "The model goes on from the end of your text, as a branch; the old one stays.",
            )
        self.app.push_screen(TextDialog(title, node.text, note=note), edited)

    def action_save_text(self) -> None:
        """Write the conversation as Markdown into a file."""

        def named(name: str | None) -> None:
            if not name:
                return
            target = user_path(name)
            try:
                with target.open("x", encoding="utf-8") as file:
                    file.write(plain_text(self.conversation.branch()))
            except FileExistsError:
                self.notify(f"{target} exists already; choose another name.", severity="error")
            except OSError as error:
                self.notify(f"{target} cannot be written: {error.strerror}", severity="error")
            else:
                self.notify(f"Written to {target}.")

        self.app.push_screen(TextDialog("Save the conversation as Markdown", "chat.md", several_lines=False), named)

    # ---- reading ------------------------------------------------------------------------------

    def action_help(self) -> None:
        """Show the card of the focused knob, or every key."""
        show_help(self, "Help", self.key_sections())

    def key_sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Return the help page's sections: heading, then (key, what it does) pairs."""
        raise NotImplementedError

    def action_levers(self) -> None:
        """Show the cards of levers and knobs, beginning with that of the focused knob."""
        from localknobs.tui.screens.cards import CardsScreen

        first = self.focused.row.name if isinstance(self.focused, KnobRow) else ""
        first = first if first in KNOBS or not first else "lora"  # the slider of one adapter
        self.app.push_screen(CardsScreen({**self.sampler.values, **self.load_values}, first), self._turn)

    def _turn(self, name: str | None) -> None:
        """Go to a knob in the panel."""
        if name and self.query(KnobPanel):
            self.set_class(True, "-knobs")
            self.set_class(False, "-no-knobs")
            self.call_after_refresh(lambda: self.query_one(f"#knob-{name}", KnobRow).focus())
