"""`localknobs bench MODEL`: how fast a model reads and writes, over threads, batches, offload and cache types."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localknobs.cli.output import note, one_line, print_json, table, wrapped
from localknobs.cli.progress import run_job
from localknobs.errors import BadValue, LocalknobsError
from localknobs.knobs import BENCHED, KNOBS, Value
from localknobs.library import BUILT_IN, find_model

if TYPE_CHECKING:
    from localknobs.bench import BenchConfig, CaseResult


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.usage = "%(prog)s [MODEL] [-p N] [-n N] [-t LIST] [-b LIST] ... [-r N] [--json] [-o PICTURE.svg]"
    parser.description = (
        "Measure how fast a model reads (pp) and writes (tg), as llama-bench counts it. A LIST is values separated by "
        "commas; of numbers also a range, as in 1-4. Every combination is measured, and they take turns."
    )
    add = parser.add_argument
    add("model", nargs="?", default=BUILT_IN, help="a GGUF file or a name from `localknobs ls` (default: built-in)")
    add("-p", "--n-prompt", metavar="N", type=int, default=512, help="tokens of the prompt; 0 = none; default 512")
    add("-n", "--n-gen", metavar="N", type=int, default=128, help="tokens written one by one; 0 = none; default 128")
    add("-d", "--n-depth", metavar="N", type=int, default=0, help="tokens in the context before both; default 0")
    add("-r", "--repetitions", metavar="N", type=int, default=5, help="how often each is measured; default 5")
    for name in BENCHED:
        row = KNOBS[name]
        default = "the physical cores" if name == "threads" else row.show(row.default)
        text = f"{row.help} {row.range_text()}; default {default}"
        add(*row.flags, dest=name, metavar="LIST", type=_reader(name), default=(), help=text.replace("%", "%%"))
    add("-o", "--output", metavar="FILE.svg", type=Path, help="also draw the table, as a picture")
    add("--json", action="store_true", help="print a JSON object")


def _reader(name: str) -> Callable[[str], tuple[Value, ...]]:
    row = KNOBS[name]

    def read(text: str) -> tuple[Value, ...]:
        try:
            values = [value for part in text.split(",") for value in _values(row.parse, part, ranges=row.kind == "int")]
        except LocalknobsError as error:
            raise ArgumentTypeError(f"{error.message}. {error.hint}") from None
        return tuple(dict.fromkeys(values))

    return read


def _values(parse: Callable[[str], Value], part: str, *, ranges: bool) -> Sequence[Value]:
    """Read one value, or a range of numbers such as 1-4."""
    low, dash, high = part.strip().partition("-")
    if ranges and dash and low.isdecimal() and high.isdecimal() and int(low) <= int(high) < int(low) + 100:
        return [parse(str(number)) for number in range(int(low), int(high) + 1)]
    return [parse(part)]


def run(options: Namespace) -> int:
    """Measure, and print what came of it."""
    from localknobs.bench import BenchConfig, bench

    picture: Path | None = options.output
    if picture:
        if picture.suffix.lower() != ".svg":
            raise BadValue(f"{picture} cannot be drawn", "Pictures are written as SVG: name a file that ends in .svg.")
        if not picture.absolute().parent.is_dir():
            raise BadValue(f"There is no folder {picture.parent}", "Make it first, or write elsewhere.")
    config = BenchConfig(
        model=find_model(options.model),
        values={name: getattr(options, name) for name in BENCHED if getattr(options, name)},
        prompt=options.n_prompt,
        generate=options.n_gen,
        depth=options.n_depth,
        repetitions=options.repetitions,
    )
    results = run_job(bench(config), stopped="Nothing was remembered.")
    if picture:
        _draw(picture, config, results, options.model)
    if options.json:
        print_json(_as_mapping(config, results))
        return 0
    print(_table(config, results))
    for result in results:
        if result.trouble:
            note(f"{result.case.label}: {result.trouble}")
    if len(results) > 1:
        print(wrapped(_verdict(config, results)))
    if picture:
        note(f"Drawn in {picture}.")
    return 0


def _table(config: BenchConfig, results: Sequence[CaseResult]) -> str:
    from localknobs.bench.picture import speed_text

    def cell(speed: float, samples: tuple[float, ...]) -> str:
        return f"{speed_text(speed)} ({speed_text(min(samples))} to {speed_text(max(samples))})" if samples else "-"

    names = list(results[0].case.varied)
    headings = [KNOBS[name].label for name in names] or ["threads"]
    headings += [f"reading {config.prompt:,}, tokens/s"] if config.prompt else []
    headings += [f"writing {config.generate:,}, tokens/s"] if config.generate else []
    rows = []
    for result in results:
        row: list[object] = [result.case.varied[name] for name in names] or [result.case.settings.threads]
        row += [cell(result.prompt_speed, result.prompt)] if config.prompt else []
        row += [cell(result.generation_speed, result.generation)] if config.generate else []
        rows.append(row)
    return table(headings, rows, right=range(len(headings)), whole=range(len(headings)))


def _verdict(config: BenchConfig, results: Sequence[CaseResult]) -> str:
    """Say which combination is the fastest, in the flags that choose it."""
    said = []
    if config.prompt:
        said.append(f"fastest reading: {_flags(max(results, key=lambda one: one.prompt_speed))}")
    if config.generate:
        said.append(f"fastest writing: {_flags(max(results, key=lambda one: one.generation_speed))}")
    text = "; ".join(said)
    return text[0].upper() + text[1:]


def _flags(result: CaseResult) -> str:
    return " ".join(f"{KNOBS[name].flags[0]} {value}" for name, value in result.case.varied.items())


def _draw(path: Path, config: BenchConfig, results: Sequence[CaseResult], model: str) -> None:
    from localknobs.bench.picture import picture
    from localknobs.hardware import processor_name
    from localknobs.paths import written_whole

    devices = dict.fromkeys(name for result in results for name in result.devices if name != "CPU")
    machine = " · ".join([processor_name(), *devices])
    try:
        with written_whole(path) as beside:
            title = one_line(model if model == BUILT_IN else Path(model).stem)
            beside.write_text(picture(config, results, title, one_line(machine)), encoding="utf-8")
    except OSError as error:
        raise BadValue(f"{path} cannot be written: {error.strerror}", "Choose another place.") from None


def _as_mapping(config: BenchConfig, results: Sequence[CaseResult]) -> dict[str, Any]:
    from localknobs.hardware import processor_name

    return {
        "model": config.model, "processor": processor_name(), "prompt_tokens": config.prompt,
        "generated_tokens": config.generate, "depth_tokens": config.depth, "repetitions": config.repetitions,
        "cases": [
            {
                "settings": {name: getattr(result.case.settings, name) for name in BENCHED},
                "devices": result.devices,
                "prompt_tokens_per_s": result.prompt_speed, "prompt_samples": result.prompt,
                "generation_tokens_per_s": result.generation_speed, "generation_samples": result.generation,
                "trouble": result.trouble or None,
            }
            for result in results
        ],
    }  # fmt: skip
