"""`localknobs chat [MODEL] [-p PROMPT]`: one answer, or a conversation line by line."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from localknobs.cli.flags import add_knob_flags, chosen
from localknobs.cli.interrupt import ctrl_c_stops
from localknobs.cli.main import STOPPED
from localknobs.cli.output import AnswerWriter, clear_progress, note, print_json, show_progress, wrapped
from localknobs.engine import Finished, LoadSettings, Message, Noted, PromptRead, Stats, TextArrived, load
from localknobs.engine.client import Engine
from localknobs.errors import BadValue, NotFound
from localknobs.fit.speed import remember_answer
from localknobs.knobs import Value
from localknobs.library import BUILT_IN, find_model
from localknobs.presets import preset
from localknobs.sampler_state import SamplerState

_LONG_PROMPT = 1024
"""Tokens of a prompt from which on its reading is shown."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] [-p PROMPT] [-s SYSTEM] [--preset NAME] [KNOB FLAGS] [--stats] [--json]"
    parser.add_argument(
        "model", nargs="?", default=BUILT_IN, help="a GGUF file or a name from `localknobs ls` (default: built-in)"
    )
    parser.add_argument("-p", "--prompt", help="answer this and leave; text on standard input is added to it")
    parser.add_argument("-s", "--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="sampling preset: default, deterministic, code, chat, creative, brainstorm, model, or one of yours",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print counts and speed after each answer, on standard error"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text (with -p or a pipe)")
    parser.add_argument(
        "--target-ctx", metavar="N", type=int,
        help="make the model see so many tokens: chooses -c and the RoPE scaling, as `localknobs context` shows",
    )  # fmt: skip
    add_knob_flags(parser, "sampling")
    add_knob_flags(parser, "loading")


def run(options: Namespace) -> int:
    """Answer one prompt, or open the conversation."""
    prompt = _prompt(options)
    if options.preset and options.preset != "model":
        preset(options.preset)  # a slip is told before the model is loaded
    settings = _settings(options)
    with load(settings, lambda done: show_progress(f"loading {done:4.0%}")) as engine:
        clear_progress()
        for text in engine.info.notes:
            note(text)
        sampler = SamplerState(engine.info.recommended, options.preset)
        for name, value in chosen(options, "sampling").items():
            sampler.set(name, value)
        if prompt is None:
            from localknobs.cli.repl import Repl

            return Repl(engine, options.model, options.system, sampler, show_stats=options.stats).run()
        return _answer_once(engine, prompt, options, sampler)


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


def _prompt(options: Namespace) -> str | None:
    """Return the prompt from -p and standard input, None when there is to be a conversation."""
    prompt: str | None = options.prompt
    if not sys.stdin.isatty():
        piped = _piped_text(whole=options.raw)
        # `chat -p "Sum this up:" < file` reads both, in that order.
        prompt = "\n".join(part for part in (prompt, piped) if part) or prompt
        if prompt is None:
            raise BadValue("Standard input is empty", "Pipe a prompt in, or give one with -p.")
    if prompt is not None and not prompt.strip():
        raise BadValue("The prompt is empty", 'Give one: localknobs chat -p "What is a token?"')
    if options.json and prompt is None:
        raise BadValue("--json needs a prompt", "Give one with -p or through a pipe.")
    if options.raw and (options.system or prompt is None):
        raise BadValue("--raw takes a prompt and no system prompt", "Give the whole text with -p.")
    if prompt is None and not sys.stdout.isatty():
        raise BadValue("A conversation needs a terminal to write to", "For one answer in a pipe or a file, use -p.")
    return prompt


def _piped_text(*, whole: bool) -> str:
    """Return standard input, without blank lines around it; `whole` takes off only the last line's end."""
    try:
        # As bytes, since Python's own decoding depends on the locale.
        text = sys.stdin.buffer.read().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise BadValue("Standard input is not text in UTF-8", "Convert it, for example with iconv.") from None
    return text.removesuffix("\n") if whole else text.rstrip().lstrip("\n")


def _model(name: str) -> Path:
    try:
        return find_model(name)
    except NotFound as error:
        if " " in name:
            raise NotFound(error.message, "A prompt goes after -p: localknobs chat -p PROMPT") from None
        raise


def _answer_once(engine: Engine, prompt: str, options: Namespace, sampler: SamplerState) -> int:
    system = [Message(role="system", content=options.system)] if options.system else []
    question: Sequence[Message] | str = prompt if options.raw else [*system, Message(role="user", content=prompt)]
    writer, pieces, reason = AnswerWriter(), [], ""
    with ctrl_c_stops(engine):
        for event in engine.stream(question, sampler.values):
            if isinstance(event, PromptRead):
                show_reading(event)
            elif isinstance(event, TextArrived):
                pieces.append(event.text)
                if not options.json:
                    writer.write(event.text)
            elif isinstance(event, Noted):
                note(event.text)
            elif isinstance(event, Finished):
                reason = event.reason
    if options.json:
        print_json(
            {
                "model": engine.info.path, "answer": "".join(pieces), "finish_reason": reason,
                "preset": sampler.preset.name, "sampler": sampler.values, "stats": asdict(engine.stats),
            }
        )  # fmt: skip
    else:
        writer.end()
    remember_answer(engine.info, engine.settings, engine.stats)
    if text := why_it_ended(reason, engine.stats):
        note(text + ("; -c gives a larger context." if reason == "context" else "."))
    if options.stats:
        print(wrapped(stats_line(engine.stats)), file=sys.stderr)
    return STOPPED if reason == "stopped" else 0


def show_reading(event: PromptRead) -> None:
    """Show how far a long prompt was read; nothing for a short one."""
    if event.total - event.reused >= _LONG_PROMPT:
        whole = event.done >= event.total
        show_progress("" if whole else f"reading the prompt: {event.done:,} of {event.total:,} tokens")


def why_it_ended(reason: str, stats: Stats) -> str:
    """Say why an answer broke off, without a full stop; empty when it came to its own end."""
    return {
        "context": f"The context of {stats.context_size:,} tokens is full, so the answer stops here",
        "length": f"The answer stops at the limit of {stats.generated_tokens} tokens",
        "stopped": "The answer was stopped",
    }.get(reason, "")


def draft_text(stats: Stats) -> str:
    """Say how drafts did, empty when there were none."""
    if not stats.drafted_tokens:
        return ""
    share = stats.accepted_tokens / stats.drafted_tokens
    by = f" by {' and '.join(stats.drafted_by)}" if stats.drafted_by else ""
    gain = f", {stats.draft_gain:.2f} times as fast as without" if stats.draft_gain else ""
    return f"{stats.accepted_tokens} of {stats.drafted_tokens} guessed tokens accepted ({share:.0%}){by}{gain}"


def stats_line(stats: Stats) -> str:
    """Return the counts and times of an answer as one line."""
    threads = "1 thread" if stats.threads == 1 else f"{stats.threads} threads"
    drafts = f"{draft_text(stats)} · " if draft_text(stats) else ""
    return (
        f"{stats.generated_tokens} tokens at {stats.tokens_per_s:,.1f} tokens/s · {drafts}"
        f"first token after {stats.time_to_first_token_s * 1000:,.0f} ms · "
        f"prompt {stats.prompt_tokens:,} tokens ({stats.reused_tokens:,} reused) · "
        f"context {stats.context_used:,} of {stats.context_size:,} · {threads} · seed {stats.seed}"
    )
