"""`localknobs chat [MODEL] [-p PROMPT]`: one answer, or a conversation line by line."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from localknobs.cli.flags import add_knob_flags, chosen
from localknobs.engine import Finished, LoadSettings, Message, Noted, Stats, TextArrived, load
from localknobs.engine.client import Engine
from localknobs.errors import BadValue
from localknobs.knobs import Value, knob
from localknobs.library import BUILT_IN, find_model
from localknobs.presets import preset


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "model", nargs="?", default=BUILT_IN, help="a GGUF file or a name from `localknobs ls` (default: built-in)"
    )
    parser.add_argument("-p", "--prompt", help="answer this and leave; text on standard input is added to it")
    parser.add_argument("-s", "--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="sampling preset: deterministic, code, chat, creative, brainstorm, model, or one of yours",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print counts and speed after each answer, on standard error"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text (with -p or a pipe)")
    add_knob_flags(parser, "sampling")
    add_knob_flags(parser, "loading")


def run(options: Namespace) -> int:
    """Answer one prompt, or open the conversation."""
    prompt = options.prompt
    if not sys.stdin.isatty():
        piped = sys.stdin.read()
        # `chat -p "Sum this up:" < file` reads both, in that order.
        prompt = "\n".join(part for part in (prompt, piped.strip()) if part) or prompt
        if not prompt:
            raise BadValue("Standard input is empty", "Pipe a prompt in, or give one with -p.")
    if prompt is not None and not prompt.strip():
        raise BadValue("The prompt is empty", 'Give one: localknobs chat -p "What is a token?"')
    if options.json and prompt is None:
        raise BadValue("--json needs a prompt", "Give one with -p or through a pipe.")
    if options.raw and (options.system or prompt is None):
        raise BadValue("--raw takes a prompt and no system prompt", "Give the whole text with -p.")
    if options.preset and options.preset != "model":
        preset(options.preset)  # a slip is told before the model is loaded
    settings = LoadSettings(model=find_model(options.model), **chosen(options, "loading"))  # type: ignore[arg-type]
    with load(settings, _progress if sys.stderr.isatty() else None) as engine:
        clear_line()
        for note in engine.info.notes:
            print(f"note: {note}", file=sys.stderr)
        sampler = sampler_values(engine, options.preset, chosen(options, "sampling"))
        if prompt is None:
            from localknobs.cli.repl import Repl

            return Repl(engine, options.model, options.system, sampler, show_stats=options.stats).run()
        return _answer_once(engine, prompt, options, sampler)


def sampler_values(engine: Engine, name: str | None, given: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values to begin with: the named preset, or the model's own, or llama.cpp's; flags over it."""
    recommended = engine.info.recommended
    start = preset(name or ("model" if recommended else "default"), recommended)
    return {**start.values, **given}


def _answer_once(engine: Engine, prompt: str, options: Namespace, sampler: Mapping[str, Value]) -> int:
    system = [Message(role="system", content=options.system)] if options.system else []
    question: Sequence[Message] | str = prompt if options.raw else [*system, Message(role="user", content=prompt)]
    pieces, reason = [], ""
    for event in engine.stream(question, sampler):
        if isinstance(event, TextArrived):
            pieces.append(event.text)
            if not options.json:
                write_out(event.text)
        elif isinstance(event, Noted):
            print(f"note: {event.text}", file=sys.stderr)
        elif isinstance(event, Finished):
            reason = event.reason
    if options.json:
        answer = {
            "model": engine.info.path, "answer": "".join(pieces), "finish_reason": reason, "preset": options.preset,
            "sampler": sampler, "stats": asdict(engine.stats),
        }  # fmt: skip
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        print()
    if reason == "context":
        print("note: The context is full, so the answer stops here. Use a larger one (-c).", file=sys.stderr)
    elif reason == "length" and not options.json:
        print(
            f"note: Stopped at the limit of {knob('n_predict').label} ({engine.stats.generated_tokens} tokens).",
            file=sys.stderr,
        )
    if options.stats:
        print(stats_line(engine.stats), file=sys.stderr)
    return 0


def stats_line(stats: Stats) -> str:
    """Return the counts and times of an answer as one line."""
    return (
        f"{stats.generated_tokens} tokens at {stats.tokens_per_s:,.1f} tokens/s · "
        f"first token after {stats.time_to_first_token_s * 1000:,.0f} ms · "
        f"prompt {stats.prompt_tokens} tokens ({stats.reused_tokens} reused) · "
        f"context {stats.context_used:,} of {stats.context_size:,} · "
        f"{stats.threads} threads · seed {stats.seed}"
    )


def write_out(text: str) -> None:
    """Write a piece of an answer at once; control characters that could steer a terminal are shown as text."""
    if sys.stdout.isatty():
        text = "".join(char if char >= " " or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    sys.stdout.flush()


def _progress(done: float) -> None:
    sys.stderr.write(f"\rloading {done:4.0%}")
    sys.stderr.flush()


def clear_line() -> None:
    """Wipe the progress from the terminal's line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
