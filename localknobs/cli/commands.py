"""The slash commands of the conversation in a plain terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from localknobs.cli.adapter_commands import USAGE, AdapterCommands
from localknobs.cli.chat import stats_line
from localknobs.cli.output import AnswerWriter, facts, note, wrapped
from localknobs.conversations import Conversation, plain_text, saved_conversations
from localknobs.errors import BadValue, UnknownName
from localknobs.knobs import Knob, knob, knobs_of
from localknobs.paths import user_path
from localknobs.presets import presets
from localknobs.terminal_text import printable

if TYPE_CHECKING:
    from localknobs.cli.repl import Repl

LISTED = 20
"""Saved conversations that /load shows."""
_ALIASES = {"/exit": "/bye", "/quit": "/bye", "/q": "/bye", "/?": "/help", "/new": "/clear", "/retry": "/regen"}


class Commands:
    """What can be typed with a slash before it.

    Args:
        repl: The conversation that the commands work on.
    """

    def __init__(self, repl: Repl) -> None:
        self._repl = repl
        self.adapters = AdapterCommands(repl.engine)
        self._table: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/set": ("KNOB VALUE", "turn a knob, as in /set temp 0.2; default resets it, no value shows it", self._set),
            "/knobs": ("", "show every knob that is not at its preset's value", self._knobs),
            "/preset": ("NAME", "use a preset; no name lists them; save NAME keeps your values as one", self._preset),
            "/system": ("TEXT", "set the system prompt; no text shows it, - takes it away", self._system),
            "/lora": (
                USAGE,
                "LoRA adapters of the next answer; no word lists them, off is the base alone",
                self._lora,
            ),
            "/control-vector": (USAGE, "the same for control vectors, in the same list", self._control_vector),
            "/regen": ("", "write the last answer again", self._regenerate),
            "/clear": ("", "begin a new conversation; the old one stays saved", self._clear),
            "/load": ("NUMBER", "go on with a saved conversation; no number lists them", self._load),
            "/save": ("FILE", "write the conversation to a file, as Markdown", self._save),
            "/stats": ("", "show counts and speed after each answer, or no more", self._stats),
            "/help": ("", "this list", self._help),
            "/bye": ("", "leave (also Ctrl+D)", self._bye),
        }

    def do(self, line: str) -> None:
        """Run one command line.

        Raises:
            UnknownName, BadValue: the command does not exist, or cannot take what follows it.
        """
        name, _, rest = line.partition(" ")
        name = _ALIASES.get(name.lower(), name.lower())
        if name not in self._table:
            near = get_close_matches(name, self._table, n=1, cutoff=0.5)
            hint = (
                f"Did you mean {near[0]}?" if near else "/help lists them; a space before the / sends it as a message."
            )
            raise UnknownName(f"There is no command {name}", hint)
        self._table[name][2](rest.strip())

    def completions(self) -> list[str]:
        """Return the lines that the Tab key can complete."""
        return [
            *self._table,
            *(f"/set {row.name}" for row in (*knobs_of("sampling"), *knobs_of("loading")) if row.applies != "reload"),
            *(f"/preset {name}" for name in presets(self._repl.engine.info.recommended)),
        ]

    def _set(self, text: str) -> None:
        found = re.fullmatch(r"([\w-]+)\s*=?\s*(.*)", text, re.DOTALL)
        if not found:
            raise BadValue("/set needs a knob", "For example: /set temp 0.2")
        row, value = knob(found[1]), found[2].strip()
        if row.applies == "next answer" and row in knobs_of("loading"):
            self._set_loading(row, value)
            return
        sampler = self._repl.sampler
        if row.name not in sampler.values:
            raise BadValue(f"{row.name} is set when the model is loaded", f"Start again with {row.flags[0]}.")
        if value:
            sampler.set(row.name, sampler.standard[row.name] if value == "default" else row.parse(value))
        print(wrapped(printable(f"{row.name} = {self._shown(row)}    ({row.range_text()})"), "    ", ""))

    def _set_loading(self, row: Knob, value: str) -> None:
        """Set a loading knob that needs no new load, such as `threads`."""
        engine = self._repl.engine
        if value:
            for text in engine.use_settings({row.name: row.default if value == "default" else row.parse(value)}):
                note(text)
        when = ", from the next answer on" if value else f"    ({row.range_text()})"
        print(wrapped(f"{row.name} = {row.show(getattr(engine.settings, row.name))}{when}", "    ", ""))

    def _lora(self, text: str) -> None:
        self.adapters.do("adapter", text)

    def _control_vector(self, text: str) -> None:
        self.adapters.do("control vector", text)

    def _shown(self, row: Knob) -> str:
        value = self._repl.sampler.values[row.name]
        return "none" if value in ("", ()) else row.show(value)

    def _knobs(self, _text: str) -> None:
        sampler = self._repl.sampler
        turned = [row for row in knobs_of("sampling") if sampler.values[row.name] != sampler.standard[row.name]]
        print(f"preset {sampler.preset.name}: {sampler.preset.help}")
        print(facts((row.name, self._shown(row)) for row in turned) if turned else "Every knob is at its value.")

    def _preset(self, text: str) -> None:
        sampler = self._repl.sampler
        verb, _, name = text.partition(" ")
        if verb == "save":
            if not name.strip():
                raise BadValue("/preset save needs a name", "For example: /preset save mine")
            sampler.save(name.strip())
            print(f"saved as the preset {name.strip()}")
        elif text:
            sampler.use(text)
            print(f"preset {text}: {sampler.preset.help}")
        else:
            known = presets(sampler.recommended).values()
            print(facts((f"{'*' if one.name == sampler.preset.name else ' '} {one.name}", one.help) for one in known))

    def _system(self, text: str) -> None:
        if text:
            self._repl.conversation.instruct("" if text == "-" else text)
        print(f"system prompt: {printable(self._repl.conversation.system) or '(none)'}")

    def _regenerate(self, _text: str) -> None:
        conversation = self._repl.conversation
        branch = conversation.branch()
        while branch and branch[-1].role == "assistant":
            branch.pop()
        if not branch:
            raise BadValue("There is no answer yet", "Write a message first.")
        conversation.rewind(branch[-1].id)
        self._repl.answer()

    def _clear(self, _text: str) -> None:
        self._repl.leave()
        self._repl.conversation = Conversation(model=self._repl.model, system=self._repl.conversation.system)
        print("new conversation")

    def _save(self, text: str) -> None:
        branch = self._repl.conversation.branch()
        if not text:
            raise BadValue("/save needs a file", "For example: /save chat.md")
        if not branch:
            raise BadValue("There is nothing to save yet", "Write a message first.")
        try:
            target = user_path(text)
            with target.open("x", encoding="utf-8", errors="replace") as file:
                file.write(plain_text(branch))
        except FileExistsError:
            raise BadValue(f"{text} exists already", "Choose another name; nothing is overwritten.") from None
        except OSError as error:
            raise BadValue(f"{text} cannot be written: {error.strerror or error}", "Choose another place.") from None
        print(f"written to {target}")

    def _load(self, text: str) -> None:
        saved = saved_conversations()
        if not text:
            rows = [(f"{at:>3}", f"{one.title}{_torn(one.interrupted)}") for at, one in enumerate(saved[:LISTED], 1)]
            print(facts(rows) if saved else "There is no saved conversation yet.")
            if saved:
                latest = f"The latest {LISTED} of {len(saved)}. " if len(saved) > LISTED else ""
                print(f"{latest}/load NUMBER goes on with one.")
            return
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= len(saved):
            raise BadValue(f"There is no conversation {text}", "/load lists them.")
        loaded = Conversation(saved[int(text) - 1].path)
        self._repl.leave()
        self._repl.conversation = loaded
        self._repl.enter()
        self._print_branch(loaded)

    def _print_branch(self, loaded: Conversation) -> None:
        branch = loaded.branch()
        for node in branch:
            writer = AnswerWriter()
            writer.write(("> " if node.role == "user" else "") + node.text + _torn(node.interrupted))
            writer.end()
        if loaded.model and loaded.model != self._repl.model:
            note(f"This was written with {loaded.model}; {self._repl.model} goes on with it.")
        if branch and branch[-1].role == "user":
            note("The last message has no answer yet; /regen writes one.")

    def _stats(self, _text: str) -> None:
        self._repl.show_stats = not self._repl.show_stats
        stats = self._repl.engine.stats
        if not self._repl.show_stats:
            print("counts are not shown any more")
        else:
            print(wrapped(stats_line(stats)) if stats.prompt_tokens else "counts are shown after each answer")

    def _help(self, _text: str) -> None:
        print(facts((f"{name} {argument}".rstrip(), text) for name, (argument, text, _) in self._table.items()))
        print(wrapped("Ctrl+J or Alt+Enter starts a new line, Tab completes a command, Ctrl+C stops an answer."))

    def _bye(self, _text: str) -> None:
        self._repl.leaving = True


def _torn(interrupted: bool) -> str:
    return "  (interrupted)" if interrupted else ""
