"""`localknobs eval`: measure models, and what a change did to them, in one report."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.cli.flags import Parser, add_knob_flags, chosen
from localknobs.cli.output import print_json, table
from localknobs.cli.progress import run_job
from localknobs.errors import NotFound
from localknobs.knobs import Value
from localknobs.library import find_model
from localknobs.units import size_text

if TYPE_CHECKING:
    from localknobs.evaluate.config import Variant
    from localknobs.evaluate.results import ModelResult, Report


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    from localknobs.evaluate.config import DEFAULT_CHUNK, SUITES

    suites = "; ".join(f"{name}: {what}" for name, what in SUITES.items())
    parser.description = (
        "Measure models, and what a change did to them. A MODEL may carry loading flags of its own, in quotes: "
        '"built-in -c 2048". What was measured is kept, and a stopped run goes on where it was.'
    )
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", help="a file, a name from `localknobs ls`, or built-in")
    add("--base", metavar="PARENT", help="the model that they were made from, to compare them with")
    add(
        "--suite",
        metavar="NAMES",
        help=f"what to measure, separated by commas; default ppl, and kld with --base. {suites}",
    )
    add("-f", "--text", metavar="F", type=Path, help="UTF-8 text to read; default: one that is shipped, of many kinds")
    add("--chunk", metavar="N", type=int, default=DEFAULT_CHUNK, help=f"tokens of a chunk; default {DEFAULT_CHUNK}")
    add("--chunks", metavar="N", type=int, default=0, help="most chunks to read; default: all")
    add("--kld", choices=("auto", "exact", "bounded"), default="auto", help=
        "exact: parent and model open at once; bounded: the parent first, of which the likeliest 256 tokens are kept "
        "(a lower bound); auto: exact where memory suffices")  # fmt: skip
    add("--minutes", metavar="M", type=float, default=0.0, help="time to measure; the sample is chosen to fit")
    add("--seed", metavar="N", type=int, default=1, help="of every choice; default 1")
    add("--restart", action="store_true", help="measure anew what was measured before")
    add("--json", action="store_true", help="print a JSON object")
    add_knob_flags(parser, "loading")


def run(options: Namespace) -> int:
    """Measure, and print the report."""
    from localknobs.evaluate.config import EvalConfig
    from localknobs.evaluate.run import evaluate, plan_eval

    suites = options.suite.split(",") if options.suite else ["ppl", *(["kld"] if options.base else [])]
    common = chosen(options, "loading")
    config = EvalConfig(
        models=tuple(_variant(text, common) for text in options.models),
        base=_variant(options.base, common) if options.base else None,
        suites=tuple(name.strip() for name in suites if name.strip()),
        text=options.text.expanduser() if options.text else None,
        chunk_tokens=options.chunk,
        chunks=options.chunks,
        mode=options.kld,
        minutes=options.minutes,
        seed=options.seed,
        restart=options.restart,
        threads=int(common.get("threads", 0)),  # type: ignore[arg-type]
        command=shlex.join(["localknobs", *sys.argv[1:]]),
    )
    report = run_job(evaluate(plan_eval(config)), stopped="What was measured is kept: the same command goes on.")
    if options.json:
        print_json(report.as_mapping())
    else:
        _print(report)
    return 0


def _variant(text: str, common: dict[str, Value]) -> Variant:
    """Return the model that a word names: a model, or a model with loading flags of its own."""
    from localknobs.engine.settings import LoadSettings
    from localknobs.evaluate.config import Variant

    flags = ""
    own: dict[str, Value] = {}
    try:
        path = find_model(text)
    except NotFound:
        name, _, rest = text.partition(" -")
        if not rest:
            raise
        path, flags = find_model(name.strip()), f"-{rest}"
        parser = Parser(f"localknobs eval {name.strip()}")
        add_knob_flags(parser, "loading")
        own = chosen(parser.parse_args(shlex.split(flags)), "loading")
        text = name.strip()
    label = path.stem if text != "built-in" else text
    settings = LoadSettings(model=path, **{**common, **own})  # type: ignore[arg-type]
    return Variant(f"{label} {flags}".strip(), settings, flags)


def _print(report: Report) -> None:
    headings = ["model", "size", "bits/weight", "perplexity"]
    compared = any(model.divergence for model in report.models)
    if compared:
        headings += ["KLD mean", "KLD 99.9%", "same top"]
    print(
        table(headings, [_row(model, compared) for model in report.models], right=range(1, len(headings)), whole=(0,))
    )
    if report.text:
        used = report.text
        why = f", {used.why}" if used.why else ""
        print(f"{used.name}: {used.predicted:,} tokens predicted in {used.chunks} of {used.chunks_whole} chunks of "
              f"{used.chunk_tokens}{why}")  # fmt: skip


def _row(model: ModelResult, compared: bool) -> list[str]:
    ppl, kld = model.perplexity, model.divergence
    row = [model.label, size_text(model.size_bytes), f"{model.bits_per_weight:.2f}"]
    row.append(f"{ppl.value:.4f} ± {ppl.error:.4f}" if ppl else "")
    if compared and kld:
        mark = "≥ " if model.mode == "bounded" else ""
        row += [f"{mark}{kld.mean.value:.6f} ± {kld.mean.error:.6f}", f"{kld.percentile_999:.4f}",
                f"{kld.same_top.value:.2%} ± {kld.same_top.error:.2%}"]  # fmt: skip
    elif compared:
        row += ["", "", ""]
    return row
