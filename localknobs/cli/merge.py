"""`localknobs merge`: adapters into their base model; the result is a whole Hugging Face folder."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

from localknobs.cli.output import note, print_json
from localknobs.cli.progress import run_job
from localknobs.paths import user_path
from localknobs.units import size_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "base", metavar="BASE", type=Path, help="folder of the base model: config.json, weights, tokenizer"
    )
    parser.add_argument(
        "--lora", metavar="A[:SCALE]", action="append", required=True,
        help="an adapter that peft saved, and how strongly it acts: 1 as it was trained, 0.5 half; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--outtype", choices=("same", "f32", "f16", "bf16"), default="same",
        help="type of the weights; default: same, each as the base has it",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(options: Namespace) -> int:
    """Check, merge, and say what came of it."""
    from localknobs.convert.adapter import parse_lora
    from localknobs.convert.merge import MergeConfig, merge, plan_merge

    config = MergeConfig(
        base=user_path(options.base),
        loras=tuple(map(parse_lora, options.lora)),
        output=user_path(options.output),
        out_type=options.outtype,
    )
    folder = run_job(merge(plan_merge(config)))
    files = sorted(file for file in folder.iterdir() if file.is_file())
    size = sum(file.stat().st_size for file in files)
    if options.json:
        print_json({"folder": folder, "files": [file.name for file in files], "size_bytes": size})
        return 0
    print(f"{folder}  {size_text(size)}, {len(config.loras)} adapter{'s' if len(config.loras) > 1 else ''} merged")
    note(f"To make a GGUF of it: localknobs convert {shlex.quote(str(folder))}")
    return 0


def sources(options: Namespace) -> list[Path]:
    """Return what the folder is made of, for the ledger."""
    from localknobs.convert.adapter import parse_lora

    return [user_path(options.base), *(parse_lora(text).path for text in options.lora)]
