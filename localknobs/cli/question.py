"""What the verbs that put one question to a model share: its arguments, the prompt, the model, the knobs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from localknobs.cli.output import clear_progress, note, show_progress
from localknobs.engine import LoadSettings, Message, load
from localknobs.engine.client import Engine
from localknobs.errors import BadValue, NotFound
from localknobs.flags import add_knob_flags, chosen
from localknobs.knobs import Value
from localknobs.library import BUILT_IN, find_model
from localknobs.presets import preset
from localknobs.sampler_state import SamplerState


def add_model_arguments(parser: ArgumentParser) -> None:
    """Add the model and the preset."""
    parser.add_argument(
        "model", nargs="?", default=BUILT_IN, help="a GGUF file or a name from `localknobs ls` (default: built-in)"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="sampling preset: default, deterministic, code, chat, creative, brainstorm, model, or one of yours",
    )


def add_question_arguments(parser: ArgumentParser, prompt_help: str) -> None:
    """Add the model, the prompt with what belongs to it, and the preset."""
    add_model_arguments(parser)
    parser.add_argument("-p", "--prompt", help=f"{prompt_help}; text on standard input is added to it")
    parser.add_argument("-s", "--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")


def add_all_knob_flags(parser: ArgumentParser) -> None:
    """Add the flags of the sampling and of the loading knobs, and the target length, which sets some of these."""
    parser.add_argument(
        "--target-ctx", metavar="N", type=int,
        help="make the model see so many tokens: chooses -c and the RoPE scaling, as `localknobs context` shows",
    )  # fmt: skip
    add_knob_flags(parser, "sampling")
    add_knob_flags(parser, "loading")


def prompt_of(options: Namespace) -> str | None:
    """Return the prompt from -p and standard input, None when there is none and a terminal.

    Raises:
        BadValue: it is empty, no text, or does not go with the other arguments.
    """
    prompt: str | None = options.prompt
    if not sys.stdin.isatty():
        piped = _piped_text(whole=options.raw)
        # `chat -p "Sum this up:" < file` reads both, in that order.
        prompt = "\n".join(part for part in (prompt, piped) if part) or prompt
        if prompt is None:
            raise BadValue("Standard input is empty", "Pipe a prompt in, or give one with -p.")
    if prompt is not None and not prompt.strip():
        raise BadValue("The prompt is empty", 'Give one: -p "What is a token?"')
    if options.raw and (options.system or prompt is None):
        raise BadValue("--raw takes a prompt and no system prompt", "Give the whole text with -p.")
    return prompt


def needed_prompt(options: Namespace) -> str:
    """Return the prompt; raises `BadValue` when there is none."""
    prompt = prompt_of(options)
    if prompt is None:
        raise BadValue("A prompt is needed", 'Give one: -p "What is a token?"')
    return prompt


def _piped_text(*, whole: bool) -> str:
    """Return standard input, without blank lines around it; `whole` takes off only the last line's end."""
    try:
        # As bytes, since Python's own decoding depends on the locale.
        text = sys.stdin.buffer.read().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise BadValue("Standard input is not text in UTF-8", "Convert it, for example with iconv.") from None
    return text.removesuffix("\n") if whole else text.rstrip().lstrip("\n")


def question_of(options: Namespace, prompt: str) -> Sequence[Message] | str:
    """Return the prompt as the engine takes it: with the system prompt in front, or as it is."""
    if options.raw:
        return prompt
    system = [Message(role="system", content=options.system)] if options.system else []
    return [*system, Message(role="user", content=prompt)]


@contextmanager
def opened(options: Namespace) -> Iterator[tuple[Engine, SamplerState]]:
    """Load the model of the command line; yield it with the sampling values, and close it."""
    if options.preset and options.preset != "model":
        preset(options.preset)  # a slip is told before the model is loaded
    with load(_settings(options), lambda done: show_progress(f"loading {done:4.0%}")) as engine:
        clear_progress()
        for text in engine.info.notes:
            note(text)
        sampler = SamplerState(engine.info.recommended, options.preset)
        for name, value in chosen(options, "sampling").items():
            sampler.set(name, value)
        yield engine, sampler


def _settings(options: Namespace) -> LoadSettings:
    """Return how the model is loaded: the flags, and for --target-ctx what reaches that length."""
    settings = LoadSettings(model=_model(options.model), **_loading(options))  # type: ignore[arg-type]
    if options.target_ctx is None:
        return settings
    from localknobs.engine.target_length import proposed_settings

    return proposed_settings(settings, options.target_ctx)


def _loading(options: Namespace) -> dict[str, Value]:
    """Return the loading knobs of the command line; a draft model alone means: use it where it helps."""
    loading = chosen(options, "loading")
    return {"draft": "auto", **loading} if loading.get("model_draft") else loading


def _model(name: str) -> Path:
    try:
        return find_model(name)
    except NotFound as error:
        if " " in name:
            raise NotFound(error.message, "A prompt goes after -p: localknobs chat -p PROMPT") from None
        raise
