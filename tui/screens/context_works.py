"""The long work of the Context screen: a file that scales by itself, and what the scaling does, measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from textual.screen import ScreenResultType
from textual.widgets import Static

from localknobs.errors import LocalknobsError
from localknobs.gguf_info import Header
from localknobs.jobs import JobEvent
from localknobs.knobs import Value, defaults, flag_words, knobs_of
from localknobs.paths import models_folder, user_path
from localknobs.terminal_text import printable
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.screens.work_screen import WorkScreen
from localknobs.tui.work_text import progress_text
from localknobs.tui.works import Work

CACHE: tuple[str, ...] = ("cache_type_k", "cache_type_v", "flash_attn")
_MEASURE = "--measure"


class ContextWorks(WorkScreen[ScreenResultType]):
    """Starts the work, shows it and stops it; one at a time for a model.

    Args:
        header: Of the model.
        values: The loading knobs as they are.
    """

    WORK: ClassVar[str] = "context"

    def __init__(self, header: Header, values: Mapping[str, Value]) -> None:
        super().__init__()
        self._header = header
        self.values = dict(values)
        self._refusal: LocalknobsError | None = None  # why the length cannot be reached, or the model not be loaded so

    @property
    def _length(self) -> int:
        """Tokens that are to be seen."""
        raise NotImplementedError

    def _may_start(self) -> bool:
        """Whether work may begin; says why not."""
        if self._active:
            self.notify("A file is written or measured already: x stops that.", severity="warning")
        elif self._refusal:
            self.notify(str(self._refusal), severity="error", timeout=8)
        return not (self._active or self._refusal)

    def _words(self, *more: str, without: tuple[str, ...] = ()) -> list[str]:
        """Return the command line that does something with the present settings."""
        standard = defaults("loading")
        changed = {
            row.name: self.values[row.name]
            for row in knobs_of("context")
            if self.values[row.name] != standard[row.name] and row.name not in without
        }
        return ["context", str(self._header.path), *flag_words(changed), *more, "--json"]

    def action_measure(self) -> None:
        """Measure what the scaling does."""
        if self._may_start():
            self._works.start(self.WORK, f"{self._header.path.stem}, measured", self._words(_MEASURE))

    def action_write(self) -> None:
        """Ask where to, then write a file with these keys."""
        if self._may_start():
            name = models_folder() / f"{self._header.path.stem}-{self._length}.gguf"
            note = "A GGUF file with these RoPE settings in it: every program that loads it sees so far by itself."
            self.app.push_screen(TextDialog("Write a file", str(name), note=note, several_lines=False), self._write_to)

    def _write_to(self, name: str | None) -> None:
        if name and name.strip():
            output = user_path(name.strip())
            self._works.start(self.WORK, output.name, self._words("-o", str(output), without=CACHE))

    @property
    def _of_this(self) -> list[Work]:
        """What is done with this model, or was, the newest first."""
        return [one for one in self._works.items if one.arguments[:2] == ("context", str(self._header.path))]

    @property
    def _work(self) -> Work | None:
        return next(iter(self._of_this), None)

    @property
    def _written(self) -> Path | None:
        """The file that was written last."""
        wrote = (work.wrote[0] for work in self._of_this if work.state == "done" and work.wrote)
        return next(wrote, None)

    def _heard(self, work: Work, event: JobEvent | None) -> None:
        self._show_work()

    def _show_work(self) -> None:
        """Say how far the work is, or what came of it."""
        work = self._work
        self._say("#progress", _text_of(work) if work else "")
        self.refresh_bindings()

    def _say(self, place: str, text: str) -> None:
        line = self.query_one(place, Static)
        line.display = bool(text)
        line.update(printable(text))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the written file once there is one, and a stop while there is work."""
        if action == "stop":
            return self._active
        return self._written is not None if action == "chat" else True


def _text_of(work: Work) -> str:
    """Return how far work is, or what came of it."""
    measuring = _MEASURE in work.arguments
    if work.active:
        rest = "what was measured is kept" if measuring else "nothing half is left"
        return f"{progress_text(work)}\nx stops, {rest}. Esc leaves, and it goes on."
    if work.state == "failed":
        return work.error
    if work.state == "stopped":
        return "Stopped; m goes on." if measuring else "Stopped. Nothing was written."
    data = json.loads(work.output)
    if not measuring:
        how = "weights shared with the source on disk" if data["written"]["cloned"] else "weights copied"
        return f"Written to {work.wrote[0]} ({how}). Ctrl+T chats with it."
    found = data["measured"]
    head = f"Measured: {found['flags'] or 'the scaling in the file'}, against {found['against']} (95% intervals)"
    lines = [f"{what}: {text}" if what else text for what, text in found["lines"]]
    return "\n".join([head, *lines, *(f"! {text}" for text in found["notes"])])
