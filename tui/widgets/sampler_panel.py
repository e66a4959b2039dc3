"""The sampler view: the stages of the chain, and the candidates for one token before and after it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Static

from localknobs.engine.view import MOVABLE, SamplerView
from localknobs.tui.sampler_text import candidate_line, heading, stage_line
from localknobs.tui.widgets.lines import Lines

NOTHING = "Write a message: then every token of the answer can be looked at here. n looks at the next token."

PLACE_KEYS: list[BindingType] = [
    Binding("left", "screen.look_place(-1)", "Token before, after", key_display="← →"),
    Binding("right", "screen.look_place(1)", "Next token", show=False),
    Binding("home", "screen.look_place(-1000000)", "First token", show=False),
    Binding("end", "screen.look_place(1000000)", "Last token", show=False),
    Binding("n", "screen.look_place(0)", "What comes next"),
]
"""On both lists themselves: the containers around them take these keys for scrolling."""


class Stages(Lines):
    """The chain, first to last."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("shift+up,K", "shift(-1)", "Earlier", key_display="⇧↑ ⇧↓"),
        Binding("shift+down,J", "shift(1)", "Later", show=False),
        Binding("enter", "pick", "Its knob"),
        *PLACE_KEYS,
    ]

    class Shifted(Message):
        """The user moves a stage up or down."""

        def __init__(self, index: int, direction: int) -> None:
            super().__init__()
            self.index, self.direction = index, direction

    def action_shift(self, direction: int) -> None:
        """Move the stage under the cursor."""
        self.post_message(self.Shifted(self.cursor, direction))


class Candidates(Lines):
    """What could come."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "pick", "Branch here"),
        *PLACE_KEYS,
    ]


class SamplerPanel(Vertical):
    """Both lists, under a line that says which token they are about."""

    DEFAULT_CSS = """
    SamplerPanel {
        height: 50%; border-top: hkey $surface-lighten-1; padding: 0 1;
        & .about { height: 1; color: $text-muted; }
        & .headings { height: 1; color: $text-muted; text-style: bold; }
        & VerticalScroll { scrollbar-size-vertical: 1; }
        & #stages-side { width: 33; border-right: vkey $surface-lighten-1; }
        & #candidates-side { width: 1fr; padding-left: 1; }
        & .nothing { color: $text-muted; }
    }
    """

    class StageShifted(Message):
        """The user moves a stage of the chain, named by its sampler."""

        def __init__(self, name: str, direction: int) -> None:
            super().__init__()
            self.name, self.direction = name, direction

    class StageChosen(Message):
        """The user wants to see the knob of a stage."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class BranchAsked(Message):
        """The user wants the answer to go on with this token here."""

        def __init__(self, place: int, token: int) -> None:
            super().__init__()
            self.place, self.token = place, token

    def __init__(self) -> None:
        super().__init__()
        self.view: SamplerView | None = None
        self._followed = ""  # the stage that the cursor stays on while it moves

    def compose(self) -> ComposeResult:
        """Lay out both lists."""
        yield Static(NOTHING, classes="about", markup=False)
        with Horizontal():
            with Vertical(id="stages-side"):
                yield Static("stage         left taken/moved", classes="headings", markup=False)
                with VerticalScroll(can_focus=False):
                    yield Stages()
            with Vertical(id="candidates-side"):
                yield Static(" token        before      after", classes="headings", markup=False)
                with VerticalScroll(can_focus=False):
                    yield Candidates()

    def show(self, view: SamplerView | None, trouble: str = "") -> None:
        """Show a view, or why there is none."""
        self.view = view
        theme = self.app.theme_variables
        stages, candidates = self.query_one(Stages), self.query_one(Candidates)
        if view is None:
            self.query_one(".about", Static).update(trouble or NOTHING)
            stages.show([])
            candidates.show([])
            return
        self.query_one(".about", Static).update(heading(view))
        stages.show([stage_line(stage, theme) for stage in view.stages])
        candidates.show([candidate_line(view, one, theme) for one in view.candidates])
        names = [stage.name for stage in view.stages]
        if self._followed in names:
            stages.cursor = names.index(self._followed)
        self._followed = ""

    def focus_list(self) -> None:
        """Focus the candidates."""
        self.query_one(Candidates).focus()

    def on_stages_shifted(self, event: Stages.Shifted) -> None:
        """Name the stage that is moved."""
        name = self.view.stages[event.index].name if self.view and self.view.stages else ""
        if name in MOVABLE:
            self._followed = name
            self.post_message(self.StageShifted(name, event.direction))
        else:
            self.notify("Only samplers of the list can be moved; logit bias, grammar and the draw have their place.")

    def on_lines_picked(self, event: Lines.Picked) -> None:
        """Say what was chosen."""
        event.stop()
        if self.view is None:
            return
        if isinstance(event.lines, Stages):
            self.post_message(self.StageChosen(self.view.stages[event.index].name))
        else:
            self.post_message(self.BranchAsked(self.view.place, self.view.candidates[event.index].token))
