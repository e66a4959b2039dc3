"""`localknobs determinism MODEL -p PROMPT`: whether a model answers the same twice, and what makes it differ."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from localknobs.cli.output import heading, print_json, table, wrapped
from localknobs.cli.progress import run_job
from localknobs.cli.question import add_all_knob_flags, add_question_arguments, needed_prompt, opened, question_of
from localknobs.cli.remembering import command_line, remember
from localknobs.determinism import DeterminismConfig, Parting, Trial, Verdict, check_determinism
from localknobs.errors import BadValue
from localknobs.knobs import KNOBS, Values
from localknobs.measured_effects import MeasuredEffect

_TOKENS = 64
_RUNS = (2, 1000)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] -p PROMPT [--runs N] [-n TOKENS] [--preset NAME] [KNOB FLAGS] [--json]"
    parser.description = (
        "Answer a prompt several times, at temperature 0 and with the given settings; say where answers part, and "
        "whether the temperature, the seed, the threads or the batch caused it, each varied by itself. An answer has "
        f"{_TOKENS} tokens at most, unless -n says otherwise."
    )
    add_question_arguments(parser, "what is answered")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="answers that are compared; default 5")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    add_all_knob_flags(parser)


def run(options: Namespace) -> int:
    """Compare, and print the verdict."""
    low, high = _RUNS
    if not low <= options.runs <= high:
        raise BadValue(f"--runs cannot be {options.runs}", f"It takes {low} to {high}.")
    prompt = needed_prompt(options)
    with opened(options) as (engine, sampler):
        tokens = int(str(sampler.values["n_predict"]))
        config = DeterminismConfig(
            question_of(options, prompt), sampler.values, options.runs, tokens if tokens > 0 else _TOKENS
        )
        verdict = run_job(check_determinism(engine, config), stopped="")
        remember(_effects(engine.info.name, sampler.values, verdict))
        if options.json:
            print_json({
                "model": engine.info.path, "repeats": verdict.repeats, "causes": verdict.causes,
                "verdict": verdict.lines, "trials": [asdict(trial) for trial in verdict.trials],
                "sampler": sampler.values,
            })  # fmt: skip
            return 0
    print(table(("TRIED", "SAME", "PART AT", "BETWEEN", "GAP"), map(_row, verdict.trials), right=(1, 2, 4)))
    print()
    print(heading(wrapped(verdict.lines[0])))
    for line in verdict.lines[1:]:
        print(wrapped(line, "  ", "- "))
    return 0


def _effects(model: str, values: Values, verdict: Verdict) -> list[MeasuredEffect]:
    """Return how often an answer came again with these settings, for the cards of what is random in them."""
    tried = {trial.name: trial for trial in verdict.trials}
    zero, own = tried.get("temperature 0"), tried.get("settings")
    if zero is None or own is None:
        return []
    text = (
        f"{own.same} of {own.runs} more answers were the same as the first; at temperature 0 {zero.same} of {zero.runs}"
    )
    return [
        MeasuredEffect(
            lever="decode", settings={"temp": KNOBS["temp"].show(values["temp"])}, model=model, against="temp 0",
            text=text, numbers={"same": own.same, "runs": own.runs, "same_at_zero": zero.same},
            command=command_line(),
        )
    ]  # fmt: skip


def _row(trial: Trial) -> tuple[str, str, str, str, str]:
    same = f"{trial.same} of {trial.runs}"
    part = trial.parting
    if part is None:
        return trial.what, same, "", "", ""
    gap = f"{part.gap:.3g}" if part.gap == part.gap else ""
    return trial.what, same, f"token {part.token}", _between(part), gap


def _between(part: Parting) -> str:
    texts = [json.dumps(text, ensure_ascii=False) for text in (part.first, part.second)]
    shares = [f" {share:.1%}" if share >= 0 else "" for share in part.before]
    return f"{texts[0]}{shares[0]} / {texts[1]}{shares[1]}"
