"""The part of the chat screen that writes answers: from a sent message to a finished, saved answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from textual.screen import Screen
from textual.worker import Worker, WorkerState

from localknobs.conversations import ROOT, Conversation, Node
from localknobs.engine import ContextDropped, Noted, SamplerChanged, TokensScored
from localknobs.engine.adapter_rack import AdapterRack
from localknobs.engine.controls import Plan
from localknobs.engine.events import draft_status
from localknobs.errors import ContextFull, EngineDied, LocalknobsError
from localknobs.knobs import KNOBS, Value
from localknobs.knobs.overflow import DROPS
from localknobs.sampler_state import SamplerState
from localknobs.tui.bridge import Answer, AnswerEnded, AnswerGrew, Bridge, Pace, PromptProgressed, as_ours
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.widgets.status_line import StatusLine
from localknobs.tui.widgets.transcript import Transcript

P = ParamSpec("P")
ScreenKind = TypeVar("ScreenKind", bound="AnsweringScreen")


def after_the_answer(
    method: Callable[Concatenate[ScreenKind, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[ScreenKind, P], None]:
    """Let a method run once the answer being written is stopped and saved, and let it show what goes wrong.

    It runs in a task of its own: the screen must go on taking what comes, or it would wait for itself.
    """

    @wraps(method)
    def started(screen: ScreenKind, /, *arguments: P.args, **named: P.kwargs) -> None:
        async def run() -> None:
            await screen.stop_and_wait()
            try:
                await method(screen, *arguments, **named)
            except LocalknobsError as error:
                await screen.show_error(error)

        description = "changing the conversation"
        screen.run_worker(run(), group="change", exclusive=True, description=description, exit_on_error=False)

    return started


class AnsweringScreen(Screen[None]):
    """Holds a conversation and writes answers into it; the chat screen adds the knobs and the dialogs.

    Attributes:
        conversation: The one that is shown.
        sampler: Sampling values in use.
        load_values: Values of the loading knobs.
        model_name: What the user calls the model.
        answer: The answer being written, None when there is none.
        last_answer: The same, or the last one that was: the engine can look back at it.
    """

    wants_scores = False
    """Whether answers tell how sure the model was of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.bridge = Bridge(self.post_message)
        self.conversation = Conversation()
        self.sampler = SamplerState()
        self.load_values: dict[str, Value] = {}
        self.model_name = ""
        self.answer: Answer | None = None
        self.last_answer: Answer | None = None
        self._ended = asyncio.Event()
        self._ended.set()
        self._waiting: Callable[[], None] | None = None  # what is to be done once the model is there
        self._told: set[str] = set()
        self._pace = Pace()

    @property
    def transcript(self) -> Transcript:
        """The messages."""
        return self.query_one(Transcript)

    @property
    def status(self) -> StatusLine:
        """The line of numbers."""
        return self.query_one(StatusLine)

    # ---- starting -----------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """Add a message of the user's and answer it."""
        node = self.conversation.add("user", text)
        if self.conversation.unsaved:
            self._note(Noted(self.conversation.unsaved, "warning"))
        await self.transcript.forget_notices()
        await self.transcript.add(self.conversation, node, self.model_name)
        self.begin_answer()

    def begin_answer(self, continued: Node | None = None, beginning: tuple[int, ...] = ()) -> None:
        """Answer the branch as it is, or go on with its last answer; waits for the model when it still loads.

        Args:
            continued: The answer to go on with.
            beginning: Tokens with which the answer begins: a branch of the one before.
        """
        if not self.bridge.ready:
            self._waiting = partial(self.begin_answer, continued)  # without the tokens: the model may be another one
            self.status.activity = "waiting for the model …"
            return
        self._waiting = None
        self._pace = Pace()
        answer = self.answer = self.last_answer = Answer(self.conversation, self.model_name, continued)
        answer.adapters = self.adapters_in_use()
        self._ended.clear()
        self.status.trouble = ""
        self.status.activity = "reading the prompt …"
        self.refresh_bindings()
        self.bridge.answer(
            answer,
            self.conversation.messages(),
            dict(self.sampler.values),
            {name: value for name, value in self.load_values.items() if KNOBS[name].applies == "next answer"},
            Plan(beginning=beginning, score=self.wants_scores),
            continue_last=continued is not None,
        )

    async def stop_and_wait(self) -> None:
        """Stop the answer being written and wait for its end, which is saved like any other."""
        if self.answer:
            self.bridge.stop(self.answer)
            await self._ended.wait()

    # ---- what comes ---------------------------------------------------------------------------

    def on_prompt_progressed(self, event: PromptProgressed) -> None:
        """Show how much of the prompt is read."""
        if event.answer is self.answer and event.progress.done < event.progress.total:
            self.status.activity = f"reading the prompt, {event.progress.done:,} of {event.progress.total:,} tokens"

    async def on_answer_grew(self, event: AnswerGrew) -> None:
        """Save and show what came, then look again after a moment until nothing more has come."""
        if not self.query(Transcript):
            return  # the screen is being closed
        answer = event.answer
        if await self._take(answer):
            self.set_timer(self._pace.next_pause_s(), partial(self.post_message, AnswerGrew(answer)))

    async def _take(self, answer: Answer) -> bool:
        """Save and show what came of an answer; return whether there was anything."""
        pieces = answer.take()
        node = await self._node_of(answer) if pieces else None
        if node is None:
            return False
        view = self.transcript.view_of(node)
        for piece in pieces:
            if isinstance(piece, str):
                await self._save(answer, partial(answer.conversation.grow, node, piece))
                if view:
                    await view.grow(piece)
            elif isinstance(piece, SamplerChanged):
                await self._save(answer, partial(answer.conversation.mark, node, len(node.text), piece.changes))
                if view:
                    await view.mark(piece.changes)
            elif isinstance(piece, TokensScored):
                self.take_scores(node, len(answer.begun_with), piece)
            elif isinstance(piece, ContextDropped):
                self._show_dropped(piece)
            else:
                self._note(piece)
        if answer.last and answer is self.answer:
            self.status.activity = "writing (Esc stops)"
            self._show_speed(answer.last.tokens_per_s, answer.first_text_s)
            last = answer.last
            self.status.drafts = draft_status(str(self.load_values["draft"]), last.drafted_tokens, last.accepted_tokens)
            self.status.context = (answer.last.context_used, self.status.context[1])
        return True

    def take_scores(self, node: Node, offset: int, scored: TokensScored) -> None:
        """Keep how sure the model was of the tokens of an answer, whose text begins at `offset` of the message."""

    def _show_dropped(self, dropped: ContextDropped) -> None:
        """Show on the meter what is held; the first time in a conversation it is said in words too."""
        if self.status.dropped is None:
            self.notify(f"{dropped.text} F6 changes what happens.", severity="warning", timeout=10)
        self.status.dropped = dropped

    def _show_speed(self, tokens_per_s: float, first_token_s: float) -> None:
        self.status.speed = f"{tokens_per_s:,.0f} tokens/s, first {first_token_s * 1000:,.0f} ms"

    async def on_answer_ended(self, event: AnswerEnded) -> None:
        """Save how an answer ended, and say what the user can do about it when that was no good end."""
        answer, finished = event.answer, event.finished
        await self._take(answer)
        if finished and (node := await self._node_of(answer)):
            stats = {**asdict(finished.stats), "model": answer.model, "adapters": list(answer.adapters)}
            await self._save(answer, partial(answer.conversation.finish, node, finished.reason, stats))
        view = self.transcript.view_of(answer.node) if answer.node else None
        if view:
            await view.finish()
        self.answer = None
        self._ended.set()
        self.status.activity = ""
        if finished:
            counts = finished.stats
            self.status.context = (counts.context_used, counts.context_size)
            self._show_speed(counts.tokens_per_s, counts.time_to_first_token_s)
            drafted, accepted = counts.drafted_tokens, counts.accepted_tokens
            self.status.drafts = draft_status(str(self.load_values["draft"]), drafted, accepted, counts.draft_gain)
        self.refresh_bindings()
        if event.error:
            await self.show_error(event.error)
        elif finished and finished.reason == "context" and answer.conversation is self.conversation:
            self.offer_room(f"The context is full: {finished.stats.context_size:,} tokens. The answer stops here.")

    async def _node_of(self, answer: Answer) -> Node | None:
        """Return the answer's message, added and shown when it is not there yet; None when it cannot be saved."""
        if answer.node is None and not answer.unsaved:
            try:
                answer.node = answer.conversation.add("assistant", "")
            except LocalknobsError as error:
                answer.unsaved = True
                self.bridge.stop(answer)
                await self.show_error(error)
            else:
                if answer.conversation is self.conversation:
                    await self.transcript.add(self.conversation, answer.node, self.model_name, growing=True)
        return answer.node

    async def _save(self, answer: Answer, write: Callable[[], None]) -> None:
        """Write a part of an answer; what the disk refuses stays on the screen, and that is said once."""
        try:
            write()
        except LocalknobsError as error:
            if not answer.unsaved:
                answer.unsaved = True
                await self.show_error(error)

    def _note(self, note: Noted) -> None:
        if note.text in self._told:
            return  # such as that there is no chat template: true of every answer, said once a model
        self._told.add(note.text)
        self.notify(note.text, severity="warning" if note.level == "warning" else "information", timeout=8)

    async def show_error(self, error: LocalknobsError) -> None:
        """Say what went wrong and what to do."""
        if isinstance(error, ContextFull):
            self.offer_room(f"{error.message}. Nothing was cut.")
        elif isinstance(error, EngineDied):
            log = "\n".join(error.log_tail[-4:])
            await self.transcript.say(
                f"{error.message}. {error.hint}\nCtrl+R answers again with a fresh engine.\n{log}".rstrip(), error=True
            )
        else:
            await self.transcript.say(str(error), error=True)

    def offer_room(self, title: str) -> None:
        """Let the user choose what happens when the context is full; nothing is dropped unasked."""
        if self.app.screen is not self:
            self.notify(f"{title} Ctrl+N begins a new conversation.", severity="warning", timeout=10)
            return
        size = self.status.context[1]
        choices = [
            Choice("keep", "Leave it as it is"),
            Choice("new", "Start a new conversation", "this one stays saved"),
            Choice("larger", f"Load the model again with {2 * size:,} tokens of context", "takes more memory"),
            Choice("edit", "Shorten the last message", "edit it and send it again"),
            *(Choice(name, f"From now on: {name}", text) for name, text in DROPS),
        ]
        self.app.push_screen(Picker(title, choices), self._make_room)

    async def _make_room(self, choice: str | None) -> None:
        branch = self.conversation.branch()
        unanswered = branch[-1] if branch and branch[-1].role == "user" else None
        if choice in dict(DROPS):
            self.load_values["context_full"] = choice
            self.show_knobs()
            self.begin_answer(continued=None if unanswered else branch[-1])
        elif choice == "new":
            await self.run_action("new_chat")
        elif choice == "larger":
            self.load_with_context(2 * self.status.context[1])
            if unanswered:
                self._waiting = self.begin_answer
        elif choice == "edit":
            last = next((view for view in reversed(self.transcript.views) if view.node.role == "user"), None)
            if last:
                last.action_act("edit")
        elif unanswered:
            # A message that does not fit must not stay in the way of a shorter one.
            self.take_back(unanswered)

    def show_knobs(self) -> None:
        """Show the values of all knobs."""
        raise NotImplementedError

    def adapters_in_use(self) -> tuple[str, ...]:
        """Return the adapters that the next answer is written with, as `FILE:SCALE`."""
        return AdapterRack.of(self.load_values).acting()

    def load_with_context(self, tokens: int) -> None:
        """Load the model again with another context size."""
        raise NotImplementedError

    def take_back(self, node: Node) -> None:
        """Take an unanswered message out of the conversation and into the composer."""
        raise NotImplementedError

    # ---- other branches -----------------------------------------------------------------------

    @after_the_answer
    async def regenerate(self, node: Node | None = None) -> None:
        """Answer again: the given message, or the last one of the user's. The old answer stays as a branch."""
        self._waiting = None
        branch = self.conversation.branch()
        at = branch.index(node) if node in branch else len(branch) - 1
        while at >= 0 and branch[at].role != "user":
            at -= 1
        if at < 0:
            self.notify("There is nothing to answer yet: write a message first.")
            return
        self.conversation.rewind(branch[at].id)
        await self.show_conversation()
        self.begin_answer()

    @after_the_answer
    async def replace(self, node: Node, text: str) -> None:
        """Put an edited text beside a message as a branch of its own, and answer it, or go on with it."""
        self._waiting = None
        self.conversation.rewind(node.parent)
        added = self.conversation.add(node.role, text)
        await self.show_conversation()
        self.begin_answer(continued=added if node.role == "assistant" else None)

    @after_the_answer
    async def show_branch(self, node: Node, direction: int) -> None:
        """Show the next or previous alternative at a message."""
        self._waiting = None
        alternatives = self.conversation.siblings(node)
        if len(alternatives) < 2:
            self.notify("There is no other branch here; e edits a message into one, r answers again.")
            return
        chosen = alternatives[(alternatives.index(node) + direction) % len(alternatives)]
        self.conversation.show(chosen)
        await self.show_conversation()
        if view := self.transcript.view_of(chosen):
            view.focus()

    async def show_conversation(self) -> None:
        """Lay out the conversation's shown branch."""
        self.status.dropped = None  # told again where it is dropped again
        await self.transcript.show(self.conversation, self.model_name)

    @after_the_answer
    async def open_conversation(self, conversation: Conversation) -> None:
        """Go on with another conversation."""
        self._waiting = None
        left, self.conversation = self.conversation, conversation
        left.close()
        self.status.context = (0, self.status.context[1])
        self.status.speed = self.status.drafts = ""
        await self.show_conversation()
        names = [one.path.stem if one.nodes else "" for one in (left, conversation)]
        if note := await asyncio.to_thread(self.bridge.change_caches, str(self.load_values["park_cache"]), *names):
            self.notify(note, severity="warning", timeout=8)
        if conversation.model and conversation.model != self.model_name and not self.at_root:
            self.notify(f"This was written with {conversation.model}; {self.model_name} goes on with it.")

    def empty_conversation(self) -> Conversation:
        """Return a new conversation with the same model and system prompt."""
        return Conversation(model=self.conversation.model, system=self.conversation.system)

    @after_the_answer
    async def forget(self, node: Node) -> None:
        """Take a message out of the shown branch."""
        self._waiting = None
        self.conversation.rewind(node.parent)
        self.status.activity = ""
        await self.show_conversation()

    @property
    def at_root(self) -> bool:
        """Whether the conversation is still empty."""
        return self.conversation.leaf == ROOT

    async def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show a failure of ours, which no handler foresaw, instead of letting it kill the screen."""
        if event.state is WorkerState.ERROR and isinstance(event.worker.error, Exception):
            await self.show_error(as_ours(event.worker.error, event.worker.description))
