"""`localknobs context MODEL`: how far a model sees, how it can be made to see further, and a file that does."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localknobs.cli.output import facts, note, print_json, table
from localknobs.cli.progress import run_job
from localknobs.engine import LoadSettings
from localknobs.engine.refusals import check_settings
from localknobs.engine.rope import Rope, rope_notes, rope_of_file, rope_of_load
from localknobs.engine.target_length import TargetLength, proposed_settings, target_length
from localknobs.errors import BadValue
from localknobs.flags import add_knob_flags, chosen
from localknobs.gguf_info import Header, check_is_model, read_header
from localknobs.hardware import available_memory_bytes
from localknobs.library import BUILT_IN, find_model
from localknobs.paths import user_path

if TYPE_CHECKING:
    from localknobs.convert.set_keys import KeysWritten
    from localknobs.evaluate.context_effect import ContextEffect


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] [--target-ctx N | ROPE FLAGS] [-o OUT | --measure] [--json]"
    parser.add_argument(
        "model", nargs="?", default=BUILT_IN, help="a GGUF file or a name from `localknobs ls` (default: built-in)"
    )
    parser.add_argument(
        "--target-ctx", metavar="N", type=int, help="propose how the model is made to see so many tokens"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path,
        help="write a file with these RoPE settings in it; without, only show what they do",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    section = parser.add_argument_group("measuring")
    section.add_argument(
        "--measure", action="store_true",
        help="measure what the scaling does, against the model without it: short prompts (KL divergence, perplexity), "
        "then perplexity and hidden numbers beyond the trained length; what was measured is kept for the knobs' cards",
    )  # fmt: skip
    section.add_argument(
        "--minutes", metavar="M", type=float, default=2.0,
        help="time that measuring may take, 0 for as long as it takes; default 2",
    )  # fmt: skip
    section.add_argument(
        "-f", "--text", metavar="F", type=Path, help="UTF-8 text to read; default: one that is shipped"
    )
    section.add_argument("--seed", metavar="N", type=int, default=1, help="of every choice; default 1")
    section.add_argument("--restart", action="store_true", help="measure anew what was measured before")
    add_knob_flags(parser, "context")


def run(options: Namespace) -> int:
    """Show what a model's rotations do, propose, or write."""
    header = read_header(find_model(options.model))
    check_is_model(header)
    settings = LoadSettings(model=header.path, **chosen(options, "context"))  # type: ignore[arg-type]
    proposal = None
    if options.target_ctx is not None:
        proposal = target_length(header, options.target_ctx, settings, available_memory_bytes())
        settings = proposed_settings(settings, options.target_ctx)
    check_settings(header, settings)
    if options.measure and options.output:
        raise BadValue("--measure and -o do not go together", "Measure first; then write the file.")
    measured = _measure(options, header, settings) if options.measure else None
    written = _write(header, settings, options.output) if options.output else None
    if options.json:
        print_json(_as_json(header, settings, proposal, written, measured))
    elif measured:
        _print_measured(measured)
    else:
        _print(header, settings, proposal, written)
    return 0


def _measure(options: Namespace, header: Header, settings: LoadSettings) -> ContextEffect:
    from localknobs.cli.remembering import command_line, remember
    from localknobs.evaluate.context_effect import measure_effect
    from localknobs.evaluate.context_plan import plan_effect
    from localknobs.evaluate.model_words import read_model_words

    text = user_path(options.text) if options.text else None
    plan = plan_effect(
        header, settings, read_model_words(options.model).name, text=text, minutes=options.minutes, seed=options.seed,
        restart=options.restart, command=command_line(),
    )  # fmt: skip
    effect = run_job(measure_effect(plan), stopped="What was measured is kept: the same command goes on.")
    remember([effect.record(plan)])
    return effect


def _print_measured(effect: ContextEffect) -> None:
    flags = effect.flags or "the scaling in its file"
    print(facts([("model", f"{effect.model} with {flags}, against {effect.against}"), *effect.lines()]))
    print(f"\n95% intervals in brackets. Text: {effect.text}. Again: {effect.command}")


def _write(header: Header, settings: LoadSettings, output: Path) -> KeysWritten:
    from localknobs.convert.rope_keys import rope_keys
    from localknobs.convert.set_keys import write_with_keys

    keys, without = rope_keys(header, settings)
    output = user_path(output)
    return run_job(write_with_keys(header, keys, without, output))


def _print(header: Header, settings: LoadSettings, proposal: TargetLength | None, written: KeysWritten | None) -> None:
    before, after = rope_of_file(header), rope_of_load(header, settings)
    length = settings.n_ctx or after.window
    if written:
        how = "weights shared with the source on disk" if written.cloned else "weights copied"
        print(f"{written.path}  {length:,} tokens, {after.text}; {how}")
        return
    print(facts([("model", header.name), ("reaches", f"{before.window:,} tokens"), ("rotations", before.text)]))
    if proposal:
        print(facts(_proposal_lines(proposal)))
    for text in (*rope_notes(header, settings), *(proposal.notes if proposal else ())):
        note(text)
    print(_speeds(before, after, length))
    if before != after or length != before.window:
        note("-o OUT writes a file that does this by itself; the weights are not copied where the disk can share them.")


def _proposal_lines(proposal: TargetLength) -> Iterator[tuple[str, str]]:
    yield "to reach", f"{proposal.tokens:,} tokens"
    yield "proposed", proposal.proposed.flags
    yield "short prompts", proposal.proposed.short_prompts
    yield from proposal.price()
    for other in proposal.others:
        yield f"or {other.name}", other.flags
        yield "", other.short_prompts


def _speeds(before: Rope, after: Rope, length: int) -> str:
    """Return the table: how each pair of values turns, before and after."""
    rows: list[Sequence[str]] = []
    for pair, (old, new) in enumerate(zip(before.speeds(), after.speeds(), strict=True)):
        turn = 2 * math.pi
        rows.append((
            str(pair), f"{turn / old:,.1f}", f"{turn / new:,.1f}", f"{old / new:.3g}x",
            f"{before.trained * old / turn:,.2f}", f"{length * new / turn:,.2f}",
        ))  # fmt: skip
    return table(
        ("pair", "tokens a turn", "now", "slower", f"turns in {before.trained:,}", f"turns in {length:,}"),
        rows, right=range(6),
    )  # fmt: skip


def _as_json(
    header: Header, settings: LoadSettings, proposal: TargetLength | None, written: KeysWritten | None,
    measured: ContextEffect | None,
) -> dict[str, Any]:  # fmt: skip
    before, after = rope_of_file(header), rope_of_load(header, settings)
    return {
        "model": str(header.path),
        "before": {**asdict(before), "speeds": before.speeds()},
        "after": {**asdict(after), "speeds": after.speeds(), "attention": after.attention},
        "context": settings.n_ctx or after.window,
        "proposal": asdict(proposal) if proposal else None,
        "notes": rope_notes(header, settings),
        "written": {"path": str(written.path), "cloned": written.cloned} if written else None,
        "measured": measured.as_mapping() if measured else None,
    }


def sources(options: Namespace) -> list[Path]:
    """Return what the file is made of, for the ledger."""
    return [find_model(options.model)]
