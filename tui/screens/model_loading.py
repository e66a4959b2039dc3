"""The part of the chat screen that loads models: by name, again with other settings, and back when that fails."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from localknobs.engine import LoadSettings
from localknobs.errors import LocalknobsError
from localknobs.gguf_info import check_is_model, read_header
from localknobs.knobs import KNOBS, Value, defaults
from localknobs.library import BUILT_IN, find_model
from localknobs.terminal_text import printable
from localknobs.tui.bridge import ModelFailed, ModelLoaded, ModelLoading
from localknobs.tui.screens.answering import AnsweringScreen, after_the_answer
from localknobs.tui.widgets.composer import Composer


class ModelScreen(AnsweringScreen):
    """Loads models. `wanted_name` is what the user called the one that is loaded or being loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted_name = BUILT_IN
        self.load_values = defaults("loading")
        self._loaded_values: dict[str, Value] = dict(self.load_values)

    @after_the_answer
    async def use_model(self, name: str) -> None:
        """Go on with another model, or with the same one loaded anew."""
        await self.load_model(name)

    async def load_model(self, name: str) -> None:
        """Load a model by name or path; what cannot be one is refused while the present one stays."""
        try:
            path = find_model(name)
            check_is_model(read_header(path))
        except LocalknobsError as error:
            if not (self.bridge.ready or self.bridge.loading):
                self._show_no_model()
            await self.show_error(error)
            return
        self.wanted_name = name
        self.model_name = name if name == BUILT_IN else Path(name).stem
        self.status.trouble = ""
        self.status.activity = f"loading {printable(self.model_name)} …"
        self.bridge.load(LoadSettings(model=path, **self.load_values))  # type: ignore[arg-type]
        self.refresh_bindings()

    def load_with_context(self, tokens: int) -> None:
        """Load the model again with another context size."""
        self.load_values["n_ctx"] = tokens
        self.show_knobs()
        self.use_model(self.wanted_name)

    def action_reload(self) -> None:
        """Load the model again with the present loading knobs."""
        self.use_model(self.wanted_name)

    @property
    def reload_pending(self) -> bool:
        """Whether a knob was turned that needs a new load; the count of threads needs none."""
        return any(
            value != self._loaded_values[name]
            for name, value in self.load_values.items()
            if KNOBS[name].applies == "reload"
        )

    # ---- what comes ---------------------------------------------------------------------------

    def on_model_loading(self, event: ModelLoading) -> None:
        """Show the progress."""
        if self.bridge.loading:
            self.status.activity = f"loading {printable(self.model_name)} {event.done:.0%}"

    async def on_model_loaded(self, event: ModelLoaded) -> None:
        """Use the new model: its name, its context, its recommended values; then do what waited for it."""
        info = event.info
        self._loaded_values = {name: getattr(event.settings, name) for name in self._loaded_values}
        self._told.clear()
        self.status.activity = self.status.trouble = ""
        self._show_model(f"{self.model_name} · {info.description}")
        self.status.context = (0, info.context_size)
        self.status.speed = self.status.drafts = ""
        self.status.dropped = None
        if self.at_root:
            self.conversation.model = self.wanted_name
        self.sampler.with_model(info.recommended)
        self.show_knobs()
        for note in info.notes:
            self.notify(note, timeout=8)
        self.refresh_bindings()
        if waiting := self._waiting:
            waiting()

    async def on_model_failed(self, event: ModelFailed) -> None:
        """Say why; the messages written so far stay, and the knobs are again those of the last load that worked."""
        self.status.activity = ""
        self._waiting = None
        self._show_no_model()
        self.load_values.update(self._loaded_values)
        self.show_knobs()
        self.refresh_bindings()
        await self.show_error(event.error)

    def _show_no_model(self) -> None:
        self.status.activity = ""
        self.status.trouble = "no model is loaded (F3 chooses one)"
        self._show_model("no model: F3 chooses one")

    def _show_model(self, text: str) -> None:
        """Write the model's name into the frame of the composer."""
        self.query_one(Composer).border_title = Content(printable(text))
