"""The Diagnose screen: what is seen, a cheap probe of it on the model that is loaded, and what to do, one key away."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import DataTable, Input, Static

from localknobs.diagnose import SYMPTOMS, Symptom
from localknobs.jobs import Found, JobEvent, Noted
from localknobs.knobs import Value, flag_words
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings, key_help
from localknobs.tui.cards import keys_help
from localknobs.tui.places import PLACES
from localknobs.tui.screens.info import Info
from localknobs.tui.screens.work_screen import WorkScreen
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.list_table import ListTable
from localknobs.tui.work_text import progress_text
from localknobs.tui.works import Work

REDRAW_S = 0.25
"""How often the progress is drawn again."""
ALL = "all"
"""Names every symptom, as on the command line."""
WORDS = {"confirmed": ("confirmed", "bold yellow"), "rejected": ("not confirmed", "green"), "open": ("open", "")}
SCREENS = {
    "quantize": "forge", "eval": "measure", "finetune": "tune", "context": "context", "chat": "system",
    "knobs": "levers",
}  # fmt: skip
"""The chat screen's action that opens what a remedy's verb belongs to; where there is none, its command is copied."""


@dataclass(frozen=True, slots=True)
class Remedied:
    """What the user wants done about it.

    Args:
        values: Knobs to turn; empty where a screen is opened instead.
        action: The chat screen's action that opens it.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    action: str = ""


class DiagnoseScreen(WorkScreen[Remedied | None]):
    """Returns the knobs to turn, or the screen to go to.

    Args:
        model: What the user calls the model that is loaded.
        prompt: The last one of the chat; empty for none.
        values: Sampling knobs that differ from their defaults.
        loading: Loading knobs that differ from theirs.
    """

    DEFAULT_CSS = """
    DiagnoseScreen {
        & .title { text-style: bold; padding: 0 1; height: 1; }
        & #symptoms { height: auto; max-height: 10; }
        & #details { height: 1fr; padding: 0 1; margin-top: 1; }
        & #details:focus { background: $boost; }
        & #words { height: auto; }
        & #remedies { height: auto; max-height: 6; border-top: hkey $surface-lighten-1; }
        & #remedies.-empty { display: none; }
        & .field { height: 1; padding: 0 1; }
        & .field Static { width: 14; color: $text-muted; }
        & Input { border: none; height: 1; padding: 0 1; background: $boost; }
        & Input:focus { border: none; background: $primary 25%; }
        & #fields { height: auto; border-top: hkey $surface-lighten-1; }
        & #state { height: auto; max-height: 4; padding: 0 1; color: $accent; }
        &.-narrow #details { margin-top: 0; }
        &.-narrow #remedies { max-height: 4; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("p", "all", "Probe all", "probe every symptom, one after another"),
        Action("d", "do", "Do it", "do the marked thing to try: turn its knobs in the chat, or open its screen"),
        Action("ctrl+x", "stop", "Stop", "stop probing; what was found is kept", first=True),
        Action("y", "copy", "Copy", "copy the command that measures the same at length, or probes it"),
        Action("f1", "help", "Help", "every key of this screen"),
        Action("escape", "back", "Back", "go back; probing goes on, and Jobs (F7) shows it too"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS)]
    WORK: ClassVar[str] = "diagnose"

    def __init__(
        self, model: str, prompt: str = "", values: Mapping[str, Value] | None = None,
        loading: Mapping[str, Value] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._model, self._prompt = model, prompt
        self._flags = flag_words({**(values or {}), **(loading or {})})
        self._found: dict[str, Mapping[str, Any]] = {}
        self._remedies_of = ""  # the symptom whose remedies are listed

    def compose(self) -> ComposeResult:
        """Lay out the symptoms, what is known of the marked one, what to try, and what the probes are given."""
        flags = f" with {shlex.join(self._flags)}" if self._flags else ""
        yield Static(printable(f"Diagnose: {self._model}{flags}"), classes="title", markup=False)
        yield ListTable("Probe it", id="symptoms")
        with VerticalScroll(id="details"):
            yield Static(id="words", markup=False)
        yield ListTable("Do it", id="remedies")
        with Vertical(id="fields"):
            with Horizontal(classes="field"):
                yield Static("Prompt")
                hint = "one with which it shows; none: each probe has its own"
                yield Input(_one_line(self._prompt), id="prompt", placeholder=hint)
            with Horizontal(classes="field"):
                yield Static("Your tasks")
                yield Input(id="tasks", placeholder="a JSONL file of examples, for “bad at my niche task”")
        yield Static(id="state", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Show the symptoms, and what was found of them with these settings."""
        table = self.query_one("#symptoms", ListTable)
        table.add_columns("what you see", "first lever")
        table.add_column("finding", width=max(len(word) for word, _ in WORDS.values()))
        self.query_one("#remedies", ListTable).add_columns("what to try", "by")
        self.set_interval(REDRAW_S, self._follow)
        self._gather()
        self.query_one("#symptoms", ListTable).focus()

    # ---- probing ------------------------------------------------------------------------------

    def _arguments(self, symptom: str) -> list[str]:
        shown = self.query_one("#prompt", Input).value
        prompt = self._prompt if shown == _one_line(self._prompt) else shown
        tasks = self.query_one("#tasks", Input).value.strip()
        words = ["diagnose", symptom, self._model]
        words += [f"--prompt={prompt}"] if prompt.strip() else []
        words += ["--tasks", tasks] if tasks else []
        return [*words, *self._flags, "--json"]

    def _probe(self, symptom: str, title: str) -> None:
        if self._active:
            self.notify("A probe runs already: Ctrl+X stops it.", severity="warning")
        else:
            self._works.start(self.WORK, title, self._arguments(symptom))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: probe the symptom, or do what is to be tried."""
        if event.data_table.id == "remedies":
            self.action_do()
        elif symptom := self._marked:
            if symptom.probe:
                self._probe(symptom.key, f"Probing: {symptom.seen}")
            else:
                self.notify(f"There is nothing to probe: {symptom.other}.")

    def action_all(self) -> None:
        """Probe every symptom."""
        self._probe(ALL, "Probing every symptom")

    def _heard(self, heard: Work, event: JobEvent | None) -> None:
        if isinstance(event, Noted):
            self.notify(event.text)
        if event is None or isinstance(event, Found):
            self._gather()

    def _gather(self) -> None:
        """Take in what was found with just these settings, the newest last."""
        self._found = {}
        for one in reversed(self._works.items):
            if one.kind == self.WORK and list(one.arguments[2:]) == self._arguments("")[2:]:
                told = [event.data for event in one.events if isinstance(event, Found)]
                for finding in (*told, *_findings(one.output)):
                    self._found[str(finding["symptom"])] = finding
        self._draw()
        self._show_state()

    def on_input_changed(self) -> None:
        """What was found with another prompt says nothing of this one."""
        if self.is_mounted:
            self._gather()

    def _follow(self) -> None:
        if self._active:
            self._show_state()

    def _show_state(self) -> None:
        last = self._work
        text = ""
        if last and last.active:
            text = f"{last.title}\n{progress_text(last)}\nCtrl+X stops. Esc leaves this screen, and it goes on."
        elif last and last.state == "failed" and list(last.arguments[2:]) == self._arguments("")[2:]:
            text = last.error
        state = self.query_one("#state", Static)
        state.display = bool(text)
        state.update(printable(text))
        self.refresh_bindings()

    # ---- what is shown ------------------------------------------------------------------------

    def _draw(self) -> None:
        table = self.query_one("#symptoms", ListTable)
        marked = table.marked_key
        table.clear()
        for row in SYMPTOMS:
            finding = self._found.get(row.key)
            word, style = WORDS[finding["verdict"]] if finding else ("", "")
            lever = Text(row.lever) if row.lever else Text("no lever helps", "dim")
            table.add_row(Text(row.seen), lever, Text(word, style), key=row.key)
        table.mark(marked)
        self._show_marked()

    @property
    def _marked(self) -> Symptom | None:
        key = self.query_one("#symptoms", ListTable).marked_key
        return next((row for row in SYMPTOMS if row.key == key), None)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show what is known of another symptom."""
        if event.data_table.id == "symptoms":
            self._show_marked()

    def _show_marked(self) -> None:
        row = self._marked
        if row is None:
            return
        finding = self._found.get(row.key)
        text = Text()
        if finding:
            word, style = WORDS[finding["verdict"]]
            text.append(f"{word[0].upper()}{word[1:]}. ", style or "bold")
            text.append(f"{printable(finding['text'])}\n")
            numbers = "   ".join(f"{name}: {value:,.6g}" for name, value in finding["numbers"].items())
            text.append(f"{printable(numbers)}\n" if numbers else "")
            again = finding["command"]
            text.append(f"\nAt length: {printable(again)}\n" if again else "", "dim")
        else:
            text.append(f"{row.check[0].upper()}{row.check[1:]}: that is what the probe looks at. ")
            text.append("Enter probes it here.\n" if row.probe else "\n")
        text.append(f"\nWhat helps: {row.other}.", "dim")
        self.query_one("#words", Static).update(text)
        self._show_remedies(row.key, finding["remedies"] if finding else ())
        self.refresh_bindings()

    def _show_remedies(self, symptom: str, remedies: Sequence[Mapping[str, Any]]) -> None:
        table = self.query_one("#remedies", ListTable)
        if table.has_focus and not remedies:
            self.query_one("#symptoms", ListTable).focus()
        at_row = table.cursor_row if symptom == self._remedies_of else 0
        self._remedies_of = symptom
        table.clear()
        table.set_class(not remedies, "-empty")
        for at, remedy in enumerate(remedies):
            table.add_row(Text(printable(remedy["text"])), Text(printable(_how(remedy)), "dim"), key=str(at))
        table.move_cursor(row=at_row)

    # ---- what is done -------------------------------------------------------------------------

    @property
    def _remedy(self) -> Mapping[str, Any] | None:
        """The marked thing to try."""
        row, table = self._marked, self.query_one("#remedies", ListTable)
        finding = self._found.get(row.key) if row else None
        remedies = finding["remedies"] if finding else ()
        return remedies[table.cursor_row] if 0 <= table.cursor_row < len(remedies) else None

    def action_do(self) -> None:
        """Do the marked thing to try."""
        remedy = self._remedy
        if remedy is None:
            return
        action = _action(remedy)
        if remedy["values"]:
            self.dismiss(Remedied(values=remedy["values"]))
        elif action:
            self.dismiss(Remedied(action=action))
        elif remedy["command"]:
            self.app.copy_to_clipboard(remedy["command"])
            self.notify(f"Copied, to be run in a shell: {remedy['command']}")
        else:
            self.notify(f"This is yours to do: {remedy['text']}.")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what is possible now."""
        if not self.is_mounted:
            return True
        if action == "stop":
            return self._active
        if action == "all":
            return not self._active
        return self._remedy is not None if action == "do" else True

    def action_copy(self) -> None:
        """Copy the command of the marked symptom."""
        row = self._marked
        finding = self._found.get(row.key) if row else None
        again = shlex.join(["localknobs", *self._arguments(row.key if row else ALL)[:-1]])
        self.app.copy_to_clipboard((finding["command"] if finding else "") or again)
        self.notify("Copied.")

    def action_back(self) -> None:
        """Go back to the chat."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Show every key."""
        moving = [
            ("Enter", "on a symptom: probe it; on a thing to try: do it"),
            ("Tab", "symptoms → text → what to try"),
        ]
        text = (
            "From what you see to the first lever, after a cheap probe on the model that is loaded, with the knobs as "
            "they are in the chat.\n\nA probe loads the model once more, in a process of its own. Confirmed: the "
            "number speaks for it. Not confirmed: it does not show here. Open: the probe cannot tell, and says what it "
            f"would need.\n\n{keys_help([('On this screen', [*key_help(self.ACTIONS), *moving])])}"
        )
        self.app.push_screen(Info("Diagnose", text))


def _findings(output: str) -> list[Mapping[str, Any]]:
    """Return the findings in what `diagnose --json` printed; none where it printed nothing whole."""
    try:
        data = json.loads(output)
    except ValueError:
        return []
    return list(data["findings"]) if "findings" in data else [data]


def _how(remedy: Mapping[str, Any]) -> str:
    """Return what doing a remedy does."""
    if remedy["values"]:
        return f"sets {shlex.join(shlex.split(remedy['command'])[3:])}"  # after localknobs chat MODEL
    place = next((place for place in PLACES if place.action == _action(remedy)), None)
    if place:
        return f"opens {place.name}"
    if _action(remedy):
        return "opens the system prompt"
    return f"copies: {remedy['command']}" if remedy["command"] else "yours to do"


def _action(remedy: Mapping[str, Any]) -> str:
    """Return the action that opens the screen of a remedy's verb; empty where there is none."""
    words = shlex.split(remedy["command"])
    action = SCREENS.get(words[1], "") if len(words) > 1 else ""
    return action if action == "system" or any(place.action == action for place in PLACES) else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
