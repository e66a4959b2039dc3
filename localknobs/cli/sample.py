"""`localknobs sample MODEL -p PROMPT`: what could come next, and what each sampler of the chain makes of it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from localknobs.cli.chat import show_reading
from localknobs.cli.interrupt import ctrl_c_stops
from localknobs.cli.main import STOPPED
from localknobs.cli.output import facts, note, print_json, table
from localknobs.cli.question import add_all_knob_flags, add_question_arguments, needed_prompt, opened, question_of
from localknobs.engine import Finished, Message, Noted, PromptRead
from localknobs.engine.client import Engine
from localknobs.engine.controls import Plan
from localknobs.engine.view import Candidate, SamplerView, Stage
from localknobs.errors import BadValue
from localknobs.knobs import Value

_MOST = 1000
"""Candidates that are listed at most."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] -p PROMPT [--begin TEXT] [--top N] [--preset NAME] [KNOB FLAGS] [--json]"
    parser.description = (
        "Show the next token's candidates, with the model's own probability and the one with which each would be "
        "drawn, and what every sampler of the chain removed or moved. Nothing is drawn."
    )
    add_question_arguments(parser, "what the model reads")
    parser.add_argument("--begin", default="", metavar="TEXT", help="the answer begins with this; what comes next?")
    parser.add_argument("--top", type=int, default=20, metavar="N", help=f"candidates, 1 to {_MOST}; default 20")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the numbers of every stage")
    add_all_knob_flags(parser)


def run(options: Namespace) -> int:
    """Read the prompt, and print what could come next."""
    if not 1 <= options.top <= _MOST:
        raise BadValue(f"--top cannot be {options.top}", f"It takes 1 to {_MOST}.")
    prompt = needed_prompt(options)
    with opened(options) as (engine, sampler):
        if not _read(engine, options, prompt, sampler.values):
            return STOPPED
        view = engine.look(top=options.top)
        if options.json:
            print_json(document(view, engine.info.path, engine.stats.prompt_tokens, sampler.values))
            return 0
    _print(view, engine.stats.prompt_tokens)
    return 0


def _read(engine: Engine, options: Namespace, prompt: str, values: dict[str, Value]) -> bool:
    """Let the model read the prompt; return False when the user stopped it."""
    question = question_of(options, prompt)
    if options.begin:
        question = (
            question + options.begin
            if isinstance(question, str)
            else [*question, Message(role="assistant", content=options.begin)]
        )
    done = False
    with ctrl_c_stops(engine):
        for event in engine.stream(question, values, continue_last=bool(options.begin), plan=Plan(write=False)):
            if isinstance(event, PromptRead):
                show_reading(event)
            elif isinstance(event, Noted):
                note(event.text)
            elif isinstance(event, Finished):
                done = event.reason != "stopped"
    return done


def _print(view: SamplerView, prompt_tokens: int) -> None:
    first = view.stages[0].before if view.stages else 0
    print(
        facts([
            ("prompt", f"{prompt_tokens:,} tokens"),
            ("likeliest", share(view.confidence)),
            ("entropy", f"{view.entropy:.2f} bits, as unsure as {2**view.entropy:,.1f} equal choices"),
        ])
    )  # fmt: skip
    print()
    rows = [("(the model's own scores)", f"{first:,}", "", "")]
    print(table(("STAGE", "LEFT", "REMOVED", "MOVED"), [*rows, *map(_stage_row, view.stages)], right=(1, 2, 3)))
    print()
    candidates = [_candidate_row(view, one) for one in view.candidates]
    print(table(("ID", "TOKEN", "MODEL", "DRAWN", "REMOVED BY"), candidates, right=(0, 2, 3), whole=(1,)))


def _stage_row(stage: Stage) -> tuple[str, str, str, str]:
    if not stage.active:
        return stage.label, "off", "", ""
    by_chance = f" ({stage.chance:.0%} of the time)" if stage.chance < 1 else ""
    return stage.label + by_chance, f"{stage.after:,}", share(stage.removed), share(stage.moved)


def _candidate_row(view: SamplerView, one: Candidate) -> tuple[str, str, str, str, str]:
    taken = view.removed_by(one)
    drawn = share(one.after) if one.after > 0 else "-"
    return str(one.token), shown_token(one), share(one.before), drawn, taken.label if taken else ""


def shown_token(one: Candidate) -> str:
    """Return a token as it is listed: text in quotes, so that its spaces are seen; control tokens bare."""
    return f"{one.text} (ends the answer)" if one.ends else json.dumps(one.text, ensure_ascii=False)


def share(value: float) -> str:
    """Return a probability as a percentage; a small one is not rounded to nothing."""
    if 0 < value < 0.0001:
        return "< 0.01%"
    return f"{value:.2%}"


def document(view: SamplerView, model: str, prompt_tokens: int, values: dict[str, Value]) -> dict[str, Any]:
    """Return the view for a program."""
    return {
        "model": model, "prompt_tokens": prompt_tokens, "sampler": values,
        "entropy_bits": view.entropy, "confidence": view.confidence,
        "stages": [
            {
                "name": stage.name, "active": stage.active, "before": stage.before, "after": stage.after,
                "removed": stage.removed, "moved": stage.moved, "chance": stage.chance,
            }
            for stage in view.stages
        ],
        "candidates": [
            {
                "token": one.token, "text": one.text, "ends": one.ends, "score": one.score, "before": one.before,
                "after": one.after, "removed_by": taken.name if (taken := view.removed_by(one)) else None,
                "probabilities": one.probabilities,
            }
            for one in view.candidates
        ],
    }  # fmt: skip
