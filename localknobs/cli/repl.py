"""The conversation of `localknobs chat` in a plain terminal: a line editor, streamed answers, slash commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from localknobs.cli.chat import stats_line, write_out
from localknobs.conversations import ROOT, Conversation, Node, plain_text, saved_conversations
from localknobs.engine import Finished, Noted, SamplerChanged, TextArrived
from localknobs.engine.client import Engine
from localknobs.errors import BadValue, ContextFull, EngineDied, LocalknobsError, NotFound
from localknobs.knobs import Value, knob, knobs_of
from localknobs.paths import data_folder
from localknobs.presets import preset, presets, save_preset


class Repl:
    """A conversation with a loaded engine, saved as it is written.

    Args:
        engine: The loaded model.
        model: What the user called it.
        system: System prompt, may be empty.
        sampler: Sampling values to begin with.
        show_stats: Print a line of counts after each answer.
    """

    def __init__(self, engine: Engine, model: str, system: str, sampler: dict[str, Value], *, show_stats: bool) -> None:
        self.engine = engine
        self.model = model
        self.system = system
        self.sampler = dict(sampler)
        self.show_stats = show_stats
        self.conversation = Conversation(model=model)
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/set": (self._set, "KNOB VALUE: turn a knob, such as /set temp 0.2; without a value, show it"),
            "/preset": (
                self._preset,
                "NAME: use a preset; without a name, list them; /preset save NAME keeps your values",
            ),
            "/knobs": (self._knobs, "show every knob that is not at its default"),
            "/system": (self._system, "TEXT: set the system prompt; without a text, show it"),
            "/regen": (self._regenerate, "write the last answer again"),
            "/clear": (self._clear, "begin a new conversation (the old one stays saved)"),
            "/save": (self._save, "FILE: write the conversation as Markdown"),
            "/load": (self._load, "NUMBER: go on with a saved conversation; without a number, list them"),
            "/stats": (self._stats, "show counts and speed after each answer, or no more"),
            "/help": (self._help, "this list"),
            "/bye": (self._bye, "leave (also Ctrl+D)"),
        }
        self._leaving = False

    def run(self) -> int:
        """Read lines and answer them until the user leaves; return the exit code."""
        info = self.engine.info
        print(f"{info.name} · {info.description} · context {info.context_size:,} tokens")
        print("Type a message and press Enter. /help lists the commands, Ctrl+C stops an answer, /bye leaves.")
        read = self._reader()
        while not self._leaving:
            try:
                line = read()
            except EOFError:
                break
            except KeyboardInterrupt:
                print("(Ctrl+D or /bye leaves)")
                continue
            self._handle(line.strip())
        self.conversation.close()
        return 0

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
        words = [
            *self._commands,
            *(f"/set {row.name}" for row in knobs_of("sampling")),
            *(f"/preset {name}" for name in presets(self.engine.info.recommended)),
        ]
        session: PromptSession[str] = PromptSession(
            history=store,
            key_bindings=keys,
            completer=WordCompleter(words, sentence=True),
            complete_while_typing=False,
            enable_suspend=True,
        )
        return lambda: session.prompt("> ")

    def _handle(self, line: str) -> None:
        if not line:
            return
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self.conversation.add("user", line)
                self._answer()
        except ContextFull as error:
            # The message that did not fit is taken out of the branch, so that a shorter one can be tried.
            if line[0] != "/" and self.conversation.leaf != ROOT:
                self.conversation.rewind(self.conversation.nodes[self.conversation.leaf].parent)
            print(f"{error}\n/clear begins a new conversation.", file=sys.stderr)
        except EngineDied as error:
            print(f"\n{error}", file=sys.stderr)
            for log in error.log_tail[-6:]:
                print(f"  log: {log}", file=sys.stderr)
            print("Your next message starts the engine again; /regen tries this one again.", file=sys.stderr)
        except LocalknobsError as error:
            print(error, file=sys.stderr)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            near = get_close_matches(name, self._commands, n=1, cutoff=0.5)
            raise NotFound(f"There is no command {name}", f"Did you mean {near[0]}?" if near else "/help lists them.")
        self._commands[name][0](rest.strip())

    def _answer(self) -> None:
        """Write the answer to the branch as it is; Ctrl+C stops it and keeps what was written."""
        messages = self.conversation.messages(self.system)
        node: Node | None = None
        stream = self.engine.stream(messages, self.sampler)
        try:
            while True:
                try:
                    event = next(stream)
                except StopIteration:
                    break
                if isinstance(event, TextArrived):
                    node = node or self.conversation.add("assistant", "")
                    self.conversation.grow(node, event.text)
                    write_out(event.text)
                elif isinstance(event, SamplerChanged):
                    continue
                elif isinstance(event, Noted):
                    print(f"note: {event.text}", file=sys.stderr)
                elif isinstance(event, Finished):
                    node = node or self.conversation.add("assistant", "")
                    self.conversation.finish(node, event.reason, asdict(event.stats))
                    self._after(event)
        except KeyboardInterrupt:
            self.engine.stop()
            stream.close()  # type: ignore[attr-defined]
            node = node or self.conversation.add("assistant", "")
            self.conversation.finish(node, "stopped")
            print("\n(stopped)")

    def _after(self, event: Finished) -> None:
        print()
        if event.reason == "context":
            print(
                "The context is full, so the answer stops here. "
                "/clear begins a new conversation; -c gives a larger context.",
                file=sys.stderr,
            )
        elif event.reason == "length":
            print(f"(stopped at the limit of {event.stats.generated_tokens} tokens)", file=sys.stderr)
        if self.show_stats:
            print(stats_line(event.stats), file=sys.stderr)

    # ---- commands -----------------------------------------------------------------------------

    def _set(self, text: str) -> None:
        name, _, value = text.replace("=", " ", 1).partition(" ")
        if not name:
            raise BadValue("/set needs a knob", "For example: /set temp 0.2")
        row = knob(name)
        if row.name not in {sampling.name for sampling in knobs_of("sampling")}:
            raise BadValue(f"{row.name} is set when the model is loaded", f"Start again with {row.flags[0]}.")
        if value.strip():
            self.sampler[row.name] = row.parse(value.strip())
        print(f"{row.name} = {row.show(self.sampler.get(row.name, row.default))}    ({row.range_text()})")

    def _preset(self, text: str) -> None:
        recommended = self.engine.info.recommended
        if text.startswith("save"):
            print(f"saved as {save_preset(text.removeprefix('save').strip(), self.sampler)}")
        elif text:
            self.sampler.update(preset(text, recommended).values)
            print(f"preset {text}")
        else:
            for known in presets(recommended).values():
                print(f"{known.name:<14} {known.help}")

    def _knobs(self, _text: str) -> None:
        for row in knobs_of("sampling"):
            value = self.sampler.get(row.name, row.default)
            if value != row.default:
                print(f"{row.name:<20} {row.show(value)}")

    def _system(self, text: str) -> None:
        if text:
            self.system = text
        print(f"system prompt: {self.system or '(none)'}")

    def _regenerate(self, _text: str) -> None:
        branch = self.conversation.branch()
        while branch and branch[-1].role == "assistant":
            branch.pop()
        if not branch:
            raise BadValue("There is no answer yet", "Write a message first.")
        self.conversation.rewind(branch[-1].id)
        self._answer()

    def _clear(self, _text: str) -> None:
        self.conversation.close()
        self.conversation = Conversation(model=self.model)
        print("new conversation")

    def _save(self, text: str) -> None:
        if not text:
            raise BadValue("/save needs a file", "For example: /save chat.md")
        target = Path(text).expanduser()
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(plain_text(self.conversation.branch()))
        except FileExistsError:
            raise BadValue(f"{target} exists already", "Choose another name; nothing is overwritten.") from None
        except OSError as error:
            raise BadValue(f"{target} cannot be written: {error.strerror}", "Choose another place.") from None
        print(f"written to {target}")

    def _load(self, text: str) -> None:
        saved = saved_conversations()[:20]
        if not text:
            for number, entry in enumerate(saved, 1):
                print(f"{number:>3}  {entry.title}{'  (interrupted)' if entry.interrupted else ''}")
            print("/load NUMBER goes on with one." if saved else "There is no saved conversation yet.")
            return
        if not text.isdigit() or not 1 <= int(text) <= len(saved):
            raise BadValue(f"There is no conversation {text}", "/load lists them.")
        self.conversation.close()
        self.conversation = Conversation(saved[int(text) - 1].path)
        for node in self.conversation.branch():
            print(f"{'> ' if node.role == 'user' else ''}{node.text}{'  (interrupted)' if node.interrupted else ''}")

    def _stats(self, _text: str) -> None:
        self.show_stats = not self.show_stats
        print(stats_line(self.engine.stats) if self.show_stats else "counts are not shown any more")

    def _help(self, _text: str) -> None:
        for name, (_, text) in self._commands.items():
            print(f"  {name:<8} {text}")
        print("  Alt+Enter or Ctrl+J starts a new line; Ctrl+C stops the answer.")

    def _bye(self, _text: str) -> None:
        self._leaving = True
