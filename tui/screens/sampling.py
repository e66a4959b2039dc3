"""The part of the chat screen that looks at the samplers: the view, branches, and colours along the answers."""

from __future__ import annotations

import asyncio
import threading

from localknobs.conversations import Node
from localknobs.engine import TokensScored
from localknobs.engine.client import Engine
from localknobs.errors import LocalknobsError
from localknobs.knobs import KNOBS
from localknobs.tui.bridge import AnswerEnded, AnswerGrew
from localknobs.tui.looking import Viewed
from localknobs.tui.sampler_text import legend
from localknobs.tui.screens.answering import after_the_answer
from localknobs.tui.screens.dialogs import Dialogs
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.message_view import MessageView, Score
from localknobs.tui.widgets.sampler_panel import SamplerPanel
from localknobs.tui.widgets.tint_legend import TintLegend

TINTS = ("", "confidence", "entropy")
KNOB_OF_STAGE = {
    "penalties": "repeat_penalty", "dry": "dry_multiplier", "xtc": "xtc_probability", "temperature": "temp",
    "adaptive_p": "adaptive_target",
}  # fmt: skip
"""The knob that turns a stage, where it does not have the stage's name."""


class SamplingScreen(Dialogs):
    """Shows what the samplers do. `tint` is what the answers are coloured by: nothing, confidence or entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.tint = ""
        self._place: int | None = None  # the token that is looked at; None follows the newest
        self._scores: dict[int, list[Score]] = {}  # by message

    @property
    def panel(self) -> SamplerPanel | None:
        """The sampler view, when it is open."""
        found = self.query(SamplerPanel)
        return found.first() if found else None

    @property
    def wants_scores(self) -> bool:  # type: ignore[override]
        """Whether answers tell how sure the model was of each token."""
        return bool(self.tint) or self.panel is not None

    # ---- the view -----------------------------------------------------------------------------

    async def action_samplers(self) -> None:
        """Open the sampler view, go to it, or close it when the focus is there already."""
        panel = self.panel
        if panel is None:
            panel = SamplerPanel()
            await self.query_one("#talk").mount(panel, after=self.transcript)
            self.set_class(True, "-samplers")
            self.look_again()
            panel.focus_list()
        elif not panel.has_focus_within:
            panel.focus_list()
        else:
            self.set_class(False, "-samplers")
            await panel.remove()
            self.query_one(Composer).focus()

    def look_again(self) -> None:
        """Bring the view up to date with the knobs and the answer."""
        if self.panel is not None:
            self.bridge.looker.ask(self._place, self.sampler.values)

    def on_viewed(self, event: Viewed) -> None:
        """Show what came."""
        if self.panel is not None:
            self.panel.show(event.view, event.trouble)

    def on_knob_row_changed(self, _event: KnobRow.Changed) -> None:
        """Follow the slider."""
        self.look_again()

    async def on_answer_grew(self, _event: AnswerGrew) -> None:
        """Follow the answer."""
        if self._place is None:
            self.look_again()

    async def on_answer_ended(self, _event: AnswerEnded) -> None:
        """Look at what the answer ended with."""
        self.bridge.looker.answer_ended()
        self.look_again()

    def action_look_place(self, direction: int) -> None:
        """Look at another token, so many further; 0 is the one that comes next."""
        view = self.panel and self.panel.view
        if direction == 0 or not view:
            self._place = None
        else:
            first, beyond = view.places
            place = view.place if self._place is None else self._place
            self._place = min(max(first, place + direction), beyond - 1)
        self.look_again()

    def on_sampler_panel_stage_shifted(self, event: SamplerPanel.StageShifted) -> None:
        """Change the order of the chain."""
        order = self.sampler.moved_stage(event.name, event.direction)
        if order != self.sampler.values["samplers"]:
            self.turn("samplers", order)

    def turn(self, name: str, value: object) -> None:
        """Turn a knob as if its row had been."""
        row = self.query_one(f"#knob-{name}", KnobRow)
        row.change(KNOBS[name].check(value))

    def on_sampler_panel_stage_chosen(self, event: SamplerPanel.StageChosen) -> None:
        """Go to the knob of a stage."""
        name = KNOB_OF_STAGE.get(event.name, event.name)
        if name in KNOBS:
            self.set_class(True, "-knobs")
            self.set_class(False, "-no-knobs")
            row = self.query_one(f"#knob-{name}", KnobRow)
            self.call_after_refresh(row.focus)

    def on_sampler_panel_branch_asked(self, event: SamplerPanel.BranchAsked) -> None:
        """Go on from there with another token."""
        self.branch(event.place, event.token)

    @after_the_answer
    async def branch(self, place: int, token: int) -> None:
        """Answer anew with the same tokens up to a place, and another one there; the old answer stays beside it."""
        answer, engine = self.last_answer, self.bridge.engine
        branch = self.conversation.branch()
        if engine is None or answer is None or answer.node not in branch or answer.node is not branch[-1]:
            self.notify("Only the last answer can be branched; regenerate it first (Ctrl+R).", severity="warning")
            return
        written = await asyncio.to_thread(engine.written_tokens)
        node = answer.node
        self.conversation.rewind(node.parent)
        continued = self.conversation.add("assistant", answer.begun_with) if answer.begun_with else None
        self._place = place
        await self.show_conversation()
        self.begin_answer(continued, (*written[:place], token))
        self._place = None

    # ---- colours ------------------------------------------------------------------------------

    def action_tint(self) -> None:
        """Colour the answers by confidence, then by entropy, then not."""
        self.tint = TINTS[(TINTS.index(self.tint) + 1) % len(TINTS)]
        self.query_one(TintLegend).show(legend(self.tint) if self.tint else [])
        self.show_tint()
        answer, engine = self.last_answer, self.bridge.engine
        known = answer and answer.node and answer.node.id in self._scores
        if self.tint and answer and answer.node and not known and engine and self.answer is None:
            node, offset = answer.node, len(answer.begun_with)
            threading.Thread(target=self._fetch_scores, args=(engine, node, offset), daemon=True).start()

    def _fetch_scores(self, engine: Engine, node: Node, offset: int) -> None:
        try:
            scored = engine.token_scores()
        except LocalknobsError:
            return  # another answer began meanwhile, which brings its own
        self.app.call_from_thread(self.take_scores, node, offset, scored)

    def take_scores(self, node: Node, offset: int, scored: TokensScored) -> None:
        """Keep how sure the model was of the tokens of an answer, and colour it."""
        if scored.first == 0:
            self._scores[node.id] = [(offset, -1.0, -1.0)] if offset else []
        known = self._scores.setdefault(node.id, [])
        known += [(offset + end, confidence, entropy) for end, confidence, entropy in scored.scores]
        if self.tint and (view := self.transcript.view_of(node)):
            view.show_tint(self.tint, known)

    def show_tint(self) -> None:
        """Colour what is shown, or take the colours away."""
        for view in self.query(MessageView):
            view.show_tint(self.tint, self._scores.get(view.node.id, []))

    async def show_conversation(self) -> None:
        """Lay out the conversation's shown branch, coloured."""
        await super().show_conversation()
        if self.tint:
            self.show_tint()
