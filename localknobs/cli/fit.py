"""`localknobs fit`: which file of a model fits this machine, or one that is only asked about, at which context."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localknobs.cli.output import clear_progress, heading, note, print_json, show_progress, table, wrapped
from localknobs.errors import BadValue, LocalknobsError
from localknobs.flags import add_knob_flags, chosen
from localknobs.library import BUILT_IN, find_checkpoint, find_model
from localknobs.terminal_text import printable
from localknobs.units import size_text

if TYPE_CHECKING:
    from localknobs.fit.advice import Advice, Candidate, Row
    from localknobs.fit.bill import Bill
    from localknobs.fit.choices import Choices
    from localknobs.fit.machine import FitMachine
    from localknobs.fit.planning import Planning
    from localknobs.gguf_info import Header

_FLOATS = ("BF16", "F16", "F32")
_COULD_BE = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M")
"""What `localknobs quantize` could make of a float file, without an importance matrix."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add("spec", metavar="SPEC", nargs="?", default=BUILT_IN,
        help="a GGUF file, a name from `localknobs ls`, the folder of a checkpoint, or a repository on the hub "
        "(default: built-in)")  # fmt: skip
    add("--device", metavar="NAME", action="append", default=[],
        help='another graphics card than this machine has, such as "RTX 4070", "2x RTX 3090", "M4 Max 64GB", '
        '"My card 20GB"; `cpu` for none; repeatable; --device list shows those that are known')  # fmt: skip
    add("--vram", metavar="SIZE", type=_size, help="memory of the graphics card, such as 12G")
    add("--ram", metavar="SIZE", type=_size, default=0, help="main memory, such as 32G")
    add("--ctx", metavar="NUMBER", dest="n_ctx", type=int, help="the same as -c")
    add("--measure", action="store_true", help="measure this machine's memory and disk again")
    add("--json", action="store_true", help="print one JSON object instead of text")
    add_knob_flags(parser, "loading")


def _size(text: str) -> int:
    from localknobs.fit.cards import parse_size

    try:
        return parse_size(text)
    except LocalknobsError as error:
        raise ArgumentTypeError(f"it cannot be {text!r}. {error.hint}") from None


def run(options: Namespace) -> int:
    """Price every file and print the table, the bill of the recommended one, and the recommendation."""
    from localknobs.bandwidth import bandwidth
    from localknobs.fit.planning import Planning

    if options.device == ["list"]:
        return _list_cards(options.json)
    if options.n_ctx is not None and options.n_ctx < 0:
        raise BadValue(f"A context cannot have {options.n_ctx} tokens", "For example: --ctx 8192.")
    if options.measure:
        show_progress("measuring memory and disk")
        bandwidth(again=True)
    show_progress("looking at the machine")
    machine = _machine(options)
    show_progress("planning with llama.cpp")
    try:
        with Planning() as planning:
            choices = _choices(options, machine, planning)
            try:
                return _show(options, machine, choices)
            finally:
                choices.close()
    finally:
        clear_progress()


def _list_cards(as_json: bool) -> int:
    from localknobs.fit.cards import known_cards

    if as_json:
        print_json([asdict(card) for card in known_cards()])
        return 0
    rows = [(card.title, f"{card.bandwidth / 1e9:,.0f} GB/s", card.vendor) for card in known_cards()]
    print(table(("CARD", "BANDWIDTH", "MAKER"), rows, right=(1,)))
    return 0


def _machine(options: Namespace) -> FitMachine:
    """Return the machine that is asked about.

    Raises:
        BadValue, NotFound: a card that cannot be meant.
    """
    from localknobs.fit.cards import Card, find_cards
    from localknobs.fit.machine import other_machine, this_machine

    named = [text for text in options.device if text.lower() not in ("cpu", "none")]
    if not options.device and options.vram is None:
        return this_machine(memory_bytes=options.ram)
    if len(named) > 1 and options.vram:
        raise BadValue("--vram is the memory of one card, and several are named", "Put it into --device: NAME 12GB.")
    if not named:
        return other_machine([Card("the card", "", options.vram, options.vram)] if options.vram else [], options.ram)
    if options.vram is not None:
        gigabytes = f" {options.vram // 2**30}GB"
        try:
            found = find_cards(named[0])
        except LocalknobsError:
            found = find_cards(named[0] + gigabytes)
        cards = [replace(card, total_bytes=options.vram, free_bytes=options.vram) for card in found]
    else:
        cards = [card for text in named for card in find_cards(text)]
    return other_machine(cards, options.ram)


def _choices(options: Namespace, machine: FitMachine, planning: Planning) -> Choices:
    from localknobs.fit.choices import choices_of
    from localknobs.gguf_info import read_headers

    draft: Sequence[Header] = read_headers(find_model(options.model_draft)) if options.model_draft else ()
    if (folder := find_checkpoint(options.spec)) and (folder / "config.json").is_file():
        return _checkpoint(folder, machine, planning, draft)
    choices = choices_of(options.spec, machine, planning, draft)
    named = choices.candidates[0]
    if choices.path and len(choices.candidates) == 1 and named.name in _FLOATS:
        choices.candidates += _could_be(choices.path)
    return choices


def _checkpoint(folder: Path, machine: FitMachine, planning: Planning, draft: Sequence[Header]) -> Choices:
    """Return what a checkpoint could be converted and quantized to; nothing is written.

    Raises:
        BadFile, Unsupported: it is no whole checkpoint, or of a family that cannot be converted.
    """
    from localknobs.convert.quant_checkpoint import CheckpointSource
    from localknobs.fit.advice import Candidate
    from localknobs.fit.choices import Choices
    from localknobs.fit.pricer import Pricer
    from localknobs.gguf_info import read_header

    with CheckpointSource(folder, ()).header_file() as file:
        header = replace(read_header(file), path=folder / "not-written.gguf", key_ends=())
    reference = Pricer((header,), machine, draft, planning)
    whole = Candidate(header.quant, header.tensor_bytes, pricer=reference, exists=False)
    return Choices(header.name, reference, [whole, *_could_be(folder)])


def _could_be(path: Path) -> list[Candidate]:
    """Return what the file could be quantized to, sized to the byte by a dry run."""
    from localknobs.convert.quantize import QuantizeConfig, plan_quantize
    from localknobs.fit.advice import Candidate

    outputs = tuple((name, path.parent / f"{path.stem}.{name}.gguf") for name in _COULD_BE)
    try:
        plan = plan_quantize(QuantizeConfig(source=path, outputs=outputs))
    except LocalknobsError as error:
        note(f"What it could be quantized to cannot be said: {error.message}")
        return []
    return [
        Candidate(file.file_type, sum(tensor.size_bytes for tensor in file.tensors), exists=False)
        for file in plan.files
    ]


def _show(options: Namespace, machine: FitMachine, choices: Choices) -> int:
    from localknobs.engine import LoadSettings
    from localknobs.engine.adapter_files import read_adapters
    from localknobs.fit.advice import Adviser, advise, usual_context

    header = choices.reference.headers[0]
    wished = options.n_ctx or usual_context(header)
    knobs: dict[str, Any] = {**chosen(options, "loading"), "n_ctx": wished}
    settings = LoadSettings(model=choices.path or header.path, **knobs)
    read_adapters(settings)  # a missing one is no refusal of every row
    adviser = Adviser(choices.reference, settings)
    rows = adviser.rows(choices.candidates)
    advice = advise(rows, machine, wished)
    clear_progress()
    if options.json:
        print_json(_document(machine, choices, rows, advice, wished))
    else:
        _print_table(machine, choices, rows, wished)
        _print_advice(rows, advice, adviser.bill_as_advised(advice))
    return 0


def _print_table(machine: FitMachine, choices: Choices, rows: list[Row], wished: int) -> None:
    print(wrapped(printable(f"{choices.title} on {machine.title}, {wished:,} tokens of context"), "  ", ""))
    layers = bool(machine.cards)
    headings = ["QUANT", "SIZE", "TOTAL", "FITS", "MAX CTX", *(["LAYERS"] if layers else []), "TOKENS/S"]
    lines = [[*_cells(row), *([f"{row.layers}/{row.all_layers}"] if layers else []), _speed_text(row)] for row in rows]
    print("\n" + table(headings, lines, right=(1, 2, 4, 5, 6) if layers else (1, 2, 4, 5)))
    if any(not row.candidate.exists for row in rows):
        print("+ does not exist yet: localknobs quantize makes it.")
    refused = [row.bill.refusal for row in rows if row.bill.refusal]
    if refused and len(refused) < len(rows):  # else the recommendation says it
        note(refused[0])


def _print_advice(rows: list[Row], advice: Advice, bill: Bill | None) -> None:
    if advice.row and bill:
        flags = " ".join(("", *advice.flags))
        print("\n" + heading(f"Memory of {advice.row.candidate.name}{flags}"))
        _print_bill(bill)
    print("\n" + heading("Recommended: " + (advice.row.candidate.name if advice.row else "nothing")))
    print(wrapped(printable(advice.reason), "  ", "  "))
    if advice.row and (command := _command(advice)):
        print(f"  {command}")
    if all(row.bill.refusal for row in rows):
        return
    print()
    assumed = [*_speed_notes(advice), *dict.fromkeys(text for row in rows for text in row.bill.notes)]
    print(wrapped(printable(f"{_method(rows)} Assumed: {'; '.join(assumed) or 'nothing'}."), "  ", ""))


def _cells(row: Row) -> tuple[str, ...]:
    from localknobs.fit.advice import VERDICT_WORDS

    name = row.candidate.name + ("" if row.candidate.exists else " +")
    total = size_text(row.bill.total_bytes) if not row.bill.refusal else "-"
    context = f"{row.context:,}" if row.context else "-"
    return name, size_text(row.candidate.size_bytes), total, VERDICT_WORDS[row.verdict], context


def _speed_text(row: Row) -> str:
    if row.speed is None:
        return "-"
    empty, full = round(row.speed.empty), round(row.speed.full)
    about = "" if row.speed.basis == "measured" else "~"
    return f"{about}{empty:,}" if empty == full else f"{about}{empty:,} to {full:,}"


def _print_bill(bill: Bill) -> None:
    rows = [
        (
            device.name, size_text(device.weights), size_text(device.cache), size_text(device.compute),
            size_text(device.overhead), size_text(device.used_bytes),
            size_text(device.free_bytes) if device.free_bytes else "-",
        )
        for device in bill.devices
    ]  # fmt: skip
    print(table(("", "WEIGHTS", "CACHE", "COMPUTE", "OTHER", "USED", "FREE NOW"), rows, right=range(1, 7)))


def _command(advice: Advice) -> str:
    """Return what to type next; empty where there is nothing to."""
    assert advice.row
    candidate = advice.row.candidate
    if candidate.fetch:
        return f"localknobs pull {candidate.fetch}"
    if not candidate.exists or candidate.path is None or not advice.flags:
        return ""
    return " ".join(["localknobs chat", str(candidate.path), *advice.flags])


def _method(rows: Sequence[Row]) -> str:
    planned = all(row.bill.method == "planned" for row in rows)
    return "Planned by llama.cpp itself, nothing allocated." if planned else "Some of it computed by formula."


def _speed_notes(advice: Advice) -> list[str]:
    if not advice.row or not advice.row.speed:
        return []
    from localknobs.fit.speed import CARD_SHARE, MEMORY_SHARE

    if advice.row.speed.basis == "measured":
        return []
    if advice.row.speed.basis == "estimated from measurements":
        return ["speeds from the bandwidth and what was measured with other models here"]
    on_cards = any(device.weights for device in advice.row.bill.devices[1:])
    share = f"{CARD_SHARE:.0%} of the card's" if on_cards else f"{MEMORY_SHARE:.0%} of the memory's"
    return [f"speeds from {share} bandwidth, empty to full context (`localknobs bench` measures them)"]


def _document(machine: FitMachine, choices: Choices, rows: list[Row], advice: Advice, wished: int) -> dict[str, Any]:
    return {
        "model": choices.title,
        "context": wished,
        "machine": {**asdict(machine), "title": machine.title},
        "files": [_row_document(row) for row in rows],
        "recommended": advice.row.candidate.name if advice.row else None,
        "reason": advice.reason,
        "flags": advice.flags,
    }


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "quant": row.candidate.name, "path": row.candidate.path, "exists": row.candidate.exists,
        "fetch": row.candidate.fetch,
        "size_bytes": row.candidate.size_bytes, "bits_per_weight": round(row.bits, 3), "verdict": row.verdict,
        "total_bytes": row.bill.total_bytes, "largest_context": row.context, "largest_context_q8_0": row.context_q8,
        "gpu_layers": row.layers, "layers": row.all_layers, "method": row.bill.method, "refusal": row.bill.refusal,
        "notes": row.bill.notes, "speed": asdict(row.speed) if row.speed else None,
        "devices": [{**asdict(device), "used_bytes": device.used_bytes} for device in row.bill.devices],
    }  # fmt: skip
