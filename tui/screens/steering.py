"""Make a control vector: two lists of prompts beside each other, and the direction that lies between them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Checkbox, Input, Static, TextArea

from localknobs.errors import LocalknobsError
from localknobs.jobs import JobEvent, Noted
from localknobs.paths import models_folder
from localknobs.steer.make import check_output
from localknobs.steer.prompts import prompt_lines, save_lists, shipped_prompts
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings
from localknobs.tui.screens.work_screen import WorkScreen
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.work_text import progress_text
from localknobs.tui.works import Work


class PromptArea(TextArea):
    """Prompts, one a line."""

    def undo(self) -> None:
        """Undo the last change; not with the cursor in a line that goes with it, at which Textual fails."""
        if self.history.undo_stack:
            self.move_cursor((0, 0))  # it comes back to where it was before the change
        super().undo()


class SteeringScreen(WorkScreen[str | None]):
    """Returns the vector to put on the model, or None.

    Args:
        model: The model it is made of and for: a path, or a name of the library.
        draft: What was written here before, by field; what is written now is put there.
    """

    DEFAULT_CSS = """
    SteeringScreen {
        & Vertical { padding: 0 1; }
        & .title { text-style: bold; height: auto; }
        & .label { color: $text-muted; height: auto; }
        & #lists { height: 1fr; min-height: 5; }
        & #lists Vertical { padding: 0; width: 1fr; }
        & TextArea { height: 1fr; border: none; padding: 0; background: $boost; scrollbar-size: 0 1; }
        & TextArea:focus { border: none; background: $primary 15%; }
        & #positive { margin-right: 1; }
        & #how { height: 1; margin-top: 1; }
        & #how Static { width: auto; }
        & Input { border: none; height: 1; padding: 0 1; background: $boost; width: 1fr; max-width: 40; margin: 0 2 0 1; }
        & Input:focus { border: none; background: $primary 25%; }
        & Checkbox { border: none; height: 1; padding: 0; background: transparent; }
        & Checkbox:focus { border: none; background: $primary 25%; }
        & #state { height: auto; margin-top: 1; }
        & #found { height: auto; max-height: 10; }
        & #found Static { height: auto; }
    }
    """  # noqa: E501
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("ctrl+s", "start", "Make it", "read both lists with the model and write the vector"),
        Action("ctrl+t", "use", "Put it on", "put the vector on the model, with a slider"),
        Action(
            "ctrl+o",
            "example",
            "Example",
            "fill in lists for the built-in model: questions it does not know, against some it answers",
        ),
        Action("ctrl+x", "stop", "Stop", "stop the work; nothing half is left"),
        Action("escape", "back", "Back", "go back; work goes on, and Jobs (F7) shows it too"),
        Action("f1", "help", "Help", "what this screen is for"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS, priority=True)]
    WORK: ClassVar[str] = "control-vector"

    def __init__(self, model: str, draft: dict[str, str]) -> None:
        super().__init__()
        self._model, self._draft = model, draft

    def compose(self) -> ComposeResult:
        """Lay out the lists beside each other, and under them how they are read and what came of it."""
        with Vertical():
            yield Static(
                printable(f"Make a control vector for {Path(self._model).name}"), classes="title", markup=False
            )
            with Horizontal(id="lists"):
                for which, label in (("positive", "More of this"), ("negative", "Less of this")):
                    with Vertical():
                        yield Static(f"{label}: one prompt a line", classes="label")
                        yield PromptArea(self._draft.get(which, ""), id=which, soft_wrap=False, show_line_numbers=True)
            with Horizontal(id="how"):
                yield Static("Name", classes="label")
                yield Input(self._draft.get("name", ""), id="name", placeholder="calm")
                yield Checkbox("each line is a message", value=self._draft.get("chat", "yes") == "yes", id="chat")
            yield Static(id="state", markup=False)
            with VerticalScroll(id="found", can_focus=False):
                yield Static(id="table", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Begin in the first list, and show the work that runs or ran."""
        self.query_one("#positive").focus()
        self._show_work()

    @property
    def _output(self) -> Path:
        name = self.query_one("#name", Input).value.strip().removesuffix(".gguf")
        return models_folder() / f"{name}.gguf"

    def _texts(self) -> tuple[str, str]:
        return self.query_one("#positive", TextArea).text, self.query_one("#negative", TextArea).text

    def _missing(self) -> str:
        """Return what is still missing, empty when the vector can be made."""
        more, less = (len(prompt_lines(text)) for text in self._texts())
        if not more or not less:
            return "Write prompts into both lists, or take the example: Ctrl+O."
        if more != less:
            return f"{more} prompts against {less}: they are taken as pairs, line by line."
        name = self.query_one("#name", Input).value.strip()
        if not name or "/" in name or name.startswith("."):
            return f"{pairs_text(more)}. Give it a name."
        return ""

    def _next(self) -> str:
        """Return what is missing, or what Ctrl+S would do."""
        if missing := self._missing():
            return missing
        try:
            check_output(self._output)
        except LocalknobsError as error:
            return str(error)
        replaced = ", in place of the one there is" if os.path.exists(self._output) else ""
        return f"{pairs_text(len(prompt_lines(self._texts()[0])))}. Ctrl+S makes {self._output.name}{replaced}."

    # ---- the work -----------------------------------------------------------------------------

    def on_text_area_changed(self) -> None:
        """Count the pairs."""
        self._keep()

    def on_input_changed(self) -> None:
        """Look at the name."""
        self._keep()

    def on_checkbox_changed(self) -> None:
        """Keep how the lines are read."""
        self._keep()

    def _keep(self) -> None:
        self._draft["positive"], self._draft["negative"] = self._texts()
        self._draft["name"] = self.query_one("#name", Input).value
        self._draft["chat"] = "yes" if self.query_one("#chat", Checkbox).value else "no"
        self._show_work()

    def action_example(self) -> None:
        """Fill in the shipped lists; undo brings back what was written."""
        for which in ("positive", "negative"):
            area = self.query_one(f"#{which}", TextArea)
            area.replace(shipped_prompts(which).read_text(encoding="utf-8"), (0, 0), area.document.end)
            area.move_cursor((0, 0))
        self.query_one("#name", Input).value = "unsure"
        self.query_one("#chat", Checkbox).value = True

    def action_start(self) -> None:
        """Write the lists beside the vector, and make it."""
        if self._active:
            self.notify("A vector is being made already: Ctrl+X stops that.", severity="warning")
            return
        if missing := self._missing():
            self.notify(missing, severity="warning")
            return
        try:
            check_output(self._output)
            more, less = save_lists(self._output, *self._texts())
        except LocalknobsError as error:
            self.notify(str(error), severity="error")
            return
        chat = ["--chat"] if self.query_one("#chat", Checkbox).value else []
        words = ["--positive-file", str(more), "--negative-file", str(less), *chat, "--json", "-o", str(self._output)]
        self._works.start(self.WORK, self._output.name, ["control-vector", self._model, *words])

    @property
    def _work(self) -> Work | None:
        """What is done with this model, or was last."""
        asked = (self.WORK, self._model)
        return next((one for one in self._works.items if one.arguments[:2] == asked), None)

    def _heard(self, work: Work, event: JobEvent | None) -> None:
        if isinstance(event, Noted) and work is self._work:
            self.notify(event.text, severity="warning" if event.level == "warning" else "information", timeout=8)
        self._show_work()

    def _show_work(self) -> None:
        """Show how far the work is; else what came of it, and what is missing or what the next would do."""
        work, found = self._work, ""
        if work and work.active:
            state = f"Making {work.title}: {progress_text(work)}"
        elif work and work.state == "done":
            state = f"Made {work.title}. Ctrl+T puts it on the model, with a slider.\n{self._next()}"
            found = layers_text(work.output)
        elif work:
            ended = "stopped. Nothing was written." if work.state == "stopped" else work.error
            state = f"{work.title}: {ended}\n{self._next()}"
        else:
            state = self._next()
        self.query_one("#state", Static).update(printable(state))
        self.query_one("#table", Static).update(printable(found))
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to stop while something runs: in a list the key cuts text otherwise."""
        return self._active if action == "stop" else True

    def action_use(self) -> None:
        """Put the vector on the model."""
        work = self._work
        if work and work.state == "done" and work.wrote and work.wrote[0].is_file():
            self.dismiss(str(work.wrote[0]))
        else:
            self.notify("There is no vector yet: Ctrl+S makes it.")

    def action_back(self) -> None:
        """Go back to the chat."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Say what this is for."""
        from localknobs.tui.screens.info import Info

        text = (
            "A control vector pushes answers in one direction, at any strength and both ways, without training. It is "
            "what the states of the model differ by where it is about to answer: write prompts that lead to what you "
            "want more of on the left, and their counterparts on the right.\n\n- **Pairs** should differ in one thing "
            "alone; a few dozen are enough.\n- **Each line is a message:** the model's template goes round it, and the "
            "state is read where the answer begins. Without that a line is read as it stands.\n- **Pairs agree:** in "
            "how many pairs the left prompt lies further along the direction. Half of them agree by chance.\n\n"
            "`localknobs control-vector MODEL --vector V --try F` tries it on prompts at several strengths, and counts "
            "what changes."
        )
        self.app.push_screen(Info("Control vectors", text))


def pairs_text(count: int) -> str:
    """Return a number of pairs as people write it."""
    return f"{count} pair{'' if count == 1 else 's'}"


def layers_text(output: str) -> str:
    """Return the layers of what the verb printed, one a line; empty where it printed something else."""
    try:
        layers: list[Mapping[str, Any]] = json.loads(output)["layers"]
        return "\n".join(
            f"layer {one['layer']:>3}   pairs agree {one['agree']:4.0%}   explained {one['explained']:4.0%}   "
            f"apart {one['apart']:.4g} of {one['state']:.4g}"
            for one in layers
        )
    except (ValueError, KeyError, TypeError):
        return ""
