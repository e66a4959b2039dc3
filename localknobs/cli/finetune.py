"""`localknobs finetune`: from a file of examples to an adapter, with the losses before and after."""

from __future__ import annotations

import math
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.cli.output import facts, note, print_json
from localknobs.cli.progress import measured, run_job
from localknobs.cli.remembering import command_line, remember
from localknobs.errors import BadValue, NotFound
from localknobs.flags import add_knob_flags, chosen
from localknobs.jobs import drain
from localknobs.paths import user_path
from localknobs.terminal_text import printable
from localknobs.units import time_text

if TYPE_CHECKING:
    from localknobs.tune.finetune import TuneResult
    from localknobs.tune.plan import TunePlan


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    from localknobs.tune.examples import SHIPPED

    parser.description = (
        "Train an adapter (LoRA, QLoRA) or all weights on examples of yours. Needs the extra `train`. "
        "Without a graphics card it computes on "
        "the processor, in float32. A run that was stopped or killed goes on with the same command."
    )
    add = parser.add_argument
    add("base", metavar="BASE", help=
        "folder of a Hugging Face checkpoint; a GGUF file, trained over as it is (QLoRA); or built-in (in a copy of "
        "the repository)")  # fmt: skip
    add(
        "data", metavar="DATA",
        help="examples: JSON lines with messages, prompt and completion, or text; or one plain text; or a shipped set: "
        + "; ".join(f"{name}: {what}" for name, what in SHIPPED.items()),
    )  # fmt: skip
    add("-o", "--output", metavar="ADAPTER", type=Path, help="folder to write; needed but with --dry-run")
    add("--checkpoint", metavar="FOLDER", type=Path, help=
        "config, tokenizer of a GGUF file; default: the checkpoint beside it or on its card, else itself")  # fmt: skip
    add("--held-out", metavar="F", type=Path, help="examples that are only measured; default: a share of DATA")
    add("--general", metavar="F", type=Path, help=
        "text or examples whose loss shows what is forgotten; default: a shipped text, of many kinds")  # fmt: skip
    add("--rehearsal", metavar="F", type=Path, help=
        "text or examples at which it is held to what BASE says, against forgetting; default: a shipped text, of many "
        "kinds, or what belongs to the shipped set")  # fmt: skip
    add("--sample", metavar="PROMPT", action="append", default=[], help=
        "what the model is asked now and then, once or more; default: the first held-out question")  # fmt: skip
    add("--answers", metavar="N", type=int, default=50, help=
        "held-out questions that are answered before and after; default 50")  # fmt: skip
    add("--threads", metavar="N", type=int, default=0, help="default: all physical cores")
    add("--restart", action="store_true", help="begin anew where a stopped run could be taken up")
    add("--no-proof", action="store_true", help="do not compare torch, the GGUF adapter and the merged model")
    add("--dry-run", action="store_true", help="look at the data and the price; train nothing")
    add("--curves", metavar="F", type=Path, help="draw the curves into F (.png or .svg) too; beside ADAPTER always")
    add("--json", action="store_true", help="print a JSON object")
    add_knob_flags(parser, "fine-tuning")


def run(options: Namespace) -> int:
    """Check, train, and say what came of it."""
    from localknobs.cli.curves_bar import CurvesBar
    from localknobs.convert.imatrix import shipped_text as calibration_text
    from localknobs.evaluate.stages import shipped_text
    from localknobs.tune.config import TuneConfig
    from localknobs.tune.curves import curves_file
    from localknobs.tune.effects import effect_of
    from localknobs.tune.examples import SHIPPED, shipped_examples
    from localknobs.tune.finetune import finetune, look_at_data
    from localknobs.tune.picture import picture_file
    from localknobs.tune.plan import plan_finetune
    from localknobs.tune.ranks import rank

    if options.output is None and not options.dry_run:
        raise BadValue("Where the adapter goes is not said", "Name a folder: -o ADAPTER")
    shipped = options.data in SHIPPED and not Path(options.data).exists()
    held_out = options.held_out or (shipped_examples(options.data, "-held-out") if shipped else None)
    general = options.general or (shipped_examples(options.data, "-general") if shipped else shipped_text())
    old = options.rehearsal or (shipped_examples(options.data, "-rehearsal") if shipped else calibration_text())
    plan = plan_finetune(
        TuneConfig(
            base=_base(options.base),
            data=shipped_examples(options.data) if shipped else user_path(options.data),
            output=user_path(options.output or "adapter"),
            checkpoint=user_path(options.checkpoint) if options.checkpoint else None,
            held_out=user_path(held_out) if held_out else None,
            general=user_path(general),
            rehearsal=user_path(old),
            knobs=chosen(options, "fine-tuning"),
            samples=tuple(options.sample),
            answers=max(0, options.answers),
            restart=options.restart,
            threads=max(0, options.threads),
            prove=not options.no_proof,
            picture=user_path(options.curves) if options.curves else None,
        )
    )
    if rank():  # of several that train together, the first one tells and writes
        if not options.dry_run:
            drain(finetune(plan))
        return 0
    _show_plan(plan)
    if options.dry_run:
        result = run_job(look_at_data(plan))
        _show_data(plan, result, options.json)
        return 0
    log = curves_file(plan.config.output)
    result = run_job(
        finetune(plan), stopped=f"The same command goes on where it was; the curves so far are in {picture_file(log)}.",
        bar=CurvesBar(log),
    )  # fmt: skip
    for when, found in (("before", result.before), ("after", result.after)):
        values = {name: value for name, value in found.items() if not math.isnan(value)}
        measured.append((plan.config.output, {"kind": "finetune", "settings": when, **values}))
    remember([effect_of(plan, result, command_line())])
    _show_result(plan, result, options.json)
    return 0


def sources(options: Namespace) -> list[Path]:
    """Return what the adapter is made of, for the ledger."""
    from localknobs.tune.examples import SHIPPED, shipped_examples

    data = user_path(options.data)
    return [
        _base(options.base),
        data if data.exists() or options.data not in SHIPPED else shipped_examples(options.data),
    ]


def _base(text: str) -> Path:
    """Return the folder or the GGUF file of a base; `built-in` is the checkpoint of the built-in model."""
    from localknobs.errors import LocalknobsError
    from localknobs.library import find_checkpoint, find_model
    from localknobs.paths import built_in_checkpoint

    folder = user_path(text)
    built_in = built_in_checkpoint()
    if text == "built-in" and not folder.exists():
        if not built_in.is_dir():
            raise NotFound(
                "The built-in model's checkpoint is not installed with the program",
                "It is in the repository: models/checkpoint",
            )
        return built_in
    if found := find_checkpoint(text):
        return found
    try:
        return find_model(text)
    except LocalknobsError:
        if folder.exists():
            return folder
        raise


def _show_plan(plan: TunePlan) -> None:
    from localknobs.tune.finetune import price_text

    note(price_text(plan))
    for reason in plan.recipe.reasons:
        note(reason)


def _show_data(plan: TunePlan, result: TuneResult, as_json: bool) -> None:
    from localknobs.tune.finetune import price_text
    from localknobs.tune.plan import STATE

    data = result.data
    if as_json:
        print_json({
            **data, "duplicates": plan.duplicates, "price": price_text(plan), "recipe": asdict(plan.recipe),
            "notes": plan.notes, "stopped_run": (plan.run_folder / STATE).is_file(),
        })  # fmt: skip
        return
    print(facts([
        ("examples", f"{data['learn']:,} to learn from, {data['held_out']:,} held out"),
        ("tokens", f"{data['tokens']:,}, of which {data['learned']:,} are learned"),
        ("lengths", f"{data['shortest']:,} to {data['longest']:,} tokens, median {data['median']:,}"),
        ("duplicates", f"{plan.duplicates:,}"),
        ("cut", f"{data['cut']:,}" + (f", the first at line {data['cut_line']:,}" if data["cut"] else "")),
        ("rehearsed", f"{data['rehearsal']:,} old rows"),
        ("steps", f"{data['steps']:,}"),
        ("time", f"about {time_text(data['seconds'])} for steps and looks, by two steps with one and two layers"),
    ]))  # fmt: skip
    print("\nOne example as the model sees it; what is learned stands in «»:\n")
    print(printable("".join(f"«{text}»" if learned else text for text, learned in data["shown"])))


def _show_result(plan: TunePlan, result: TuneResult, as_json: bool) -> None:
    before, after = result.before, result.after
    if as_json:
        print_json({
            "folder": result.folder, "gguf": result.gguf, "base_file": result.base_file,
            "method": plan.base.method,
            "before": before, "after": after, "steps": result.steps,
            "best_step": result.best_step, "seconds": result.seconds, "data": result.data, "signs": result.signs,
            "sample": result.sample, "proof": asdict(result.proof) if result.proof else None,
        })  # fmt: skip
        return
    from localknobs.tune.curves import curves_file
    from localknobs.tune.picture import picture_file

    whole = plan.base.method == "full"
    lines = [("model" if whole else "adapter", str(result.folder)), ("GGUF", str(result.gguf or "none"))]
    lines.append(("curves", str(picture_file(curves_file(plan.config.output)))))
    lines.append(("trained", f"{result.steps:,} steps in {time_text(result.seconds)}, kept: step {result.best_step:,}"))
    if "held_out" in after:
        lines.append(("held-out loss", f"{before['held_out']:.3f} -> {after['held_out']:.3f}"))
        lines.append(("next token right", f"{before['next_token']:.1%} -> {after['next_token']:.1%}"))
    if not math.isnan(after["right"]):
        lines.append(("answered word for word", f"{before['right']:.0%} -> {after['right']:.0%}"))
    if "general" in after:
        rise = after["general"] / before["general"] - 1
        lines.append(("general loss", f"{before['general']:.3f} -> {after['general']:.3f} ({rise:+.1%})"))
    if proof := result.proof:
        forms = [("GGUF adapter", proof.gguf_adapter), ("GGUF file" if whole else "merged file", proof.merged)]
        shares = ", ".join(f"{name} {share:.2%}" for name, share in forms if share is not None)
        lines.append((
            "same top token as torch", f"{shares} of {proof.places:,} places" + ("" if proof.passed else ": too few")
        ))  # fmt: skip
    if result.sample:
        lines.append(("it says", result.sample))
    print(facts(lines))
    for line in _next_commands(plan, result):
        note(line)


def _next_commands(plan: TunePlan, result: TuneResult) -> list[str]:
    """Return what one would type next."""
    from localknobs.tune.stopped import name_of_base

    base, folder, gguf = (shlex.quote(str(path)) for path in (plan.config.base, result.folder, result.gguf))
    if plan.base.method == "full":
        return [f"To chat with it: localknobs chat {gguf if result.gguf else folder}"]
    if result.base_file:
        file = shlex.quote(str(result.base_file))
        return [
            f"It goes with {file}, over which it was trained.",
            f"To chat with it: localknobs chat {file} --lora {folder}",
            f"To measure it: localknobs eval {shlex.quote(f'{file} --lora {gguf}')} {file}",
        ]
    file = "built-in" if name_of_base(plan.config.base.absolute()) == "built-in" else "GGUF_OF_THE_BASE"
    beside = [f"To chat with it: localknobs chat {file} --lora {folder}"] if result.gguf else []
    return [
        *beside,
        f"To make a small file with it merged in: localknobs quantize {base} Q4_K_M --lora {folder}",
        f"To merge it into a checkpoint: localknobs merge {base} --lora {folder} -o {folder}-merged",
    ]
