"""The conversation of `localknobs chat` in a plain terminal: lines in, streamed answers out; saved as it is written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from localknobs.cli.chat import show_reading, stats_line, why_it_ended
from localknobs.cli.commands import Commands
from localknobs.cli.full_context import FullContext
from localknobs.cli.interrupt import ctrl_c_stops
from localknobs.cli.output import AnswerWriter, note, one_line, wrapped
from localknobs.conversations import ROOT, Conversation, Node
from localknobs.engine import ContextDropped, Finished, Noted, PromptRead, TextArrived
from localknobs.engine.adapter_rack import AdapterRack
from localknobs.engine.client import Engine
from localknobs.errors import ContextFull, EngineDied, LocalknobsError
from localknobs.fit.speed import remember_answer
from localknobs.knobs import KNOBS
from localknobs.paths import data_folder
from localknobs.sampler_state import SamplerState
from localknobs.terminal_text import printable
from localknobs.units import count_text, size_text


class Repl:
    """A conversation with a loaded engine.

    Args:
        engine: The loaded model.
        model: What the user called it.
        system: System prompt, may be empty.
        sampler: Sampling values to begin with.
        show_stats: Print a line of counts after each answer.
    """

    def __init__(self, engine: Engine, model: str, system: str, sampler: SamplerState, *, show_stats: bool) -> None:
        self.engine = engine
        self.model = model
        self.sampler = sampler
        self.show_stats = show_stats
        self.conversation = Conversation(model=model, system=system)
        self.leaving = False
        self._told: set[str] = set()
        self._full_context = FullContext()
        self.commands = Commands(self)

    def run(self, first: str = "") -> int:
        """Read lines and answer them until the user leaves; return the exit code.

        Args:
            first: A line to handle before any is read.
        """
        self._greet()
        self._handle(first)
        read = self._reader()
        try:
            while not self.leaving:
                try:
                    line = read()
                except EOFError:
                    break
                except KeyboardInterrupt:
                    print("(Ctrl+D or /bye leaves)")
                    continue
                self._handle(line)
        finally:
            self.leave()
        return 0

    def leave(self) -> None:
        """Close the conversation, and put its cache aside where the user wants that."""
        name = self.conversation.path.stem
        self.conversation.close()
        with suppress(LocalknobsError):  # an engine that died has nothing to put aside
            if self.engine.settings.park_cache != "off" and self.conversation.nodes:
                self._note_once(self.engine.save_cache(name).note)

    def enter(self) -> None:
        """Take back the cache of the conversation that was opened."""
        if self.engine.settings.park_cache != "off":
            self._note_once(self.engine.restore_cache(self.conversation.path.stem).note)

    def _greet(self) -> None:
        info = self.engine.info
        about = f"{info.architecture}, {count_text(info.parameters)} parameters, {size_text(info.size_bytes)}"
        print(wrapped(f"{one_line(info.name)} · {about} · context {info.context_size:,} tokens"))
        print(
            wrapped(
                f"Sampling: preset {self.sampler.preset.name}{', changed' if self.sampler.changed else ''}. "
                "Type a message and press Enter. /help lists the commands, Ctrl+C stops an answer, /bye leaves."
            )
        )

    def _reader(self) -> Callable[[], str]:
        """Return a function that reads one line: with editing and history where the terminal can."""
        if os.environ.get("TERM", "dumb") == "dumb":
            return lambda: input("> ")
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("escape", "enter")
        @keys.add("c-j")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        history = data_folder() / "chat_history"
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch(mode=0o600, exist_ok=True)
            store: Any = FileHistory(str(history))
        except OSError:
            store = None  # a home that cannot be written to costs the history, not the chat
        session: PromptSession[str] = PromptSession(
            history=store,
            key_bindings=keys,
            completer=WordCompleter(self.commands.completions(), sentence=True),
            complete_while_typing=False,
            enable_suspend=True,
        )
        return lambda: session.prompt("> ")

    def _handle(self, line: str) -> None:
        """Do what a line asks; every error is told and the conversation goes on."""
        text = line.strip()
        if not text:
            return
        try:
            if line.startswith("/"):
                self.commands.do(text)
            else:
                self.conversation.add("user", text)
                if self.conversation.unsaved:
                    self._note_once(f"{self.conversation.unsaved} The chat goes on unsaved.")
                self._answer_or_ask()
        except ContextFull as error:
            # The message that did not fit is taken out of the branch, so that a shorter one can be tried.
            if not line.startswith("/") and self.conversation.leaf != ROOT:
                self.conversation.rewind(self.conversation.nodes[self.conversation.leaf].parent)
            self._tell(f"{error}\n/clear begins a new conversation.")
        except EngineDied as error:
            self._tell("\n".join([str(error), *(f"  log: {log}" for log in error.log_tail[-6:])]))
            self._tell("Your next message starts the engine again; /regen tries this one again.")
        except LocalknobsError as error:
            self._tell(str(error))
        except KeyboardInterrupt:
            self._tell("Stopped. If the engine hung, it starts again with your next message.")

    @staticmethod
    def _tell(text: str) -> None:
        for line in text.split("\n"):
            print(wrapped(printable(line)), file=sys.stderr)

    def _note_once(self, text: str) -> None:
        if text and text not in self._told:  # such as a missing chat template: true of every answer
            note(text)
        self._told.add(text)

    def _answer_or_ask(self) -> None:
        """Write the answer; where the context is full, ask once what shall go."""
        try:
            self.answer()
        except ContextFull:
            if not self._full_context.settled(self.engine):
                raise
            self.answer()

    def answer(self, continued: Node | None = None) -> None:
        """Write the answer to the branch as it is, or go on with one; Ctrl+C stops it and keeps what was written."""
        messages = self.conversation.messages()
        adapters = AdapterRack.of(self.engine.settings.adapters()).acting()
        writer = AnswerWriter()
        node = continued
        finished: Finished | None = None
        dropped: ContextDropped | None = None
        try:
            with ctrl_c_stops(self.engine):
                for event in self.engine.stream(messages, self.sampler.values, continue_last=continued is not None):
                    if isinstance(event, PromptRead):
                        show_reading(event)
                    elif isinstance(event, TextArrived):
                        node = node or self.conversation.add("assistant", "")
                        writer.write(event.text)
                        self.conversation.grow(node, event.text)
                    elif isinstance(event, Noted):
                        self._note_once(event.text)
                    elif isinstance(event, ContextDropped):
                        dropped = event
                    elif isinstance(event, Finished):
                        node = node or self.conversation.add("assistant", "")
                        # With its model and adapters, since others may go on with the conversation.
                        stats = {**asdict(event.stats), "model": self.model, "adapters": adapters}
                        self.conversation.finish(node, event.reason, stats)
                        finished = event
        finally:
            if node:
                writer.end()  # also before an error is told
        if dropped:
            note(dropped.text)  # the last of an answer tells all
        if finished:
            remember_answer(self.engine.info, self.engine.settings, finished.stats)
            self._say_why(finished)
            if finished.reason == "context" and node and self._full_context.settled(self.engine):
                self.answer(node)

    def _say_why(self, finished: Finished) -> None:
        if text := why_it_ended(finished.reason, finished.stats):
            more = {
                "context": "; /clear begins a new conversation, -c gives a larger context",
                "length": f"; /set {KNOBS['n_predict'].name} changes it",
            }.get(finished.reason, "")
            print(wrapped(f"({text}{more})"))
        if self.show_stats:
            print(wrapped(stats_line(finished.stats)), file=sys.stderr)
