"""The Forge: a checkpoint or a GGUF, adapters and types become files; the plan first, then the progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Static
from textual.widgets.selection_list import Selection

from localknobs.hardware import free_disk_bytes
from localknobs.jobs import JobEvent, Noted
from localknobs.library import BUILT_IN
from localknobs.paths import models_folder, user_path
from localknobs.terminal_text import printable
from localknobs.tui.actions import Action, bindings
from localknobs.tui.child_job import JobEnded
from localknobs.tui.screens.work_screen import PlannedWorkScreen
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.mark_list import MarkList
from localknobs.tui.work_text import progress_text
from localknobs.tui.works import Work
from localknobs.units import size_text, time_text

TYPES: tuple[tuple[str, str], ...] = (
    ("Q8_0", "nearly the original; 8.5 bits"),
    ("Q6_K", "hard to tell from the original; 6.6 bits"),
    ("Q5_K_M", "a little better than Q4_K_M; 5.7 bits"),
    ("Q4_K_M", "the usual choice; 4.9 bits"),
    ("Q4_K_S", "a little smaller; 4.6 bits"),
    ("IQ4_XS", "smaller still, slower on a processor; 4.3 bits"),
    ("Q3_K_M", "the loss shows; 3.9 bits"),
    ("Q2_K", "for models that fit no other way; 3 bits"),
    ("F16", "not quantized"),
)


class ForgeScreen(PlannedWorkScreen[str | None]):
    """Returns the file to chat with, or None. What it makes is made whether it is shown or not.

    Args:
        source: What to begin with: a path, a name of the library, or `built-in`.
        adapters: Those to merge, as the field takes them.
    """

    DEFAULT_CSS = """
    ForgeScreen {
        & #fields { width: 56; padding: 0 1; border-right: vkey $surface-lighten-1; }
        & .label { color: $text-muted; margin-top: 1; }
        & Input { border: none; height: 1; padding: 0 1; background: $boost; }
        & Input:focus { border: none; background: $primary 25%; }
        & MarkList { height: 1fr; }
        & #right { padding: 0 1; }
        & .title { text-style: bold; }
        & #plan { height: auto; margin-top: 1; }
        & #progress { height: auto; margin-top: 1; color: $accent; }
        & #result { height: auto; margin-top: 1; }
        &.-narrow #fields { width: 34; }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    ACTIONS: ClassVar[tuple[Action, ...]] = (
        Action("ctrl+s", "start", "Start", "make the files of the plan"),
        Action("ctrl+t", "chat", "Chat with it", "chat with the first file that was made"),
        Action("ctrl+x", "stop", "Stop", "stop the work; nothing half is left"),
        Action("escape", "back", "Back", "go back; work goes on, and Jobs (F7) shows it too"),
        Action("f1", "help", "Help", "what this screen is for"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(ACTIONS, priority=True)]
    WORK: ClassVar[str] = "quantize"
    PLAN_PAUSE_S: ClassVar[float] = 0.6

    def __init__(self, source: str = BUILT_IN, adapters: str = "") -> None:
        super().__init__()
        self._source, self._adapters = source, adapters
        self._plan: dict[str, Any] | None = None

    def compose(self) -> ComposeResult:
        """Lay out the fields on the left, plan and progress on the right."""
        with Horizontal():
            with Vertical(id="fields"):
                yield Static("What to make files of", classes="label")
                yield Input(self._source, id="source", placeholder="a checkpoint's folder, a GGUF, a model's name")
                yield Static("Adapters to merge: PATH or PATH:SCALE, …", classes="label")
                yield Input(self._adapters, id="adapters", placeholder="none")
                yield Static("Where to", classes="label")
                yield Input(str(models_folder()), id="folder")
                yield Static("Types: Space marks, one or several", classes="label")
                choices = [Selection(f"{name:<7} {text}", name, name == "Q4_K_M") for name, text in TYPES]
                yield MarkList(*choices)
            with Vertical(id="right"):
                yield Static("Forge", classes="title")
                yield Static(id="plan", markup=False)
                yield Static(id="progress", markup=False)
                yield Static(id="result", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        """Plan what the fields say at the beginning, and show the work that runs or ran."""
        self.query_one("#source", Input).focus()
        self._plan_soon()
        self._show_work()

    # ---- the plan -----------------------------------------------------------------------------

    def on_input_changed(self) -> None:
        """Plan again."""
        self._plan_soon()

    def on_selection_list_selected_changed(self) -> None:
        """Plan again."""
        self._plan_soon()

    def _arguments(self) -> list[str]:
        types = self.query_one(MarkList).selected
        adapters = [text.strip() for text in self.query_one("#adapters", Input).value.split(",")]
        loras = [word for text in adapters if text for word in ("--lora", text)]
        folder = self.query_one("#folder", Input).value.strip() or str(models_folder())
        source = self.query_one("#source", Input).value.strip()
        ordered = [name for name, _ in TYPES if name in types]
        return ["quantize", source, *ordered, *loras, "--json", "-o", str(user_path(folder)) + "/"]

    def _make_plan(self) -> None:
        self._plan = None
        if not self.query_one("#source", Input).value.strip() or not self.query_one(MarkList).selected:
            self._show("#plan", "Name a source and mark at least one type.")
            return
        self._show("#plan", "planning …")
        self._ask_for_plan([*self._arguments(), "--dry-run"])

    def _take_plan(self, event: JobEnded) -> None:
        try:
            self._plan = json.loads(event.output) if event.code == 0 else None
        except ValueError:
            self._plan = None
        if self._plan is None:
            self._show("#plan", event.error or "This cannot be planned.")
            return
        lines, total = [f"Reads {size_text(self._plan['source_bytes'])} once and writes:", ""], 0
        for file in self._plan["files"]:
            total += file["size_bytes"]
            lines.append(f"  {Path(file['path']).name}")
            replaces = ", replaces the file of that name" if Path(file["path"]).exists() else ""
            lines.append(
                f"    {size_text(file['size_bytes'])}, {file['bits_per_weight']:.2f} bits per weight{replaces}"
            )
            lines += [f"    {text}" for text in file["notes"]]
        folder = Path(self._plan["files"][0]["path"]).parent
        lines += ["", f"{size_text(total)} in all; {size_text(free_disk_bytes(folder))} are free there."]
        if seconds := self._plan.get("estimated_seconds"):
            lines.append(f"About {time_text(max(1.0, seconds))} on this machine, when it has nothing else to do.")
        lines += ["", "Ctrl+S starts."]
        self._show("#plan", "\n".join(lines))

    # ---- the work -----------------------------------------------------------------------------

    def action_start(self) -> None:
        """Make the files."""
        if self._active:
            self.notify("Files are being made already: Ctrl+X stops that.", severity="warning")
            return
        if self._plan is None:
            self.notify("There is no plan yet: see on the right what is missing.", severity="warning")
            return
        paths = [Path(file["path"]) for file in self._plan["files"]]
        try:
            paths[0].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.notify(f"{paths[0].parent} cannot be made: {error.strerror}", severity="error")
            return
        self._works.start(self.WORK, ", ".join(path.name for path in paths), self._arguments())

    def _heard(self, work: Work, event: JobEvent | None) -> None:
        if isinstance(event, Noted):
            self.notify(event.text, severity="warning" if event.level == "warning" else "information")
        self._show_work()

    def _show_work(self) -> None:
        """Show how far the work is, or what came of it."""
        work, progress, result = self._work, "", ""
        if work and work.active:
            ends = "Ctrl+X stops; nothing half is left. Esc leaves this screen, and the work goes on."
            progress = f"Making {work.title}\n{progress_text(work)}\n{ends}"
        elif work and work.state == "done":
            names = "\n".join(f"  {path}" for path in work.wrote)
            result = f"Made:\n{names}\n\nCtrl+T chats with the first of them."
        elif work:
            result = f"{work.title}: {'stopped. Nothing was written.' if work.state == 'stopped' else work.error}"
        self._show("#progress", progress)
        self._show("#result", result)
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to stop while something runs: in a field the key cuts text otherwise."""
        return self._active if action == "stop" else True

    def action_chat(self) -> None:
        """Chat with the first file that was made."""
        work = self._work
        if work and work.state == "done" and work.wrote and work.wrote[0].is_file():
            self.dismiss(str(work.wrote[0]))
        else:
            self.notify("There is no file yet.")

    def action_back(self) -> None:
        """Go back to the chat."""
        self.dismiss(None)

    def action_help(self) -> None:
        """Say what this is for."""
        from localknobs.tui.screens.info import Info

        text = (
            "A model as it is trained has 16 or 32 bits a weight. Here it becomes smaller files that load faster and "
            "fit less memory.\n\n- **Source:** a Hugging Face folder (config.json, safetensors, tokenizer), or a float "
            "GGUF.\n- **Adapters:** LoRA folders that are merged on the way, each with how strongly it acts.\n- "
            "**Types:** fewer bits are smaller and worse; Q4_K_M is where most people begin.\n\nNothing is written "
            "until Ctrl+S, and a stopped or failed run leaves the old file or none."
        )
        self.app.push_screen(Info("Forge", text))

    def _show(self, place: str, text: str) -> None:
        self.query_one(place, Static).update(printable(text))
