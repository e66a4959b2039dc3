"""`localknobs control-vector`: a direction between two lists of prompts, and what it does to answers."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.cli.output import note, print_json, table
from localknobs.cli.progress import measured, run_job
from localknobs.cli.remembering import command_line, remember
from localknobs.errors import BadValue, LocalknobsError
from localknobs.library import find_model

if TYPE_CHECKING:
    from localknobs.steer.effect import Effect
    from localknobs.steer.make import FoundLayer

_EXAMPLE_PATTERN = "not know|larger model"
"""What the built-in model says where it does not know."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    from localknobs.steer.directions import METHODS, NORMALIZATIONS
    from localknobs.steer.effect import ANSWER_TOKENS, SCALES
    from localknobs.steer.make import DEFAULT_CONTEXT

    parser.description = (
        "Make a control vector: the direction, layer by layer, in which a model's states at the end of two lists of "
        "prompts differ. Added to the states (--control-vector F:SCALE in chat and serve), it pushes answers towards "
        "the first list, below 0 towards the second. Example: localknobs control-vector built-in --example -o u.gguf"
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="the model it shall act on")
    add("--positive-file", "--positive", metavar="F", type=Path, help="prompts that have more of it, one a line")
    add("--negative-file", "--negative", metavar="F", type=Path, help="their counterparts, line by line")
    add("--example", action="store_true", help=
        "the shipped lists, for the built-in model: questions it does not know, against questions it answers; then "
        "tried on others")  # fmt: skip
    add("-o", "--output", metavar="OUT", type=Path, help="file to write; default: MODEL.control.gguf in this folder")
    add("--chat", action="store_true", help=
        "each prompt is a message: the model's template goes round it, and the state is read where the answer begins; "
        "otherwise it is read as it stands, control tokens included")  # fmt: skip
    add("--method", choices=METHODS, default=METHODS[0], help=
        "first principal component of the differences, or their mean; default pca")  # fmt: skip
    add("--normalize", choices=NORMALIZATIONS, default=NORMALIZATIONS[0], help=
        "how far a scale of 1 goes: over all layers by the mean difference of both lists (default), or by a length of "
        "1 in each, as llama.cpp's own tool writes it")  # fmt: skip
    add("--try", dest="prompts", metavar="F", nargs="+", type=Path, default=[], help=
        "prompts to answer at every scale when it is made, one a line; one list or more")  # fmt: skip
    add("--vector", metavar="V", type=Path, help="a vector there is already: try this one, and make none")
    add("--scales", metavar="S", nargs="+", type=float, default=list(SCALES), help=
        f"for --try; default {' '.join(f'{scale:g}' for scale in SCALES)}")  # fmt: skip
    add("--match", metavar="REGEX", default="", help="for --try: count the answers in which this is found")
    add("-n", "--n-predict", metavar="N", type=int, default=ANSWER_TOKENS, help=
        f"for --try: most tokens of an answer; default {ANSWER_TOKENS}")  # fmt: skip
    add("-c", "--ctx-size", metavar="N", type=int, default=DEFAULT_CONTEXT, help=
        f"most tokens of a prompt; default {DEFAULT_CONTEXT}")  # fmt: skip
    add("-t", "--threads", metavar="N", type=int, default=0, help="threads; default: all physical cores")
    add("-ngl", "--n-gpu-layers", metavar="N", type=int, default=-1, help="layers on the GPU; default: all that fit")
    add("--json", action="store_true", help="print a JSON object")


def run(options: Namespace) -> int:
    """Make a vector, try it, or both."""
    from localknobs.steer.effect import check_trial
    from localknobs.steer.prompts import shipped_prompts

    if options.example:
        if options.positive_file or options.negative_file:
            raise BadValue("--example has its own lists", "Leave out --positive-file and --negative-file.")
        options.chat = True
        options.prompts = options.prompts or [shipped_prompts("unknown"), shipped_prompts("known")]
        options.match = options.match or _EXAMPLE_PATTERN
    check_trial(options.prompts, options.scales, options.match)
    if options.n_predict < 1:
        raise BadValue(f"An answer cannot have {options.n_predict} tokens", "1 or more: -n 48")
    if options.vector and not options.prompts:
        raise BadValue("--vector needs prompts to try it on", "Name a list, one a line: --try prompts.txt")
    model = find_model(options.model)
    layers: tuple[FoundLayer, ...] = ()
    vector = options.vector
    if not vector:
        vector = options.output or Path(f"{model.stem}.control.gguf")
        layers = _make(model, vector, options)
        if not options.json:
            _print_layers(vector, layers)
    try:
        effects = _try(model, vector, options) if options.prompts else ()
    except LocalknobsError as error:
        if options.vector:
            raise
        effects = ()  # the vector is made all the same, and gets its card
        note(f"{vector} is made, but could not be tried: {error}")
    if options.json:
        print_json({"path": vector, "layers": list(map(asdict, layers)), "effects": list(map(asdict, effects))})
        return 0
    if effects:
        _print_effects(effects, bool(options.match))
    note(f"To use it: {shlex.join(['localknobs', 'chat', options.model, '--control-vector', f'{vector}:1'])}")
    return 0


def sources(options: Namespace) -> list[Path]:
    """Return what the vector is made of, for the ledger."""
    lists = () if options.vector else _lists(options)
    return [find_model(options.model), *lists]


def _lists(options: Namespace) -> tuple[Path, Path]:
    from localknobs.steer.prompts import shipped_prompts

    if options.example:
        return shipped_prompts("positive"), shipped_prompts("negative")
    if not options.positive_file or not options.negative_file:
        raise BadValue(
            "A control vector needs two lists of prompts",
            "Name them: --positive-file F --negative-file F; or --example, with the built-in model.",
        )
    return options.positive_file, options.negative_file


def _make(model: Path, output: Path, options: Namespace) -> tuple[FoundLayer, ...]:
    from localknobs.steer.make import VectorConfig, make_vector, plan_vector

    positive, negative = _lists(options)
    return run_job(make_vector(plan_vector(VectorConfig(
        model=model, positive=positive, negative=negative, output=output, method=options.method,
        normalize=options.normalize, chat=options.chat, context=options.ctx_size, threads=options.threads,
        n_gpu_layers=options.n_gpu_layers,
    ))))  # fmt: skip


def _try(model: Path, vector: Path, options: Namespace) -> tuple[Effect, ...]:
    from localknobs.steer.effect import EffectConfig, effects_for_cards, measure_effect

    job = measure_effect(EffectConfig(
        model=model, vector=vector, prompts=tuple(options.prompts), scales=tuple(options.scales),
        pattern=options.match, chat=options.chat, answer_tokens=options.n_predict, context=options.ctx_size,
        threads=options.threads, n_gpu_layers=options.n_gpu_layers,
    ))  # fmt: skip
    kept = "" if options.vector else f"{vector} is made; --vector {vector} tries it."
    effects = run_job(job, stopped=kept or "Nothing was measured.")
    for one in effects:
        found = {"matching": one.share} if options.match else {}
        measured.append((vector, {
            "kind": f"{one.prompts} at {one.scale:g}", "settings": options.match, **found, "tokens": one.tokens,
            "answers": one.answers, "changed": one.changed,
        }))  # fmt: skip
    remember(effects_for_cards(model.stem, vector, effects, options.match, command_line()))
    return effects


def _print_layers(vector: Path, layers: tuple[FoundLayer, ...]) -> None:
    print(f"{vector}  {len(layers)} directions")
    rows = [
        (one.layer, f"{one.agree:.0%}", f"{one.explained:.0%}", f"{one.apart:.4g}", f"{one.state:.4g}",
         f"{one.length:.4g}")
        for one in layers
    ]  # fmt: skip
    print(table(
        ("LAYER", "PAIRS AGREE", "EXPLAINED", "APART", "STATES", "SCALE 1 ADDS"), rows, right=range(6),
    ))  # fmt: skip


def _print_effects(effects: tuple[Effect, ...], matches: bool) -> None:
    print()
    rows = []
    for one in effects:
        low, high = one.matching_interval
        share = (f"{one.share:.0%} ({low:.0%} to {high:.0%})",) if matches else ()
        near, far = one.longer_interval
        longer = f"{one.longer:+.1f}" + (f" ({near:+.1f} to {far:+.1f})" if near == near else "") if one.scale else "-"
        rows.append((one.prompts, f"{one.scale:g}", one.answers, *share, f"{one.changed / one.answers:.0%}",
                     f"{one.tokens:.1f}", longer))  # fmt: skip
    share_heading = ("MATCHING (95%)",) if matches else ()
    headings = ("PROMPTS", "SCALE", "ANSWERS", *share_heading, "CHANGED", "TOKENS", "LONGER (95%)")
    print(table(headings, rows, right=range(1, len(headings))))
