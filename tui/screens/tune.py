"""The Tune screen: a base and examples become an adapter; the price first, then the curves while it is trained."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input, Static

from localknobs.jobs import JobEvent, Noted
from localknobs.knobs import Value, defaults, flag_words, knobs_of
from localknobs.library import BUILT_IN
from localknobs.paths import models_folder, user_path
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.child_job import JobEnded
from localknobs.tui.screens.info import show_help
from localknobs.tui.screens.knob_editing import edit_knob
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.wish import Wish
from localknobs.tui.screens.work_screen import PlannedWorkScreen
from localknobs.tui.training_choices import bases, checkpoint_of, data_sets, model_files
from localknobs.tui.tuning import (
    free_name,
    loss_picture,
    made_of,
    plan_text,
    rate_picture,
    read_plan,
    result_text,
    samples_text,
    state_text,
    trouble_text,
)
from localknobs.tui.widgets.field_list import FieldList
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.plot import Plot
from localknobs.tui.works import Work
from localknobs.tune.curves import CurveReader, Curves, curves_file
from localknobs.tune.stopped import StoppedRun, name_of_base, stopped_runs

READ_S = 0.5
"""How often the curves of a running training are read."""
FIELDS: tuple[tuple[str, str, str], ...] = (
    ("base", "Base", "a checkpoint's folder or name; Enter lists them"),
    ("data", "Data", "a file of examples; Enter lists some"),
    ("output", "Adapter", "a name, or a path to write to"),
    ("sample", "Ask it", "a prompt to try on the way"),
)


class TuneScreen(PlannedWorkScreen[Wish | None]):
    """Returns what is to be done with the adapter, or None."""

    DEFAULT_CSS = """
    TuneScreen {
        & #fields { width: 48; border-right: vkey $surface-lighten-1; scrollbar-size-vertical: 1; }
        & .field { height: 1; padding: 0 1; }
        & .field Static { width: 9; color: $text-muted; }
        & Input { border: none; height: 1; padding: 0 1; background: $boost; width: 1fr; }
        & Input:focus { border: none; background: $primary 25%; }
        & .heading { height: 1; padding: 0 1; margin-top: 1; color: $text-muted; text-style: bold; }
        & #right { width: 1fr; padding: 0 1; }
        & #offer { height: auto; color: $accent; }
        & #look { height: 1fr; scrollbar-size-vertical: 1; }
        & #look:focus, & #answers:focus { background: $boost; }
        & #plan, & #samples { height: auto; }
        & #state { height: auto; max-height: 12; }
        & #rate { height: 6; }
        & #answers { height: 8; border-top: hkey $surface-lighten-1; scrollbar-size-vertical: 1; }
        & #run { height: 1fr; display: none; }
        &.-run #run { display: block; }
        &.-run #look { display: none; }
        &.-narrow #fields { width: 37; }
        &.-narrow #rate { display: none; }
        &.-narrow #answers { height: 5; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("ctrl+s", "start", "Train", "train with these settings"),
        Action("ctrl+r", "resume", "Resume", "go on with a training that was stopped or killed"),
        Action("ctrl+x", "stop", "Stop", "stop the training; it can be resumed"),
        Action("ctrl+t", "chat", "Chat with it", "chat with the adapter on its base"),
        Action("ctrl+g", "forge", "Merge + quantize", "to the Forge, with base and adapter filled in"),
        Action("f2", "other_side", "Data / curves", "show the look at the data, or the curves"),
        Action("escape", "back", "Back", "go back; a training goes on, and Jobs (F7) shows it too"),
        Action("f1", "help", "Help", "every key; on a knob, its card"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(ACTIONS, priority=True),
    ]
    WORK: ClassVar[str] = "finetune"
    PLAN_PAUSE_S: ClassVar[float] = 1.0

    def __init__(self, base: str = BUILT_IN) -> None:
        super().__init__()
        self.values: dict[str, Value] = dict(defaults("fine-tuning"))
        self._base = base
        self._own_output = False  # the user named the adapter
        self._planned = False
        self._stopped: list[StoppedRun] = []
        self._reader: CurveReader | None = None
        self._log: Path | None = None

    def compose(self) -> ComposeResult:
        """Lay out fields and knobs on the left; the look at the data, or the curves, on the right."""
        data = "flags"
        texts = {"base": self._base, "data": data, "output": free_name(self._base, data, models_folder())}
        with Horizontal():
            with FieldList(id="fields"):
                for name, label, hint in FIELDS:
                    with Horizontal(classes="field"):
                        yield Static(label)
                        yield Input(texts.get(name, ""), id=name, placeholder=hint)
                groups = dict.fromkeys(row.group for row in knobs_of("fine-tuning"))
                for group in groups:
                    yield Static(group, classes="heading")
                    for row in knobs_of("fine-tuning"):
                        if row.group == group:
                            yield KnobRow(row, self.values[row.name], row.default)
            with Vertical(id="right"):
                yield Static(id="offer", markup=False)
                with VerticalScroll(id="look"):
                    yield Static(id="plan", markup=False)
                with Vertical(id="run"):
                    yield Static(id="state", markup=False)
                    yield Plot(id="losses")
                    yield Plot(id="rate")
                    with VerticalScroll(id="answers"):
                        yield Static(id="samples", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Look at what the fields say, and show the training that runs, or ran."""
        self.query_one("#base", Input).focus()
        self._find_stopped()
        self._follow(to_curves=bool(self._work or self._stopped))
        self._plan_soon()
        self.set_interval(READ_S, self._read_curves)

    # ---- the fields ---------------------------------------------------------------------------

    def _field(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value.strip()

    @property
    def _output(self) -> Path:
        """The adapter's folder: a name alone is one in the models folder."""
        return (models_folder() / user_path(self._field("output") or "adapter")).absolute()

    @staticmethod
    def _short(output: Path) -> str:
        return output.name if output.parent == models_folder().absolute() else str(output)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Look again; the adapter is named after base and data until the user names it."""
        if event.input.id == "output" and event.input.has_focus:
            self._own_output = bool(event.value.strip())
        elif event.input.id in ("base", "data"):
            self._name_output()
        if event.input.id != "sample":
            self._plan_soon()

    def _name_output(self) -> None:
        if not self._own_output:
            name = free_name(self._field("base"), self._field("data"), models_folder())
            self.query_one("#output", Input).value = name

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter lists what there is to choose from; in the other fields it goes on."""
        if event.input.id in ("base", "data"):
            self._choose(event.input)
        else:
            self.focus_next()

    @work(exclusive=True, group="choose", exit_on_error=False)
    async def _choose(self, field: Input) -> None:
        """List bases or sets of examples; the folders are read in a thread, as a disk may be slow."""
        is_base = field.id == "base"
        choices = await asyncio.to_thread(bases if is_base else data_sets)
        note = (
            "What is on this machine. `localknobs pull` fetches more; or type a path."
            if is_base
            else "What is shipped, and files of examples in this folder; or type a path."
        )

        def chosen(key: str | None) -> None:
            if key:
                field.value = key
                self.focus_next()

        listed = [Choice(*choice) for choice in choices]
        self.app.push_screen(Picker("Base" if is_base else "Data", listed, note=note, chosen=field.value), chosen)

    def on_knob_row_changed(self, event: KnobRow.Changed) -> None:
        """Take a value, and look again."""
        event.stop()
        self.values[event.row.name] = event.value
        self._plan_soon()

    def on_knob_row_refused(self, event: KnobRow.Refused) -> None:
        """Say what is allowed."""
        event.stop()
        self.notify(str(event.error), severity="error", timeout=6)

    def on_knob_row_opened(self, event: KnobRow.Opened) -> None:
        """Type or choose a value."""
        event.stop()
        edit_knob(self.app, event.knob_row)

    # ---- the look at the data -----------------------------------------------------------------

    def _arguments(self) -> list[str]:
        standard = defaults("fine-tuning")
        changed = {name: value for name, value in self.values.items() if value != standard[name]}
        data = self._field("data")
        sample = self._field("sample")
        return [
            self.WORK, self._field("base"), data, "-o", str(self._output),
            *([f"--sample={sample}"] if sample else []), *flag_words(changed), "--json",
        ]  # fmt: skip

    def _plan_soon(self) -> None:
        self._planned = False
        super()._plan_soon()

    def _make_plan(self) -> None:
        missing = [label for name, label, _ in FIELDS[:2] if not self._field(name)]
        if missing:
            text = f"Fill in on the left: {' and '.join(missing)}. Enter there lists some."
            self.query_one("#plan", Static).update(text)
            return
        self.query_one("#plan", Static).update("looking at the data …")
        self._ask_for_plan([*self._arguments(), "--dry-run"])

    def _take_plan(self, event: JobEnded) -> None:
        """Show data and price."""
        plan = read_plan(event.output) if event.code == 0 else None
        self._planned = plan is not None
        place = self.query_one("#plan", Static)
        if plan:
            place.update(plan_text(plan, f"bold {self.app.theme_variables['accent']}"))
        else:
            place.update(printable(trouble_text(event.error) or "The data cannot be looked at."))
        self._show_offer()

    # ---- the training -------------------------------------------------------------------------

    def action_start(self) -> None:
        """Train."""
        if not self._planned:
            self.set_class(False, "-run")
            self.notify("The data was not looked at yet: see on the right.", severity="warning")
        else:
            base, data = (Path(self._field(name)).name for name in ("base", "data"))
            self._train(f"{base} on {data}", self._arguments())

    def _train(self, title: str, arguments: list[str]) -> None:
        self._works.start(self.WORK, title, arguments)
        self._follow(to_curves=True)

    def action_resume(self) -> None:
        """Go on with the stopped training; with which, when there are several."""
        if len(self._stopped) == 1:
            self._resume(self._stopped[0])
            return
        choices = [Choice(str(run.output), run.output.name, f"{run.base} on {run.data}") for run in self._stopped]

        def chosen(output: str | None) -> None:
            for run in self._stopped:
                if str(run.output) == output:
                    self._resume(run)

        self.app.push_screen(Picker("Resume which training?", choices), chosen)

    def _resume(self, run: StoppedRun) -> None:
        with self.prevent(Input.Changed):
            for name, text in (("base", run.base), ("data", run.data), ("output", self._short(run.output))):
                self.query_one(f"#{name}", Input).value = text
            self.query_one("#sample", Input).value = run.samples[0] if run.samples else ""
        self._own_output = True
        self.values = {**defaults("fine-tuning"), **run.knobs}
        for knob_row in self.query(KnobRow):
            knob_row.value = self.values[knob_row.row.name]
        self._train(f"{Path(run.base).name} on {Path(run.data).name}", [*run.arguments, "--json"])

    def _heard(self, work: Work, event: JobEvent | None) -> None:
        if work is not self._work:
            return
        if isinstance(event, Noted) and event.level == "warning":
            self.notify(event.text, severity="warning", timeout=10)
        if event is None and not work.active:
            self._find_stopped()
            self._name_output()
            self._plan_soon()
            self._read_curves(at_end=True)
        self._show_state()

    def _find_stopped(self) -> None:
        """Look for trainings that were stopped, in the folders where adapters are written."""
        running = self._output_of(self._work) if self._active else None
        folders = dict.fromkeys((models_folder(), self._output.parent, Path.cwd()))
        self._stopped = [run for run in stopped_runs(folders) if run.output != running]
        self._show_offer()

    @staticmethod
    def _output_of(work: Work | None) -> Path | None:
        if work is None or "-o" not in work.arguments:
            return None
        return Path(work.arguments[work.arguments.index("-o") + 1]).absolute()

    def _show_offer(self) -> None:
        """Say what can be done next."""
        lines = []
        if self._stopped and not self._active:
            run, more = self._stopped[0], len(self._stopped) - 1
            others = f" and {more} more" if more else ""
            lines.append(f"Ctrl+R goes on with the stopped training of {run.output.name}{others}.")
        work = self._work
        if work and work.state == "done":
            lines.append("Ctrl+T chats with the adapter; Ctrl+G merges and quantizes it.")
        if self._planned and not self._active:
            lines.append("Ctrl+S trains with the settings on the left.")
        offer = self.query_one("#offer", Static)
        offer.display = bool(lines)
        offer.update(printable("\n".join(lines)))
        self.refresh_bindings()

    # ---- the curves ---------------------------------------------------------------------------

    def _follow(self, *, to_curves: bool) -> None:
        """Show the curves of the training that runs or ran last, or of the stopped one."""
        output = self._output_of(self._work) or (self._stopped[0].output if self._stopped else None)
        self._log = curves_file(output) if output else None
        self._reader = CurveReader(self._log) if self._log else None
        self.set_class(to_curves, "-run")
        self._read_curves(at_end=True)
        self._show_state()
        self._show_offer()

    @work(exclusive=True, group="curves", exit_on_error=False)
    async def _read_curves(self, *, at_end: bool = False) -> None:
        """Read and draw what is new; in a thread, as the file of a long training is long."""
        reader = self._reader
        if reader is None or not (self._active or at_end):
            return
        new = await asyncio.to_thread(reader.read)
        if reader is self._reader and (new or at_end):
            self._draw(reader.curves)

    def _draw(self, curves: Curves) -> None:
        if curves.loss:
            self.query_one("#losses", Plot).picture = loss_picture(curves)
            self.query_one("#rate", Plot).picture = rate_picture(curves)
        self.query_one("#samples", Static).update(samples_text(curves.samples))
        self._show_state()

    def _show_state(self) -> None:
        work, curves = self._work, self._reader.curves if self._reader else Curves()
        if work is None:
            text = "" if self._stopped else "Nothing was trained yet."
            if curves.loss:
                text = f"Stopped at step {curves.step:,} of {curves.steps:,}."
        elif work.active:
            text = f"{state_text(work, curves)}\nCtrl+X stops; it can be resumed. Esc leaves, and it goes on."
        elif work.state == "done":
            text = result_text(work.output)
        elif work.state == "stopped":
            text = f"{work.title}: stopped at step {curves.step:,} of {curves.steps:,}."
        else:
            text = f"{work.title}: {trouble_text(work.error) or 'it failed.'}"
        self.query_one("#state", Static).update(printable(text))
        self.refresh_bindings()

    def action_other_side(self) -> None:
        """Show the look at the data, or the curves."""
        self.toggle_class("-run")

    # ---- afterwards ---------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what is possible now."""
        if action in ("stop", "start"):
            return self._active == (action == "stop")
        if action == "resume":
            return bool(self._stopped) and not self._active
        if action in ("chat", "forge"):
            return bool(self._work and self._work.state == "done")
        return True

    @work(exclusive=True, group="choose", exit_on_error=False)
    async def action_chat(self) -> None:
        """Chat with what was made: an adapter goes on a file of its base; which one is asked where it is not known."""
        made = made_of(self._work.output) if self._work else {}
        gguf = str(made.get("gguf") or "")
        if not Path(gguf).is_file():
            self.notify("It has no GGUF form, or is gone: Ctrl+G makes a file with it merged in.", severity="warning")
        elif made["method"] == "full":
            self.dismiss(Wish("chat", gguf))
        elif base := made["base_file"] or (BUILT_IN if self._base_trained() == BUILT_IN else ""):
            self.dismiss(Wish("chat", base, gguf))
        else:
            choices = [Choice(*one) for one in await asyncio.to_thread(model_files)]
            note = "Choose a GGUF file of its base; another model is refused. Ctrl+G makes one with it merged in."

            def chosen(model: str | None) -> None:
                if model:
                    self.dismiss(Wish("chat", model, gguf))

            self.app.push_screen(Picker("Chat with the adapter on which file?", choices, note=note), chosen)

    def _base_trained(self) -> str:
        return name_of_base(Path(self._work.arguments[1])) if self._work else ""

    def action_forge(self) -> None:
        """Merge the adapter into its base, and quantize both in one step; a whole model is only quantized."""
        made = made_of(self._work.output) if self._work else {}
        if not made or not Path(made["folder"]).is_dir():
            self.notify("What was made is gone.", severity="warning")
        elif made["method"] == "full":
            self.dismiss(Wish("forge", made["folder"]))
        elif made["base_file"]:
            self.notify("It was trained over a quantized file and goes with that one: Ctrl+T chats with both.")
        else:
            self.dismiss(Wish("forge", checkpoint_of(self._base_trained()), made["folder"]))

    def action_back(self) -> None:
        """Go back to the chat."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Show the card of the focused knob, or every key."""
        show_help(self, "Tune", [("On this screen", key_help(self.ACTIONS))])
