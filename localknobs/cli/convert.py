"""`localknobs convert`: a Hugging Face folder becomes a GGUF file, an adapter too; a check says whether it could."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from localknobs.cli.output import facts, note, print_json
from localknobs.cli.progress import run_job
from localknobs.library.names import checkpoint_name
from localknobs.paths import user_path
from localknobs.units import size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add(
        "source", metavar="SRC",
        help="folder of a model: config.json, weights, tokenizer; or its name in `localknobs ls`; with --check also "
        "org/name on the hub",
    )  # fmt: skip
    add(
        "-o", "--output", metavar="OUT", type=Path,
        help="file to write, or a folder; default: here, named after the source and the type",
    )  # fmt: skip
    add(
        "--outtype", choices=("f32", "f16", "bf16", "q8_0", "auto"), default="auto",
        help="type of the matrices; default: auto, the 16-bit type that the source has",
    )  # fmt: skip
    add(
        "--lora", metavar="A[:SCALE]", action="append", default=[],
        help="an adapter to merge on the way, and how strongly it acts; may be given again",
    )  # fmt: skip
    add(
        "--base", metavar="BASE", type=Path,
        help="of an adapter as SRC: folder of its base; config.json is enough; default: where the adapter says",
    )  # fmt: skip
    add("--name", metavar="NAME", help="the model's name in the file; default: found in its card, config or folder")
    add(
        "--check", action="store_true", help="say whether it can be converted, from config and tokenizer; write nothing"
    )
    add(
        "--get-converter", action="store_true",
        help="download llama.cpp's own converter (77 MB, once) if the architecture needs it",
    )  # fmt: skip
    add("--skip-token-check", action="store_true", help="do not compare llama.cpp's tokens with the tokenizer's")
    add("--json", action="store_true", help="print one JSON object instead of text")


def run(options: Namespace) -> int:
    """Check or convert, and say what came of it."""
    if options.check:
        return _check(options)
    source = _source(options)
    if (source / "adapter_config.json").is_file():
        return _convert_adapter(options, source)
    from localknobs.convert.adapter import parse_lora
    from localknobs.convert.to_gguf import ConvertConfig, convert

    config = ConvertConfig(
        source=source,
        output=user_path(options.output) if options.output else None,
        outtype=options.outtype,
        loras=tuple(map(parse_lora, options.lora)),
        name=options.name,
        check_tokens=not options.skip_token_check,
        get_converter=options.get_converter,
    )
    file = run_job(convert(config))
    _show_written(file, options.json)
    if not options.json and options.outtype != "q8_0":  # which would lose quality twice
        note(f"To make it smaller: localknobs quantize {shlex.quote(str(file))} Q4_K_M")
    return 0


def sources(options: Namespace) -> list[Path]:
    """Return what the files are made of, for the ledger."""
    from localknobs.convert.adapter import parse_lora

    return [_source(options), *(parse_lora(text).path for text in options.lora)]


def _source(options: Namespace) -> Path:
    given = user_path(options.source)
    if given.is_dir():
        return given
    from localknobs.library import find_checkpoint  # 50 ms, for what is named by its place in the list

    return find_checkpoint(options.source) or given


def _show_written(file: Path, as_json: bool) -> None:
    size = file.stat().st_size
    if as_json:
        print_json({"file": file, "size_bytes": size})
    else:
        print(f"{file}  {size_text(size)}")


def _convert_adapter(options: Namespace, folder: Path) -> int:
    """Convert an adapter, to be loaded beside a GGUF file of its base."""
    from localknobs.convert.lora_to_gguf import LoraConfig, convert_lora, plan_lora

    out_type = "f32" if options.outtype == "auto" else options.outtype
    named = f"{checkpoint_name(folder)}-{out_type.upper()}.gguf"
    output = user_path(options.output) if options.output else Path(named)
    base = user_path(options.base) if options.base else None
    plan = plan_lora(LoraConfig(folder, base, output / named if output.is_dir() else output, out_type))
    _show_written(run_job(convert_lora(plan)), options.json)
    return 0


def _check(options: Namespace) -> int:
    from localknobs.convert.preflight import check
    from localknobs.library import find_checkpoint

    found = check(str(find_checkpoint(options.source) or options.source), get_converter=options.get_converter)
    if options.json:
        print_json(asdict(found))
        return 0
    if found.reason:
        print(facts([("architecture", found.architecture), ("converted by", "llama.cpp's own converter"),
                     ("because", found.reason)]))  # fmt: skip
        return 0
    proof = "llama.cpp reads the sample as the tokenizer does" if found.proved else "not compared: no tokenizer.json"
    rows: list[tuple[str, object]] = [
        ("architecture", f"{found.architecture}, in llama.cpp {found.family}"),
        ("layers", found.layers),
        ("context", f"{found.context_tokens:,} tokens, rotary positions: {found.rope}"),
        ("vocabulary", f"{found.tokens:,} tokens, {found.vocabulary}, cut as {found.pre_tokenizer}"),
        ("tokens", proof),
        ("chat template", "yes" if found.has_template else "none"),
    ]
    if found.size_bytes:
        rows.append(("size", f"{size_text(found.size_bytes)} as a 16-bit file"))
    print(facts(rows))
    for text in found.notes:
        note(text)
    return 0
