"""`localknobs eval`: measure models, and what a change did to them, in one report."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.cli.output import note, print_json, table
from localknobs.cli.progress import run_job
from localknobs.cli.remembering import command_line, remember
from localknobs.errors import LocalknobsError
from localknobs.flags import add_knob_flags, chosen
from localknobs.knobs import Value
from localknobs.paths import user_path
from localknobs.units import time_text

if TYPE_CHECKING:
    from localknobs.evaluate.config import EvalConfig, Variant
    from localknobs.evaluate.results import Report


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    from localknobs.evaluate.config import DEFAULT_CHUNK, NEEDLE_MODES, SHIPPED, SUITES

    parser.description = (
        "Measure models, and what a change did to them. A MODEL may carry loading flags and GGUF adapters of its own, "
        'in quotes: "built-in -ctk q8_0", "base.gguf --lora mine.gguf:0.8". What was measured is kept, and a stopped '
        "run goes on where it was. Suites: " + "; ".join(f"{name}: {what}" for name, what in SUITES.items()) + "."
    )
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", help="a file, a name from `localknobs ls`, or built-in")
    add("--base", metavar="PARENT", help="the model that they were made from, to compare them with")
    add(
        "--suite",
        metavar="NAMES",
        help="what to measure, separated by commas, or all; default ppl, and kld with --base",
    )
    add("-o", "--output", metavar="F", action="append", default=[], type=Path, help=
        "also write the report: .html (one file with everything), .svg or .png (the picture), .json; "
        "repeatable")  # fmt: skip
    add("--vram", metavar="SIZE", default="", help="memory of the card, such as 12G: a line in the picture")
    add("--minutes", metavar="M", type=float, default=0.0, help="time to measure; the sample is chosen to fit")
    add("--seed", metavar="N", type=int, default=1, help="of every choice; default 1")
    add("--dry-run", action="store_true", help="only check what is asked for, and say what each suite would take")
    add("--restart", action="store_true", help="measure anew what was measured before")
    add("--json", action="store_true", help="print a JSON object")
    text = parser.add_argument_group("ppl, kld, position")
    add = text.add_argument
    add("-f", "--text", metavar="F", type=Path, help="UTF-8 text to read; default: one that is shipped, of many kinds")
    add("--chunk", metavar="N", type=int, default=DEFAULT_CHUNK, help=f"tokens of a chunk; default {DEFAULT_CHUNK}")
    add("--chunks", metavar="N", type=int, default=0, help="most chunks to read; default: all")
    add("--kld", choices=("auto", "exact", "bounded"), default="auto", help=
        "exact: parent and model open at once; bounded: the parent first, of which the likeliest 256 tokens are kept "
        "(a lower bound); auto: exact where memory suffices")  # fmt: skip
    add("--position-tokens", metavar="N", type=int, default=0, help=
        "tokens of the long chunks; default: the context, at most 4096")  # fmt: skip
    add = parser.add_argument_group("tasks").add_argument
    add("--tasks", metavar="NAME|F", action="append", default=[], help=
        "a JSONL file of yours, or a shipped suite; repeatable; default: the shipped ones. "
        + "; ".join(f"{name}: {what}" for name, what in SHIPPED.items()))  # fmt: skip
    add = parser.add_argument_group("needle").add_argument
    add("--needle-lengths", metavar="N,N", type=_counts, default=(), help=
        "tokens of the prompts; default: an eighth, a quarter, a half and nearly all of the context")  # fmt: skip
    add("--needle-depths", metavar="N", type=int, default=5, help="depths from the beginning to the end; default 5")
    add("--needles", metavar="N", type=int, default=3, help="numbers for each length and depth; default 3")
    add("--needle-mode", choices=tuple(NEEDLE_MODES), default="logprob", help=
        "when a number counts as found; " + "; ".join(f"{name}: {what}" for name, what in NEEDLE_MODES.items())
        + "; default logprob")  # fmt: skip
    add("--needle-others", metavar="N", type=int, default=0, help=
        "other keys in the same text, not to be taken for the one asked for, 0 to 7; default 0")  # fmt: skip
    add_knob_flags(parser, "loading")


def _counts(text: str) -> tuple[int, ...]:
    """Return the whole numbers of a list."""
    return tuple(int(part) for part in text.split(","))


def run(options: Namespace) -> int:
    """Measure, and print the report."""
    from localknobs.evaluate.config import AGAINST_PARENT, SUITES, EvalConfig
    from localknobs.evaluate.effects import effects_of_report
    from localknobs.evaluate.kept_reports import keep_report
    from localknobs.evaluate.run import evaluate, plan_eval
    from localknobs.evaluate.writing import check_outputs, write_report
    from localknobs.fit.cards import parse_size

    check_outputs(options.output)
    vram_bytes = parse_size(options.vram) if options.vram else 0
    suites = options.suite.split(",") if options.suite else ["ppl", *(["kld"] if options.base else [])]
    if suites == ["all"]:
        suites = [name for name in SUITES if options.base or name not in AGAINST_PARENT]
    common = chosen(options, "loading")
    parent = _variant(options.base, common) if options.base else None
    models = [_variant(text, common) for text in options.models]
    files = _files_by_label([*models, *([parent] if parent else [])])
    config = EvalConfig(
        models=tuple(_told_apart(one, files) for one in models),
        base=parent and _told_apart(parent, files),
        suites=tuple(name.strip() for name in suites if name.strip()),
        text=user_path(options.text) if options.text else None,
        chunk_tokens=options.chunk,
        chunks=options.chunks,
        mode=options.kld,
        minutes=options.minutes,
        tasks=tuple(options.tasks),
        needle_lengths=options.needle_lengths,
        needle_depths=options.needle_depths,
        needles=options.needles,
        needle_others=options.needle_others,
        needle_mode=options.needle_mode,
        position_tokens=options.position_tokens,
        seed=options.seed,
        restart=options.restart,
        threads=int(common.get("threads", 0)),  # type: ignore[arg-type]
        command=command_line(),
    )
    if options.dry_run:
        return _say_price(config, options.json)
    report = run_job(evaluate(plan_eval(config)), stopped="What was measured is kept: the same command goes on.")
    _keep_on_cards(config, report)
    remember(effects_of_report(config, report))
    kept = ""
    try:
        kept = keep_report(report)
    except LocalknobsError as error:
        note(str(error))
    for target in options.output:
        write_report(report, target, vram_bytes=vram_bytes)
        note(f"Written: {target}")
    if options.json:
        print_json({**report.as_mapping(), "kept": kept})
    else:
        from localknobs.cli.report import print_report

        print_report(report, vram_bytes=vram_bytes)
        if kept:
            note(f"Kept, to be read again: localknobs reports {kept}")
    return 0


def _say_price(config: EvalConfig, as_json: bool) -> int:
    """Print what the measurement would take."""
    from localknobs.evaluate.price import price_of

    price = price_of(config)
    if as_json:
        print_json(price.as_mapping())
        return 0
    chosen = [one for one in price.suites if one.chosen]
    times = ["not known yet" if one.seconds is None else f"about {time_text(max(1, one.seconds))}" for one in chosen]
    rows = [(one.suite, one.amount, time) for one, time in zip(chosen, times, strict=True)]
    print(table(("SUITE", "OF ALL MODELS TOGETHER", "TIME"), rows))
    if price.seconds is not None:
        print(f"\nIn all about {time_text(max(1, price.seconds))} on this machine.")
    for text in price.notes:
        note(text)
    return 0


def _keep_on_cards(config: EvalConfig, report: Report) -> None:
    """Add the numbers to the cards of the models that were made here."""
    from localknobs.evaluate.card import measurement_of
    from localknobs.ledger import add_measurement

    variants = [*([config.base] if config.base else []), *config.models]
    paths = {variant.label: variant.settings.model for variant in variants}
    for result in report.models:
        try:
            if result.label in paths:
                add_measurement(paths[result.label], measurement_of(result, report))
        except LocalknobsError as error:
            note(str(error))


def _files_by_label(variants: Sequence[Variant]) -> dict[str, set[Path]]:
    files: dict[str, set[Path]] = {}
    for one in variants:
        files.setdefault(one.label, set()).add(one.settings.model.absolute())
    return files


def _told_apart(one: Variant, files: Mapping[str, set[Path]]) -> Variant:
    """Return a model with its folder's name, or all of its path, where other files have its label."""
    others = files[one.label]
    if len(others) == 1:
        return one
    folder = one.settings.model.absolute().parent
    same_folder = sum(other.parent.name == folder.name for other in others) > 1
    return replace(one, label=f"{folder if same_folder else folder.name}/{one.label}")


def _variant(text: str, common: dict[str, Value]) -> Variant:
    """Return the model that a word names: a model, or a model with loading flags of its own."""
    from localknobs.evaluate.config import Variant
    from localknobs.evaluate.model_words import read_model_words

    words = read_model_words(text)
    return Variant(words.label, words.settings(common), words.flags)
