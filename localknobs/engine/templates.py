"""From messages to prompt tokens: the model's chat template, with the user's text kept text.

Control tokens such as `<|im_end|>` count only where the template wrote them. Before rendering,
every spelling of one inside a message is replaced by a marker; after rendering, the text is split at
the control tokens that are left, which are the template's, and what lies between is tokenized as
plain text, with the user's spellings back in place.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from localknobs.engine.events import Message
from localknobs.errors import LocalknobsError

RENDER_TIMEOUT_S = 10.0
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ 'User' if message.role == 'user' else 'Assistant' }}: {{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOPS = ("\nUser:",)


class TemplateFailed(LocalknobsError):
    """A chat template could not be rendered; the message says why."""


class TemplateOverLimits(TemplateFailed):
    """It took too much time or memory, and would again."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Args:
        tokens: What the model reads.
        stops: Stop strings that this way of prompting needs.
        note: Set when a substitute for the model's own template was used.
        turns: Questions with what followed each, the last one being answered now; 0 for a raw text.
        without_turns: Returns the tokens without so many of the oldest turns.
    """

    tokens: list[int]
    stops: tuple[str, ...] = ()
    note: str = ""
    turns: int = 0
    without_turns: Callable[[int], list[int]] = lambda _count: []


class TemplateRenderer:
    """Holds the process that renders; starts it again when it had to be killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process now, so that it is ready when the first message comes."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "localknobs.engine.template_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",  # JSON with escapes
            )

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """Return the template's text.

        Raises:
            TemplateFailed: it does not parse, refuses these messages, or runs beyond its limits.
        """
        request = json.dumps({"template": template, "variables": variables}) + "\n"
        line, limited = self._ask(request)
        if not line and not limited:  # ended by something outside: the template may be innocent
            line, limited = self._ask(request)
        if not line:
            raise TemplateOverLimits("The chat template ran beyond its limits of time or memory")
        reply = json.loads(line)
        if "error" in reply:
            raise TemplateFailed(f"The chat template failed: {reply['error']}")
        return str(reply["text"])

    def _ask(self, request: str) -> tuple[str, bool]:
        """Return the reply's line, or none and whether a limit ended the process."""
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(RENDER_TIMEOUT_S, process.kill)
        timer.daemon = True
        timer.start()
        line = ""
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            pass
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
        if line.endswith("\n"):
            return line, False
        code = process.wait()
        return "", timed_out or -code == getattr(signal, "SIGXCPU", None)

    def close(self) -> None:
        """End the process; may be called twice."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()


class ChatTemplate:
    """The way from messages to tokens of one model.

    Args:
        source: The template's text, None when the model has none.
        tokenize: `tokenize(text, special=bool)` of the model.
        control_texts: Spellings of its control tokens, which only text tokenized as special becomes.
        added_texts: Spellings of other tokens that structure its prompts, which any text becomes.
        begin, end: Begin and end token as text, for the template's `bos_token` and `eos_token`.
        begin_token: Token that every prompt must start with, -1 for none.
    """

    def __init__(
        self,
        source: str | None,
        *,
        tokenize: Callable[..., list[int]],
        control_texts: Collection[str],
        added_texts: Collection[str],
        begin: str,
        end: str,
        begin_token: int,
        renderer: TemplateRenderer,
    ) -> None:
        self.source = source
        self._tokenize = tokenize
        self._control = _any_of(control_texts)
        self._reserved = _any_of([*control_texts, *added_texts])
        self._added = frozenset(added_texts)
        self._is_chatml = {"<|im_start|>", "<|im_end|>"} <= {*control_texts, *added_texts}
        self._variables = {"bos_token": begin, "eos_token": end}
        self._begin_token = begin_token
        self._renderer = renderer
        self._broken = ""  # why the model's own template is not used any more

    def prompt(self, messages: Sequence[Message], *, continue_last: bool = False) -> Prompt:
        """Return the tokens of a conversation, ready for the assistant's turn.

        Args:
            messages: The conversation.
            continue_last: The last message is the assistant's, and the model goes on with it.
        """
        tokens, stops, note = self._prompt_tokens(messages, continue_last)
        starts = [at for at, message in enumerate(messages) if message["role"] == "user"]
        known: dict[int, list[int]] = {0: tokens}

        def without_turns(count: int) -> list[int]:
            if count not in known:
                shorter = [*messages[: starts[0]], *messages[starts[count] :]]
                known[count] = self._prompt_tokens(shorter, continue_last)[0]
            return known[count]

        return Prompt(tokens, stops, note, len(starts), without_turns)

    def _prompt_tokens(
        self, messages: Sequence[Message], continue_last: bool
    ) -> tuple[list[int], tuple[str, ...], str]:
        """Return the tokens, stop texts and note of a conversation."""
        # The marker is letters and digits of a random number: no template and no user can know it.
        nonce = "Zq" + secrets.token_hex(8)
        hidden: list[str] = []
        shown = [{"role": message["role"], "content": self._hide(message, nonce, hidden)} for message in messages]
        tail = shown.pop()["content"] if continue_last and shown and shown[-1]["role"] == "assistant" else ""
        text, stops, note = self._render(shown)
        tokens = self._tokens(text + tail, nonce, hidden)
        if self._begin_token >= 0 and tokens[:1] != [self._begin_token]:
            tokens.insert(0, self._begin_token)
        return tokens, stops, note

    def plain(self, text: str) -> Prompt:
        """Return the tokens of a raw prompt: no template, control tokens read as such."""
        tokens = self._tokenize(text, special=True)
        if self._begin_token >= 0 and tokens[:1] != [self._begin_token]:
            tokens.insert(0, self._begin_token)
        return Prompt(tokens)

    def _render(self, messages: list[dict[str, str]]) -> tuple[str, tuple[str, ...], str]:
        variables = {**self._variables, "messages": messages, "add_generation_prompt": True}
        note = self._broken
        if self.source and not self._broken:
            try:
                return self._renderer.render(self.source, variables), (), ""
            except TemplateFailed as error:
                note = f"{error.message}. A plain template is used instead."
                if isinstance(error, TemplateOverLimits):
                    self._broken = note  # once is enough to know
        elif not self.source:
            note = "This model has no chat template, so a plain one is used; a base model may ramble."
        if self._is_chatml:
            return self._renderer.render(CHATML, variables), (), note
        return self._renderer.render(PLAIN, variables), PLAIN_STOPS, note

    def _hide(self, message: Message, nonce: str, hidden: list[str]) -> str:
        # A template may look for added tokens such as `</think>` in what the assistant said.
        pattern = self._control if message["role"] == "assistant" else self._reserved

        def marker(found: re.Match[str]) -> str:
            hidden.append(found[0])
            return f"{nonce}x{len(hidden) - 1}x"

        return pattern.sub(marker, message["content"]) if pattern else message["content"]

    def _tokens(self, text: str, nonce: str, hidden: list[str]) -> list[int]:
        if not hidden:
            return self._tokenize(text, special=True)
        tokens: list[int] = []
        place = 0
        for found in self._control.finditer(text) if self._control else ():
            tokens += self._plain_tokens(text[place : found.start()], nonce, hidden)
            tokens += self._tokenize(found[0], special=True)
            place = found.end()
        return tokens + self._plain_tokens(text[place:], nonce, hidden)

    def _plain_tokens(self, text: str, nonce: str, hidden: list[str]) -> list[int]:
        """Return the tokens of text without control tokens, the hidden spellings put back."""
        tokens: list[int] = []
        waiting = ""
        pieces = re.split(f"{nonce}x(\\d+)x", text)  # text, index, text, index, ... text
        for place, piece in enumerate(pieces):
            spelling = hidden[int(piece)] if place % 2 else piece
            if place % 2 and spelling in self._added:
                # An added token is read wherever its whole spelling stands: cut it in two.
                tokens += self._tokenize(waiting + spelling[:1], special=False)
                waiting = spelling[1:]
            else:
                waiting += spelling
        return tokens + (self._tokenize(waiting, special=False) if waiting else [])


def _any_of(texts: Collection[str]) -> re.Pattern[str] | None:
    """Return a pattern for any of these texts, the longest first; None for no texts."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None
