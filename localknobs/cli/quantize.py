"""`localknobs quantize`: a smaller file of a model, or several, in one pass over it."""

from __future__ import annotations

import os
import re
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localknobs.cli.output import facts, note, print_json, table
from localknobs.cli.progress import run_job
from localknobs.errors import BadValue
from localknobs.library import BUILT_IN, find_checkpoint, find_model
from localknobs.library.names import checkpoint_name
from localknobs.paths import models_folder, user_path
from localknobs.units import size_text

if TYPE_CHECKING:
    from localknobs.convert.quant_plan import FilePlan, Pairs, TypeChoice
    from localknobs.convert.quantize import QuantizePlan

PRESETS = ("sensitive-high",)
_TYPE_ENDING = re.compile(r"[-._](BF16|F16|F32|FP16|FP32|I?Q\d\w*|TQ\d_0|MXFP4\w*)$", re.IGNORECASE)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add(
        "source",
        metavar="SRC",
        help="the folder of a checkpoint, or a float GGUF: a path, a name from `localknobs ls`, built-in",
    )
    add("types", metavar="TYPE", nargs="+", help="such as Q4_K_M; several cost one reading of the source")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="file to write, or a folder (ends in /); default: beside a GGUF, else among your models",
    )
    add("--lora", metavar="A[:SCALE]", action="append", default=[],
        help="an adapter to merge into a checkpoint on the way, and how strongly it acts; repeatable")  # fmt: skip
    add("--imatrix", metavar="F", type=Path, help="importance matrix, from `localknobs imatrix` or llama-imatrix")
    add(
        "--tensor-type",
        metavar="RE=TYPE",
        action="append",
        default=[],
        type=_pair,
        help="type of the tensors whose name matches, as in llama-quantize; the first that fits counts",
    )
    add(
        "--keep",
        metavar="RE=TYPE",
        action="append",
        default=[],
        type=_pair,
        help="least type of the tensors whose name matches: they get no fewer bits, and nothing else changes",
    )
    add(
        "--preset",
        choices=PRESETS,
        help="sensitive-high: embeddings and output at least Q8_0, first and last layer at least Q6_K",
    )
    add("--output-tensor-type", metavar="TYPE", help="type of output.weight")
    add("--token-embedding-type", metavar="TYPE", help="type of the token embeddings")
    add("--pure", action="store_true", help="the same type for every matrix, no mixture")
    add("--allow-requantize", action="store_true", help="take a source already quantized: quality is lost twice")
    add("-t", "--threads", metavar="N", type=int, default=0, help="threads; default: all cores")
    add("--dry-run", action="store_true", help="say which type every tensor would get and the size, and write nothing")
    add("--json", action="store_true", help="print a JSON object")  # fmt: skip


def run(options: Namespace) -> int:
    """Plan, show or write, and say what came of it."""
    from localknobs.convert.quantize import quantize

    plan = make_plan(options)
    if options.dry_run:
        _show_plan(plan, options.json)
        return 0
    written = run_job(quantize(plan))
    if options.json:
        print_json({"files": [_file_summary(plan, at) for at in range(len(written))]})
        return 0
    before = plan.source_bytes
    for output, file in zip(written, plan.files, strict=True):
        share = f"{file.size_bytes / before:.0%} of the source" if before else ""
        print(f"{output}  {size_text(file.size_bytes)}, {file.bits_per_weight:.2f} bits per weight, {share}")
    note(f"To chat with it: localknobs chat {shlex.quote(_name_of(written[0]))}")
    return 0


def sources(options: Namespace) -> list[Path]:
    """Return what the files are made of, for the ledger."""
    from localknobs.convert.adapter import parse_lora

    matrix = [options.imatrix] if options.imatrix else []
    return [
        _source(options),
        *(parse_lora(text).path for text in options.lora),
        *matrix,
    ]


def _source(options: Namespace) -> Path:
    return find_checkpoint(options.source) or find_model(options.source)


def make_plan(options: Namespace) -> QuantizePlan:
    """Return the checked plan of a command line."""
    from localknobs.convert.adapter import parse_lora
    from localknobs.convert.quant_types import file_type_named
    from localknobs.convert.quantize import QuantizeConfig, plan_quantize

    if options.threads < 0:
        raise BadValue(f"--threads cannot be {options.threads}", "0 takes all cores.")
    source = _source(options)
    types = list(dict.fromkeys(map(file_type_named, options.types)))
    outputs = _outputs(source, options, types)
    config = QuantizeConfig(
        source=source,
        outputs=tuple(zip(types, outputs, strict=True)),
        choice=_choice(options),
        imatrix=options.imatrix,
        loras=tuple(map(parse_lora, options.lora)),
        threads=options.threads,
    )
    return plan_quantize(config)


def _choice(options: Namespace) -> TypeChoice:
    from localknobs.convert.quant_plan import TypeChoice
    from localknobs.convert.quant_types import tensor_type_named

    def typed(pairs: list[tuple[str, str]]) -> Pairs:
        return tuple((pattern, tensor_type_named(name)) for pattern, name in pairs)

    def optional(name: str | None) -> str | None:
        return tensor_type_named(name) if name else None

    return TypeChoice(
        tensor_types=typed(options.tensor_type),
        keep=typed(options.keep),
        sensitive_high=options.preset == "sensitive-high",
        output_type=optional(options.output_tensor_type),
        embedding_type=optional(options.token_embedding_type),
        pure=options.pure,
        allow_requantize=options.allow_requantize,
    )


def _outputs(source: Path, options: Namespace, types: list[str]) -> list[Path]:
    """Return where each type goes: beside a GGUF file, into the library from anything else."""
    name = checkpoint_name(source) if source.is_dir() else re.sub(r"-\d{5}-of-\d{5}$", "", source.stem)
    stem = _TYPE_ENDING.sub("", name)
    wanted = user_path(options.output) if options.output else None
    is_folder = wanted is not None and (wanted.is_dir() or options.output.endswith(("/", os.sep)))
    if wanted and len(types) == 1 and not is_folder:
        return [wanted]
    if wanted and len(types) > 1 and (wanted.is_file() or wanted.suffix == ".gguf"):
        raise BadValue(f"-o {wanted} is one file, and {len(types)} will be written", "Name a folder with -o.")
    own_place = options.source == BUILT_IN or source.is_dir()  # beside which no model belongs
    folder = wanted or (models_folder() if own_place else source.parent)
    return [folder / f"{stem}-{name}.gguf" for name in types]


def _pair(text: str) -> tuple[str, str]:
    from argparse import ArgumentTypeError

    pattern, equals, name = text.rpartition("=")
    if not (pattern and equals and name):
        raise ArgumentTypeError(f"{text} cannot be read: write PATTERN=TYPE, such as attn_v=Q8_0")
    return pattern, name


def _name_of(file: Path) -> str:
    folder = models_folder()
    return file.relative_to(folder).with_suffix("").as_posix() if file.is_relative_to(folder) else str(file)


# ---- the plan, shown -----------------------------------------------------------------------------


def _show_plan(plan: QuantizePlan, as_json: bool) -> None:
    if as_json:
        files = []
        for at, file in enumerate(plan.files):
            tensors = [
                {
                    "name": tensor.source.name, "shape": tensor.source.shape, "from": tensor.source.type_name,
                    "to": tensor.type_name, "size_bytes": tensor.size_bytes, "imatrix": tensor.importance,
                }
                for tensor in file.tensors
            ]  # fmt: skip
            files.append({**_file_summary(plan, at), "tensors": tensors})
        from localknobs.convert.quant_speed import estimated_seconds

        seconds = round(estimated_seconds(plan), 1)
        plan_facts = {"source": plan.config.source, "source_bytes": plan.source_bytes, "estimated_seconds": seconds}
        print_json({**plan_facts, "files": files})
        return
    for at, file in enumerate(plan.files):
        summary = _file_summary(plan, at)
        counts = ", ".join(f"{count} {name}" for name, count in file.type_counts.items())
        pairs = [
            ("would write", summary["path"]),
            ("size", f"{size_text(file.size_bytes)} ({file.size_bytes:,} bytes)"),
            ("bits per weight", f"{file.bits_per_weight:.3f}"),
            ("tensor types", counts),
        ]
        print(facts(pairs))
        for text in file.notes:
            note(text)
        if len(plan.files) == 1:
            print()
            print(
                table(("TENSOR", "SHAPE", "FROM", "TO", "SIZE"), map(_row, file.tensors), right=(4,), whole=(2, 3, 4))
            )
        elif at + 1 < len(plan.files):
            print()


def _row(tensor: Any) -> tuple[str, ...]:
    shape = " x ".join(f"{size:,}" for size in tensor.source.shape)
    new = "as it is" if tensor.is_copied else tensor.type_name
    return tensor.source.name, shape, tensor.source.type_name, new, size_text(tensor.size_bytes)


def _file_summary(plan: QuantizePlan, at: int) -> dict[str, Any]:
    file: FilePlan = plan.files[at]
    return {
        "type": file.file_type,
        "path": plan.config.outputs[at][1],
        "size_bytes": file.size_bytes,
        "bits_per_weight": round(file.bits_per_weight, 4),
        "tensor_types": file.type_counts,
        "notes": file.notes,
    }
