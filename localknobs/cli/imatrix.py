"""`localknobs imatrix`: measure which weights matter, for the quantizers to weigh their errors with."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from time import monotonic

from localknobs.cli.output import note, print_json
from localknobs.cli.progress import run_job
from localknobs.jobs import JobEvent, Measured
from localknobs.library import find_model
from localknobs.units import time_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this verb."""
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="the float model, or its Q8_0; without it, --in-file are merged")
    add(
        "-f",
        "--text",
        metavar="F",
        type=Path,
        help="text to read, UTF-8; default: 25 kB shipped with localknobs, of prose, dialogue, code, mathematics, "
        "tables and several languages",
    )
    add("-o", "--output", metavar="OUT", type=Path, help="file to write; default: MODEL.imatrix.gguf in this folder")
    add(
        "--in-file",
        metavar="F",
        action="append",
        default=[],
        type=Path,
        help="a matrix of this model to add; repeatable",
    )
    add("-c", "--ctx-size", metavar="N", type=int, default=512, help="tokens of a chunk; default 512")
    add("--chunks", metavar="N", type=int, default=0, help="most chunks to read; default: all")
    add("--process-output", action="store_true", help="also measure the input of output.weight")
    add(
        "--parse-special", action="store_true", help="read control tokens such as <|im_end|> where the text spells them"
    )
    add("--restart", action="store_true", help="begin anew where a stopped run could be taken up")
    add("-t", "--threads", metavar="N", type=int, default=0, help="threads; default: all physical cores")
    add("-ngl", "--n-gpu-layers", metavar="N", type=int, default=-1, help="layers on the GPU; default: all that fit")
    add("--json", action="store_true", help="print a JSON object")  # fmt: skip


def run(options: Namespace) -> int:
    """Measure, and say what came of it."""
    from localknobs.convert.imatrix import ImatrixConfig, compute_imatrix, plan_imatrix
    from localknobs.convert.imatrix_file import read_imatrix

    model = find_model(options.model) if options.model else None
    plan = plan_imatrix(
        ImatrixConfig(
            output=options.output or Path(f"{model.stem if model else 'merged'}.imatrix.gguf"),
            model=model,
            text=options.text,
            merge=tuple(options.in_file),
            chunk_tokens=options.ctx_size,
            chunks=options.chunks,
            process_output=options.process_output,
            parse_special=options.parse_special,
            restart=options.restart,
            threads=options.threads,
            n_gpu_layers=options.n_gpu_layers,
        )
    )
    began, perplexity = monotonic(), 0.0

    def on_event(event: JobEvent) -> None:
        nonlocal perplexity
        if isinstance(event, Measured):
            perplexity = event.value

    stopped = "What was summed is kept: the same command goes on from there."
    output = run_job(compute_imatrix(plan), stopped=stopped, on_event=on_event)
    matrix = read_imatrix(output)
    if options.json:
        print_json({
            "path": output, "entries": len(matrix.entries), "chunks": matrix.chunk_count,
            "chunk_tokens": matrix.chunk_size, "datasets": matrix.datasets, "perplexity": perplexity or None,
        })  # fmt: skip
        return 0
    read = f", in {time_text(monotonic() - began)}, perplexity {perplexity:.4g}" if perplexity else ""
    print(f"{output}  {len(matrix.entries)} tensors, {matrix.chunk_count:,} chunks{read}")
    words = ["localknobs", "quantize", options.model or "MODEL", "IQ3_M", "--imatrix", str(output)]
    note(f"To use it: {shlex.join(words)}")
    return 0


def sources(options: Namespace) -> list[Path]:
    """Return what the matrix is made of, for the ledger."""
    model = [find_model(options.model)] if options.model else []
    return [*model, *([options.text] if options.text else []), *options.in_file]
