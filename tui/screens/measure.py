"""The Measure screen: which models, against which parent, by what; then the report, and every report before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input, SelectionList, Static
from textual.widgets.selection_list import Selection

from localknobs.errors import BadValue
from localknobs.evaluate.config import AGAINST_PARENT, SUITES
from localknobs.evaluate.kept_reports import report_of
from localknobs.jobs import JobEvent, Measured, Noted
from localknobs.library import BUILT_IN, ModelEntry, list_models
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.bridge import as_ours
from localknobs.tui.cards import keys_help
from localknobs.tui.child_job import JobEnded
from localknobs.tui.measure_form import MeasureForm
from localknobs.tui.screens.info import Info
from localknobs.tui.screens.measure_reports import ReportScreen
from localknobs.tui.widgets.candidates import Candidates
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.mark_list import MarkList
from localknobs.tui.widgets.report_view import ReportView, Shown
from localknobs.tui.work_text import progress_text
from localknobs.tui.works import Work
from localknobs.units import time_text

REDRAW_S = 0.25
"""How often the progress is drawn again."""
CHOSEN = ("ppl", "kld", "speed")
"""Suites that are marked at the beginning."""
MINUTES = "5"
"""Time that is given at the beginning: on a large model a whole suite can take an hour."""
FIELDS: tuple[tuple[str, str, str], ...] = (
    ("minutes", "Minutes at most", "no limit"),
    ("tasks", "Your tasks", "a JSONL file, for the suite tasks; none asks the shipped ones"),
    ("text", "Your text", "a UTF-8 file, for ppl and kld; none reads the shipped one"),
    ("vram", "Memory of a card", "such as 12G: a line in the chart"),
    ("more", "Other flags", "any of eval's, such as --chunk 256 --needles 5"),
)
"""Fields of the form: name, label, what stands there while it is empty."""
SETUP, REPORT = "-setup", "-report"


class MeasureScreen(ReportScreen):
    """Measures models.

    Args:
        model: What to begin with: a path, a name of the library, or `built-in`.
        fresh: Begin with that model even where another measurement runs or ran.
    """

    DEFAULT_CSS = """
    MeasureScreen {
        & .title { text-style: bold; padding: 0 1; height: 1; }
        & #setup { height: 1fr; }
        & #left { width: 1fr; border-right: vkey $surface-lighten-1; }
        & #right { width: 1fr; padding: 0 1; }
        & MarkList { height: auto; max-height: 9; }
        & .label { color: $text-muted; height: 1; }
        & .field { height: 1; }
        & .field Static { width: 18; color: $text-muted; }
        & Input { border: none; height: 1; padding: 0 1; background: $boost; }
        & Input:focus { border: none; background: $primary 25%; }
        & #note { color: $text-muted; height: 2; margin-bottom: 1; }
        & #state { height: auto; max-height: 8; padding: 0 1; border-top: hkey $surface-lighten-1; }
        & #command { color: $text-muted; height: auto; max-height: 3; padding: 0 1; }
        & ReportView { display: none; height: 1fr; }
        &.-report ReportView { display: block; }
        &.-report #setup, &.-report #state { display: none; }
        &.-report.-working #state { display: block; }
        &.-narrow #setup { layout: vertical; }
        &.-narrow #left { width: 1fr; height: 7; border-right: none; border-bottom: hkey $surface-lighten-1; }
        &.-narrow #right { width: 1fr; height: 1fr; }
        &.-narrow #state { max-height: 4; }
        &.-narrow #command { max-height: 1; }
        &.-narrow #note { height: 1; margin-bottom: 0; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("ctrl+s", "start", "Start", "measure; what was measured before is kept, and a stopped run goes on"),
        Action("ctrl+x", "stop", "Stop", "stop measuring; what was measured is kept"),
        Action("a", "add", "Add", "add a model of this machine to those that are measured"),
        Action("b", "base", "Parent", "make the marked model the parent that the others are compared with, or no more"),
        Action("x", "remove", "Take off", "take the marked model off the list"),
        Action("r", "report", "Report", "show the report, or go back to the fields"),
        Action("o", "older", "Older", "show a report of before"),
        Action("w", "write", "Write", "write the report: one HTML page, a picture (PNG, SVG), or JSON"),
        Action("y", "copy", "Copy", "copy the command that prints the same numbers in a shell"),
        Action("f1", "help", "Help", "what is measured, and every key"),
        Action("escape", "back", "Back", "go back; measuring goes on, and Jobs (F7) shows it too"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS[:2], priority=True), *bindings(ACTIONS[2:])]
    WORK: ClassVar[str] = "eval"
    PLAN_PAUSE_S: ClassVar[float] = 0.6

    def __init__(self, model: str = BUILT_IN, *, fresh: bool = False) -> None:
        super().__init__()
        self._model, self._fresh = model, fresh
        self._plan: dict[str, Any] | None = None

    def compose(self) -> ComposeResult:
        """Lay out the models, the suites and fields, the state; and the report, which takes their place."""
        yield Static("Measure", classes="title", id="title", markup=False)
        with Horizontal(id="setup"):
            with Vertical(id="left"):
                yield Candidates()
            with VerticalScroll(id="right", can_focus=False):
                yield Static("What to measure: Space marks", classes="label")
                yield MarkList(*(Selection(_line(name), name, name in CHOSEN) for name in SUITES))
                yield Static(id="note", markup=False)
                for name, label, hint in FIELDS:
                    with Horizontal(classes="field"):
                        yield Static(label)
                        yield Input(MINUTES if name == "minutes" else "", id=name, placeholder=hint)
        yield ReportView()
        yield Static(id="state", markup=False)
        yield Static(id="command", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Begin with the model, or with what is measured now or was measured last."""
        self.set_class(True, SETUP)
        last = self._work
        if last and not self._fresh:
            self._take(MeasureForm.of(last.arguments))
            self._show_result(last)
        else:
            self.query_one(Candidates).add(self._model)
        self.query_one(Candidates.TABLE).focus()
        self.set_interval(REDRAW_S, self._follow)
        self._look_for_models()
        self._changed()

    # ---- the fields ---------------------------------------------------------------------------

    @property
    def form(self) -> MeasureForm:
        """What the fields say."""
        candidates = self.query_one(Candidates)
        chosen = self.query_one(MarkList).selected
        suites = [name for name in SUITES if name in chosen and (candidates.base or name not in AGAINST_PARENT)]
        values = {name: self.query_one(f"#{name}", Input).value for name, _, _ in FIELDS}
        return MeasureForm(candidates.models, candidates.base, ",".join(suites), **values)

    def _take(self, form: MeasureForm) -> None:
        """Show fields as they were."""
        self.query_one(Candidates).show(form.models, form.base)
        suites = self.query_one(MarkList)
        suites.deselect_all()
        for name in form.suites.split(","):
            if name in SUITES:
                suites.select(name)
        for name, _, _ in FIELDS:
            self.query_one(f"#{name}", Input).value = getattr(form, name)

    @work(exclusive=True, group="list", exit_on_error=False)
    async def _look_for_models(self) -> None:
        """Read the folders in a thread: a disk may be slow."""
        try:
            entries: tuple[ModelEntry, ...] = (await asyncio.to_thread(list_models)).entries
        except Exception as error:
            self.notify(str(as_ours(error, "reading the folders")), severity="error")
            return
        self.query_one(Candidates).know(entries)

    def on_candidates_changed(self) -> None:
        """Other models: other suites are possible, at another price."""
        self._changed()

    def on_input_changed(self) -> None:
        """Ask again what it would take."""
        self._changed()

    def on_selection_list_selected_changed(self) -> None:
        """Ask again what it would take."""
        self._changed()

    def on_selection_list_selection_highlighted(self, event: SelectionList.SelectionHighlighted[str]) -> None:
        """Say what the marked suite measures."""
        self._say_suite(event.selection_index)

    def _say_suite(self, at: int | None) -> None:
        name = list(SUITES)[at or 0]
        found = self._price_of(name)
        text = f"{name}: {SUITES[name]}."
        if found:
            text += f" {found['trouble'] or found['amount'] + ' of all models together.'}"
        elif name in AGAINST_PARENT and not self.query_one(Candidates).base:
            text += " It needs a parent: b on a model makes it one."
        self.query_one("#note", Static).update(printable(text))

    def _price_of(self, suite: str) -> Mapping[str, Any] | None:
        return next((one for one in (self._plan or {}).get("suites", ()) if one["suite"] == suite), None)

    def _changed(self) -> None:
        """Show what the fields say; ask what it would take once they rest."""
        self._plan = None
        self._plan_soon()
        suites, has_base = self.query_one(MarkList), bool(self.query_one(Candidates).base)
        marked = suites.highlighted
        for at, name in enumerate(SUITES):
            possible = has_base or name not in AGAINST_PARENT
            if possible == suites.get_option_at_index(at).disabled:
                (suites.enable_option_at_index if possible else suites.disable_option_at_index)(at)
        suites.highlighted = marked  # which the list forgets
        self._show_state()

    # ---- the plan -----------------------------------------------------------------------------

    def _make_plan(self) -> None:
        form = self.form
        if form.models and form.suites and not self._active:
            try:
                arguments = form.arguments()
            except BadValue as error:
                self._show_state(str(error))
                return
            self._ask_for_plan([*arguments, "--dry-run", "--json"])
        self._show_state()

    def _take_plan(self, event: JobEnded) -> None:
        """Show the plan, or why there is none."""
        try:
            self._plan = json.loads(event.output) if event.code == 0 else None
        except ValueError:
            self._plan = None
        suites = self.query_one(MarkList)
        marked = suites.highlighted
        for at, name in enumerate(SUITES):
            suites.replace_option_prompt_at_index(at, _line(name, self._price_of(name)))
        suites.highlighted = marked
        self._say_suite(suites.highlighted)
        self._show_state("" if self._plan else event.error or "This cannot be measured.")

    def _plan_text(self) -> str:
        if not self.query_one(Candidates).models:
            return "a adds a model to be measured."
        if not self.form.suites:
            return "Mark at least one suite: Tab goes there, Space marks."
        if self._plan is None:
            return "looking at what it would take …"
        seconds = self._plan["seconds"]
        first = f"About {time_text(max(1.0, seconds))}" if seconds else "How long is not known before the first time"
        minutes = self.query_one("#minutes", Input).value.strip()
        if minutes and minutes != "0":
            first += f"; at most {minutes} minutes, for which a sample is drawn" if not seconds else ""
        elif not seconds:
            first += ", and there is no limit: give one in Minutes"
        return "\n".join([f"{first}. Ctrl+S starts.", *self._plan["notes"]])

    # ---- the work -----------------------------------------------------------------------------

    def action_start(self) -> None:
        """Measure."""
        if self._active:
            self.notify("Measuring already: Ctrl+X stops it.", severity="warning")
        elif self._plan is None:
            self.notify("There is no plan yet: see below what is missing.", severity="warning")
        else:
            form = self.form
            title = ", ".join(self.query_one(Candidates).names)
            self._works.start(self.WORK, f"Measuring {title}", [*form.arguments(), "--json"])

    def _heard(self, heard: Work, event: JobEvent | None) -> None:
        if isinstance(event, Noted):
            self.notify(event.text, severity="warning" if event.level == "warning" else "information")
        if event is None and heard.state == "done":
            self._show_result(heard)
        if event is None and not heard.active:
            self._changed()  # what it takes now: part of it may be kept, and times are known
        elif event is None:
            self._show_state()

    def _follow(self) -> None:
        """Show how far the work is: now and then, since a small model tells hundreds of numbers a second."""
        if self._active:
            self._show_progress()

    def _show_state(self, trouble: str = "") -> None:
        """Show how far the work is, or what came of it, or the plan."""
        last = self._work
        self.set_class(self._active, "-working")
        if last and last.active:
            text = ""
            self._show_progress()
        elif trouble:
            text = trouble
        elif last and last.state == "failed" and last.error and self._is_of(last):
            text = last.error
        else:
            stopped = last and last.state == "stopped" and self._is_of(last)
            kept = "Stopped. What was measured is kept: the same again goes on where it was.\n" if stopped else ""
            text = kept + self._plan_text()
        if text:
            self.query_one("#state", Static).update(printable(text))
        self.query_one("#command", Static).update(printable(f"$ {self._command}"))
        self.refresh_bindings()

    def _show_progress(self) -> None:
        if last := self._work:
            found = next((event for event in reversed(last.events[-9:]) if isinstance(event, Measured)), None)
            so_far = f"  {found.name} {found.value:.4g} so far" if found else ""
            ends = "Ctrl+X stops, and what was measured is kept. Esc leaves this screen, and it goes on."
            self.query_one("#state", Static).update(printable(f"{progress_text(last)}{so_far}\n{ends}"))

    def _is_of(self, last: Work) -> bool:
        """Whether a work was of what the fields say now."""
        return MeasureForm.of(last.arguments) == replace(self.form, more=MeasureForm.of(last.arguments).more)

    @property
    def _command(self) -> str:
        """The command that prints what is shown."""
        if self.has_class(REPORT) and self._shown:
            return self._shown.report.command or f"localknobs reports {self._shown.name}"
        return self.form.command

    # ---- the report ---------------------------------------------------------------------------

    def _show_result(self, last: Work) -> None:
        """Show what a work printed."""
        if last.state != "done":
            return
        try:
            data = json.loads(last.output)
            self._show_report(Shown(report_of(data), str(data.get("kept", "")), self._vram))
        except ValueError as error:
            self.notify(f"What eval printed cannot be read: {error}", severity="error")

    def _turn(self, *, to_report: bool) -> None:
        """Show the report, or the fields."""
        self.set_class(to_report, REPORT)
        self.set_class(not to_report, SETUP)
        title = "Measure"
        if to_report and self._shown:
            title = f"Report {self._shown.name or 'that is not kept'}"
        self.query_one("#title", Static).update(printable(title))
        self._show_state()
        self.query_one("#parts" if to_report else Candidates.TABLE).focus()

    def action_report(self) -> None:
        """Show the report, or the fields again."""
        if self._shown:
            self._turn(to_report=not self.has_class(REPORT))

    # ---- keys ---------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what is possible now."""
        if not self.is_mounted:
            return True
        reading = self.has_class(REPORT)
        if action == "stop":
            return self._active
        if action == "start":
            return not reading and not self._active
        if action in ("add", "base", "remove"):
            return not reading
        if action == "report":
            return self._shown is not None
        return reading if action == "write" else True

    def action_add(self) -> None:
        """Add a model."""
        self.query_one(Candidates).ask_for_one()

    def action_base(self) -> None:
        """Make the marked model the parent, or no more."""
        self.query_one(Candidates).turn_base()

    def action_remove(self) -> None:
        """Take the marked model off."""
        self.query_one(Candidates).take_off()

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_to_clipboard(self._command)
        self.notify("Copied.")

    def action_back(self) -> None:
        """Leave the report for the fields, or go back to the chat."""
        if self.has_class(REPORT):
            self._turn(to_report=False)
        else:
            self.dismiss(None)

    def action_help(self) -> None:
        """Say what is measured, and show every key."""
        moving = [
            ("Enter", "on a model: its own flags and adapters"), ("Tab", "models → suites → fields"),
            ("← →", "in a report: the next part"),
        ]  # fmt: skip
        suites = "\n".join(f"- **{name}:** {what}" for name, what in SUITES.items())
        text = (
            "What a change did to a model: quants, adapters, cache types, settings, each against the parent it was "
            f"made from, on the same items, with intervals.\n\n{suites}\n\n"
            f"{keys_help([('On this screen', [*key_help(self.ACTIONS), *moving])])}"
        )
        self.app.push_screen(Info("Measure", text))


def _line(name: str, price: Mapping[str, Any] | None = None) -> str:
    """Return a suite's line: its name, about how long, what it measures."""
    time = ""
    if price and not price["trouble"]:
        time = f"~{time_text(max(1.0, price['seconds']))}" if price["seconds"] else "?"
    return f"{name:<10} {time:>6}  {SUITES[name]}"
