"""The models that are to be measured, in a list: one may be the parent, each may have flags of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Static

from localknobs.errors import LocalknobsError
from localknobs.evaluate.model_words import ModelWords, read_model_words
from localknobs.library import ModelEntry
from localknobs.library.parents import propose_parent
from localknobs.terminal_text import printable, shortened_in_the_middle
from localknobs.tui.screens.picker import Choice, Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.widgets.list_table import ListTable
from localknobs.units import size_text

FILE = "a file"
"""Key of the choice that asks for a path."""
_BASE = "parent"
NAME_WIDTH = 44


class Candidates(Vertical):
    """The list; says `Changed` whenever it is another one."""

    DEFAULT_CSS = """
    Candidates {
        & ListTable { height: 1fr; }
        & .hint { color: $text-muted; padding: 0 1; height: auto; }
    }
    """
    TABLE: ClassVar[str] = "#candidates"

    class Changed(Message):
        """Other models are to be measured, or against another parent."""

    def __init__(self) -> None:
        super().__init__()
        self._models: list[str] = []
        self._base = ""
        self._why = ""
        self._entries: Sequence[ModelEntry] = ()
        self._read: dict[str, ModelWords] = {}

    def compose(self) -> ComposeResult:
        """Lay out the list, and a line about it."""
        yield ListTable("Its flags", id=self.TABLE.removeprefix("#"))
        yield Static(classes="hint", id="hint", markup=False)

    def on_mount(self) -> None:
        """Name the columns."""
        self.query_one(ListTable).add_columns("", "model", "size")
        self._draw()

    # ---- what is in it ------------------------------------------------------------------------

    @property
    def models(self) -> tuple[str, ...]:
        """What is measured, each as `eval` takes it."""
        return tuple(self._models)

    @property
    def base(self) -> str:
        """The parent; empty for none."""
        return self._base

    @property
    def names(self) -> list[str]:
        """Short names of what is measured."""
        return [self._short(model) for model in self._models]

    def show(self, models: Sequence[str], base: str) -> None:
        """Show other models."""
        self._models, self._base, self._why = list(models), base, ""
        self._draw()

    def know(self, entries: Sequence[ModelEntry]) -> None:
        """Take the models of this machine, of which one may be a parent."""
        self._entries = entries
        self._propose()
        self._draw()
        self.post_message(self.Changed())

    def add(self, model: str) -> None:
        """Add a model; its parent is proposed where there is none yet."""
        self._models.append(model)
        self._propose()
        self._draw(f"m{len(self._models) - 1}")
        self.post_message(self.Changed())

    def _propose(self) -> None:
        """Take a parent where there is none: the same model without its flags, else what it was made from."""
        if self._base or not self._models:
            return
        words = self._words(self._models[-1])
        if words and words.flags:
            self._base, self._why = self._models[-1].removesuffix(words.flags).strip(), "the same without flags"
        elif words and (found := propose_parent(words.path, self._entries)):
            self._base, self._why = str(found[0].path), found[1]

    def _draw(self, marked: str = "") -> None:
        table = self.query_one(ListTable)
        marked = marked or table.marked_key
        table.clear()
        rows = [(_BASE, self._base)] if self._base else []
        rows += [(f"m{at}", model) for at, model in enumerate(self._models)]
        for key, model in rows:
            role = Text("parent" if key == _BASE else "measure", "bold" if key == _BASE else "")
            name = shortened_in_the_middle(printable(self._short(model)), NAME_WIDTH)
            table.add_row(role, Text(name, no_wrap=True), Text(self._size_of(model), justify="right"), key=key)
        table.mark(marked)
        self.query_one("#hint", Static).update(printable(self._hint()))

    def _hint(self) -> str:
        if not self._models:
            return "a adds a model."
        if not self._base:
            return "Nothing to compare with yet: a adds a model, b makes the marked one the parent."
        why = f"{self._short(self._base)} is proposed as the parent: {self._why}." if self._why else ""
        return why or "The parent is what the others were made from."

    def _size_of(self, model: str) -> str:
        words = self._words(model)
        entry = next((entry for entry in self._entries if words and entry.path == words.path), None)
        try:
            return size_text(entry.size_bytes if entry else words.path.stat().st_size) if words else ""
        except OSError:
            return ""

    def _words(self, model: str) -> ModelWords | None:
        """Return what a model with its flags means, None where it means nothing; a name is looked for once."""
        if model not in self._read:
            try:
                self._read[model] = read_model_words(model)
            except LocalknobsError:
                return None
        return self._read[model]

    def _short(self, model: str) -> str:
        """Return a model's name without its folder, and its flags."""
        words = self._words(model)
        return words.label if words else model

    # ---- what is done with it -----------------------------------------------------------------

    def ask_for_one(self) -> None:
        """Let the user choose a model of this machine, or name a file."""
        choices = [
            Choice(entry.argument, entry.name, f"{size_text(entry.size_bytes)} {entry.quant}")
            for entry in self._entries
            if entry.usable
        ]
        choices.append(Choice(FILE, "A file that is not in the list …"))
        note = "Enter on it in the list afterwards gives it flags of its own, such as -ctk q4_0."

        def chosen(model: str | None) -> None:
            if model == FILE:
                self._ask("A model", "", self.add)
            elif model:
                self.add(model)

        self.app.push_screen(Picker("Add a model", choices, note=note), chosen)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: give the marked model flags of its own."""
        event.stop()
        key = event.row_key.value or ""

        def written(text: str) -> None:
            if key == _BASE:
                self._base, self._why = text, ""
            else:
                self._models[int(key[1:])] = text
                self._propose()
            self._draw(key)
            self.post_message(self.Changed())

        if key:
            self._ask("A model, with flags of its own", self._base if key == _BASE else self._models[int(key[1:])],
                      written)  # fmt: skip

    def _ask(self, title: str, text: str, take: object) -> None:
        note = "For example: built-in -ctk q4_0 -ctv q4_0   or: base.gguf --lora mine.gguf:0.8"

        def answered(answer: str | None) -> None:
            if answer and answer.strip() and callable(take):
                take(answer.strip())

        self.app.push_screen(TextDialog(title, text, note=note, several_lines=False, check=_check), answered)

    def turn_base(self) -> None:
        """Make the marked model the parent; the one before is measured then. On the parent: it is one no more."""
        key = self.query_one(ListTable).marked_key
        if not key:
            return
        before, self._why = self._base, ""
        self._base = "" if key == _BASE else self._models.pop(int(key[1:]))
        if before:
            self._models.insert(0, before)
        self._draw(_BASE if self._base else "m0")
        self.post_message(self.Changed())

    def take_off(self) -> None:
        """Take the marked model off."""
        key = self.query_one(ListTable).marked_key
        if key == _BASE:
            self._base = self._why = ""
        elif key:
            self._models.pop(int(key[1:]))
        self._draw()
        self.post_message(self.Changed())


def _check(text: str) -> None:
    if text.strip():
        read_model_words(text)
