"""The A/B screen: the same prompt to two models or settings, both answers side by side, blind if wished, and votes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from localknobs.ab.side import drawn_order, drawn_seed
from localknobs.ab.votes import Tally, Vote, keep_vote
from localknobs.engine import Message as Turn
from localknobs.library import BUILT_IN, list_models
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.bridge import Pace, as_ours
from localknobs.tui.cards import keys_help
from localknobs.tui.contest import Contest, SideEnded, SideGrew, SidesPriced, SideTold
from localknobs.tui.screens.info import Info
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.duel import Histories, TurnView
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.side_setup import SideSetup, SidesRead, read_sides
from localknobs.tui.widgets.turns import Turns
from localknobs.tui.widgets.vote_bar import VoteBar
from localknobs.units import size_text

ABOUT = """\
Both sides get the same prompt and the same seed. Each goes on from its own answers.

- **Blind:** which answer stands left is drawn anew for every prompt, and shown when you have voted; until then the
  numbers are hidden, and both texts appear at the pace of the slower.
- **At once or in turn:** two that answer at once share the processor's cores; in turn each has all of them, and its
  speed is its own.
- Votes are kept with prompt, seed and answers. `localknobs ab` prints them, `localknobs show MODEL` those of a model.
  The conversation itself is not saved.
"""


@dataclass
class VoteKept(Message):
    """A vote was written: what all votes say now, or why it could not be kept."""

    contest: Contest
    tally: Tally | None
    trouble: str = ""


class ABScreen(Screen[None]):
    """Two sides.

    Args:
        model: The model that both begin with.
        make_room: Frees the memory of the chat's model where both sides need it; says whether it did.
    """

    DEFAULT_CSS = """
    ABScreen {
        & #title { height: auto; padding: 0 1; text-style: bold; }
        & SideSetup { display: none; margin-top: 1; }
        &.-setup SideSetup { display: block; }
        &.-setup Composer, &.-setup #turns, &.-setup #tally, &.-setup #doing { display: none; }
        & #tally { height: auto; padding: 0 2; }
        & #doing { height: auto; padding: 0 2; color: $text-accent; }
        & VoteBar { display: none; }
        &.-voting VoteBar { display: block; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("f1", "help", "Help", "every key, and what this is", first=True),
        Action("ctrl+l", "load", "Load", "load both sides and begin", first=True),
        Action("f2", "sides", "Sides", "change the two sides"),
        Action("f3", "choose", "Choose a model", "put a model of this machine into the field"),
        Action("f4", "blind", "Blind", "hide which answer is whose until you have voted, or no more"),
        Action(
            "f5",
            "order",
            "At once/in turn",
            "let both answer at once, or one after the other with all cores",
            in_footer=False,
        ),
        Action("ctrl+r", "again", "Again", "the last prompt once more, with another seed"),
        Action("ctrl+n", "new", "New", "begin anew; votes stay"),
        Action("escape", "back", "Stop / back", "stop the answers; give no vote; else go back to the chat", first=True),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]

    def __init__(self, model: str = BUILT_IN, make_room: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._first = (model, f"{model} --temp 1.2")
        self._make_room = make_room
        self.contest: Contest | None = None
        self.blind = False
        self._histories: Histories = ((), ())
        self._turn: TurnView | None = None
        self._settled: set[int] = set()  # sides that are loaded, or could not be
        self._pace = Pace()
        self._waiting = ""  # a prompt that waits for the models
        self._leave_asked = False

    def compose(self) -> ComposeResult:
        """Lay out title, fields, answers, the vote and the message box."""
        yield Static(id="title", markup=False)
        yield SideSetup(*self._first)
        yield Turns(id="turns")
        yield Static(id="tally", markup=False)
        yield Static(id="doing", markup=False)
        yield VoteBar()
        yield Composer("The same message to both. Enter sends, Ctrl+J begins a new line.")
        yield KeyFooter()

    def on_mount(self) -> None:
        """Begin with the choice of the sides, which takes the focus."""
        self.add_class("-setup")
        self._show_title()

    def on_unmount(self) -> None:
        """End both engines."""
        if self.contest:
            self.contest.close()

    # ---- what is shown ------------------------------------------------------------------------

    def _say(self, place: str, text: str) -> None:
        line = self.query_one(place, Static)
        line.update(printable(text))
        line.display = bool(text)

    def _show_title(self) -> None:
        if self.has_class("-setup"):
            blind = "on: you see which answer is whose when you have voted" if self.blind else "off"
            title = f"A/B: two models, or one with two settings, answer the same prompt\nBlind: {blind} (F4)"
        elif self.blind or not self.contest:
            title = "A/B, blind: vote, and you see which answer is whose"
        else:
            title = "\n".join(f"{name}: {side.label}" for name, side in zip("AB", self.contest.sides, strict=True))
        self._say("#title", title)
        self.refresh_bindings()

    def _show_tally(self, tally: Tally | None) -> None:
        self._say("#tally", f"Votes: {tally.text()}" if tally and tally.votes else "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what belongs to the part that is shown."""
        setup = self.has_class("-setup")
        if action in ("load", "choose"):
            return setup
        if action in ("sides", "order", "new"):
            return not setup
        return bool(self._turn) and not setup if action == "again" else True

    # ---- the sides ----------------------------------------------------------------------------

    def action_sides(self) -> None:
        """Choose the sides."""
        if self._writing:
            self.notify("Both sides are still writing. Esc stops them.", severity="warning")
            return
        self._end_vote()
        self.add_class("-setup")
        self.query_one(SideSetup).focus_last()
        self._show_title()

    @work(exclusive=True, group="choose", exit_on_error=False)
    async def action_choose(self) -> None:
        """Choose a model from the list; the folders are read in a thread, as a disk may be slow."""
        entries = (await asyncio.to_thread(list_models)).entries
        choices = [
            Choice(one.argument, one.name, f"{size_text(one.size_bytes)} · {one.quant}")
            for one in entries
            if one.usable
        ]

        def chosen(name: str | None) -> None:
            if name:
                self.query_one(SideSetup).put(name)

        self.app.push_screen(Picker("Models", choices, note="It takes the place of the field's; flags stay."), chosen)

    def action_load(self) -> None:
        """Load both sides."""
        self.query_one(SideSetup).accept()

    def on_side_setup_ready(self, event: SideSetup.Ready) -> None:
        """Read both sides in a thread, then load them."""
        self.query_one(SideSetup).say("reading …")
        self._read(event.texts)

    @work(thread=True, exclusive=True, group="sides", exit_on_error=False)
    def _read(self, texts: tuple[str, str]) -> None:
        self.post_message(read_sides(texts, priced=False))

    async def on_sides_read(self, event: SidesRead) -> None:
        """Load what was read; what cannot be read is said under the fields."""
        if not event.sides:
            self.query_one(SideSetup).say(event.text)
            return
        if self.contest:
            same = [side.label for side in event.sides] == [side.label for side in self.contest.sides]
            if same and self._settled >= set(self.contest.loads_first):
                self._leave_setup()
                return
            self.contest.close()
        await self._forget_turns()
        self.contest = Contest(event.sides, self.post_message, self._make_room)
        self._settled = set()
        self._show_tally(None)
        self._leave_setup()
        self._say("#doing", "pricing both sides …")
        self.contest.load(self.query_one(SideSetup).bills)

    def _leave_setup(self) -> None:
        self.remove_class("-setup")
        self.query_one(SideSetup).say("")
        self._say("#doing", "")
        self.query_one(Composer).focus()
        self._show_title()

    async def on_sides_priced(self, event: SidesPriced) -> None:
        """Say what both take, and whether both are loaded."""
        if event.contest is not self.contest:
            return
        if event.bills is None:
            await self._complain(event.trouble)
            return
        self._show_tally(event.contest.tally)
        self._say("#doing", f"{event.bills.text} Loading …")

    async def on_side_told(self, event: SideTold) -> None:
        """Show how loading goes; what cannot be loaded is said, and the other side lives."""
        if event.contest is not self.contest:
            return
        names = "" if self.blind else f" {'AB'[event.side]}"
        if event.error:
            self._settled.add(event.side)
            await self._complain(f"{'AB'[event.side]} cannot be loaded. {event.error}")
        elif event.info:
            self._settled.add(event.side)
            if not self.blind:
                for text in event.info.notes:
                    self.notify(text, timeout=8)
        elif self._turn is None or self._turn.over:
            self._say("#doing", f"loading{names} {event.done:.0%}")
        else:
            self._turn.doing(event.side, f"loading {event.done:.0%}")
        if self._ready and not self._writing:
            self._say("#doing", "")
            waiting, self._waiting = self._waiting, ""
            if waiting:
                await self._ask(waiting)

    async def _complain(self, text: str) -> None:
        await self._turns.say(text)
        self._say("#doing", "")

    @property
    def _turns(self) -> Turns:
        return self.query_one(Turns)

    @property
    def _ready(self) -> bool:
        return self.contest is not None and self._settled >= set(self.contest.loads_first)

    @property
    def _writing(self) -> bool:
        return self._turn is not None and not self._turn.over

    # ---- a prompt -----------------------------------------------------------------------------

    async def on_composer_sent(self, event: Composer.Sent) -> None:
        """Send the prompt to both."""
        if self._writing:
            self.notify("Both sides are still writing. Esc stops them.", severity="warning")
        elif not self._ready:
            self._waiting = event.text
            self.query_one(Composer).text = ""
            self.notify("It is sent when the models are loaded. Esc takes it back.")
        else:
            self.query_one(Composer).text = ""
            await self._ask(event.text)

    def on_text_area_changed(self) -> None:
        """Who goes on writing does not leave."""
        self._leave_asked = False

    def on_composer_went_up(self) -> None:
        """Go to the answers, to scroll them."""
        self._turns.focus()

    async def _ask(self, prompt: str) -> None:
        assert self.contest is not None
        self._end_vote()
        labels = [side.label for side in self.contest.sides]
        order = drawn_order() if self.blind else (0, 1)
        turn = TurnView(prompt, drawn_seed(), labels, order, self._histories, blind=self.blind)
        self._turn, self._pace = turn, Pace()
        asked: Turn = {"role": "user", "content": prompt}
        turn.answers = self.contest.ask([[*history, asked] for history in self._histories], turn.seed)
        await self._turns.add(turn)
        self._say_doing()
        self.refresh_bindings()

    def _say_doing(self) -> None:
        if self.contest and self._turn and not self._turn.over:
            how = ", one after the other" if self.contest.in_turn else ""
            self._say("#doing", f"writing{how} … Esc stops")

    def _turn_of(self, event: SideGrew | SideEnded) -> TurnView | None:
        turn = self._turn
        ours = turn and turn.is_mounted and event.contest is self.contest and event.answer in turn.answers
        return turn if ours else None

    async def on_side_grew(self, event: SideGrew) -> None:
        """Show what came, then look again after a moment until nothing more has come."""
        turn = self._turn_of(event)
        if turn is None:
            return
        if event.done < 1:
            turn.doing(event.side, f"reading the prompt {event.done:.0%}")
        elif await turn.take(event.side):
            self.set_timer(self._pace.next_pause_s(), partial(self.post_message, event))

    async def on_side_ended(self, event: SideEnded) -> None:
        """Take an answer's end; when both are over, ask for the vote."""
        turn = self._turn_of(event)
        if turn is None:
            return
        await turn.end(event.side, event.error or event.finished)
        if not turn.over:
            return
        asked: Turn = {"role": "user", "content": turn.prompt}
        self._histories = tuple(  # type: ignore[assignment]
            (*turn.before[side], asked, Turn(role="assistant", content=turn.texts[side]))
            if turn.texts[side] else turn.before[side]
            for side in (0, 1)
        )  # fmt: skip
        self._say("#doing", "")
        if turn.can_be_voted_on:
            self.add_class("-voting")
            self.query_one(VoteBar).focus()
            self._turns.show_top(turn)
        else:
            await turn.reveal()
        self.refresh_bindings()

    def action_look(self, direction: int) -> None:
        """Scroll the answers while the vote has the focus."""
        self._turns.look(3 * direction)

    async def action_again(self) -> None:
        """Ask the last prompt once more."""
        turn = self._turn
        if turn is None or not self._ready:
            return
        if self._writing:
            self.notify("Both sides are still writing. Esc stops them.", severity="warning")
            return
        self._histories = turn.before
        await self._ask(turn.prompt)

    async def action_new(self) -> None:
        """Begin anew."""
        if self._writing:
            self.notify("Both sides are still writing. Esc stops them.", severity="warning")
        else:
            await self._forget_turns()

    async def _forget_turns(self) -> None:
        self._end_vote()
        self._turn, self._histories, self._waiting = None, ((), ()), ""
        await self._turns.begin_anew()
        self.refresh_bindings()

    def action_order(self) -> None:
        """Let both answer at once, or in turn."""
        if self.contest is None:
            return
        if self.contest.shared or self.contest.one_at_a_time:
            why = "one model serves both" if self.contest.shared else "memory is too little for both"
            self.notify(f"They answer in turn: {why}.")
            return
        self.contest.order = "in turn" if self.contest.order == "at once" else "at once"
        texts = {"at once": "Both answer at once, each with half of the cores.", "in turn": "They answer in turn."}
        self.notify(f"From the next prompt on: {texts[self.contest.order]}")

    # ---- votes --------------------------------------------------------------------------------

    def action_blind(self) -> None:
        """Hide which answer is whose, or show it."""
        self.blind = not self.blind
        self._show_title()

    async def on_vote_bar_voted(self, event: VoteBar.Voted) -> None:
        """Keep a vote, then show which answer is whose."""
        turn, contest = self._turn, self.contest
        if turn is None or contest is None or contest.contestants is None or not self.has_class("-voting"):
            return
        a, b = contest.contestants
        self._keep(
            contest,
            Vote(
                a, b, turn.choice_of(event.verdict), turn.prompt, turn.seed, (turn.texts[0], turn.texts[1]),
                turn.blind, "a" if turn.order[0] == 0 else "b", turn.number,
            ),
        )  # fmt: skip
        await turn.reveal()
        turn.choose(event.verdict)
        self._end_vote()

    @work(thread=True, group="votes", exit_on_error=False)
    def _keep(self, contest: Contest, vote: Vote) -> None:
        try:
            self.post_message(VoteKept(contest, keep_vote(vote)))
        except Exception as error:
            self.post_message(VoteKept(contest, None, str(as_ours(error, "keeping the vote"))))

    def on_vote_kept(self, event: VoteKept) -> None:
        """Show what all votes say."""
        if event.trouble:
            self.notify(event.trouble, severity="error", timeout=10)
        elif event.contest is self.contest:
            event.contest.tally = event.tally
            self._show_tally(event.tally)

    def _end_vote(self) -> None:
        """Take the question away; which answer is whose is shown."""
        if self.has_class("-voting"):
            self.remove_class("-voting")
            self.query_one(Composer).focus()
        if self._turn and self._turn.hidden and self._turn.over:
            self.call_later(self._turn.reveal)

    # ---- leaving ------------------------------------------------------------------------------

    def action_back(self) -> None:
        """Stop the answers, or give no vote, or go back."""
        if self._writing and self.contest:
            self._say("#doing", "stopping …")
            self.contest.stop()
        elif self.has_class("-voting"):
            self._end_vote()
        elif self._waiting:
            self.query_one(Composer).text, self._waiting = self._waiting, ""
        elif self.has_class("-setup") and self.contest and self._ready:
            self._leave_setup()
        elif self._turn and not self._leave_asked:
            self._leave_asked = True
            self.notify("Esc once more leaves. Votes are kept, the conversation is not.")
        else:
            self.dismiss(None)

    def action_help(self) -> None:
        """Show every key."""
        vote = ("← → t b", "vote: left, right, tie, both bad; ↑ ↓ scroll the answers")
        sections = [("On this screen", [*key_help(self.ACTIONS), vote])]
        self.app.push_screen(Info("A/B", f"{ABOUT}\n{keys_help(sections)}"))
