"""`localknobs chat [MODEL] [-p PROMPT]`: one answer, or a conversation line by line."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from localknobs.cli.interrupt import ctrl_c_stops
from localknobs.cli.main import STOPPED
from localknobs.cli.output import AnswerWriter, note, print_json, show_progress, wrapped
from localknobs.cli.question import add_all_knob_flags, add_question_arguments, opened, prompt_of, question_of
from localknobs.engine import ContextDropped, Finished, Noted, PromptRead, Stats, TextArrived
from localknobs.engine.adapter_rack import AdapterRack
from localknobs.engine.client import Engine
from localknobs.errors import BadValue
from localknobs.fit.speed import remember_answer
from localknobs.sampler_state import SamplerState

_LONG_PROMPT = 1024
"""Tokens of a prompt from which on its reading is shown."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] [-p PROMPT] [-s SYSTEM] [--preset NAME] [KNOB FLAGS] [--stats] [--json]"
    add_question_arguments(parser, "answer this and leave")
    parser.add_argument(
        "--stats", action="store_true", help="print counts and speed after each answer, on standard error"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text (with -p or a pipe)")
    parser.add_argument(
        "--continue", dest="go_on", action="store_true", help="go on with the latest saved conversation (/load 1)"
    )
    add_all_knob_flags(parser)


def run(options: Namespace) -> int:
    """Answer one prompt, or open the conversation."""
    prompt = _prompt(options)
    with opened(options) as (engine, sampler):
        if prompt is None:
            from localknobs.cli.repl import Repl

            repl = Repl(engine, options.model, options.system, sampler, show_stats=options.stats)
            return repl.run("/load 1" if options.go_on else "")
        return _answer_once(engine, prompt, options, sampler)


def _prompt(options: Namespace) -> str | None:
    """Return the prompt, None when there is to be a conversation."""
    prompt = prompt_of(options)
    if options.json and prompt is None:
        raise BadValue("--json needs a prompt", "Give one with -p or through a pipe.")
    if options.go_on and prompt is not None:
        raise BadValue("--continue opens a conversation and takes no prompt", "Leave -p out, or --continue.")
    if prompt is None and not sys.stdout.isatty():
        raise BadValue("A conversation needs a terminal to write to", "For one answer in a pipe or a file, use -p.")
    return prompt


def _answer_once(engine: Engine, prompt: str, options: Namespace, sampler: SamplerState) -> int:
    writer, pieces, reason = AnswerWriter(), [], ""
    dropped: ContextDropped | None = None
    with ctrl_c_stops(engine):
        for event in engine.stream(question_of(options, prompt), sampler.values):
            if isinstance(event, PromptRead):
                show_reading(event)
            elif isinstance(event, TextArrived):
                pieces.append(event.text)
                if not options.json:
                    writer.write(event.text)
            elif isinstance(event, Noted):
                note(event.text)
            elif isinstance(event, ContextDropped):
                dropped = event
            elif isinstance(event, Finished):
                reason = event.reason
    if dropped:
        note(dropped.text)
    if options.json:
        print_json(
            {
                "model": engine.info.path, "answer": "".join(pieces), "finish_reason": reason,
                "adapters": AdapterRack.of(engine.settings.adapters()).acting(),
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


def stats_line(stats: Stats) -> str:
    """Return the counts and times of an answer as one line."""
    threads = "1 thread" if stats.threads == 1 else f"{stats.threads} threads"
    drafts = f"{stats.draft_text} · " if stats.draft_text else ""
    return (
        f"{stats.generated_tokens} tokens at {stats.tokens_per_s:,.1f} tokens/s · {drafts}"
        f"first token after {stats.time_to_first_token_s * 1000:,.0f} ms · "
        f"prompt {stats.prompt_tokens:,} tokens ({stats.reused_tokens:,} reused) · "
        f"context {stats.context_used:,} of {stats.context_size:,} · {threads} · seed {stats.seed}"
    )
