"""Convert a checkpoint to a GGUF file at the speed of a copy: in slabs, on all cores, nothing held in memory.

Families this program knows are converted here; any other goes to llama.cpp's own converter (`upstream.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localknobs.convert.checkpoint import WeightSource, open_checkpoint
from localknobs.convert.parallel_writer import reserve, write_tensors
from localknobs.convert.plan import ConversionPlan, plan_conversion, proved, reason_for_upstream
from localknobs.convert.token_proof import proof_processes
from localknobs.errors import BadFile, BadValue
from localknobs.hardware import check_disk_space
from localknobs.jobs import Advanced, Job, Noted, Started, Wrote, partial_file, refuse_same_file
from localknobs.library.names import checkpoint_name

if TYPE_CHECKING:
    from localknobs.convert.adapter import LoraChoice

__all__ = ["ConversionPlan", "ConvertConfig", "convert", "plan_conversion"]


@dataclass(frozen=True, slots=True)
class ConvertConfig:
    """A conversion.

    Args:
        source: Folder of the checkpoint.
        output: File to write; a folder gets a file named after the checkpoint. None: the present folder.
        outtype: `f32`, `f16`, `bf16`, `q8_0`, or `auto` for the 16-bit type that the checkpoint has.
        loras: Adapters to merge on the way.
        name: The model's name, instead of the one that is found.
        check_tokens: Whether to prove that llama.cpp reads text as the tokenizer does.
        get_converter: Whether llama.cpp's own converter may be downloaded for a family unknown here.
    """

    source: Path
    output: Path | None = None
    outtype: str = "auto"
    loras: tuple[LoraChoice, ...] = ()
    name: str | None = None
    check_tokens: bool = True
    get_converter: bool = False


def convert(config: ConvertConfig) -> Job[Path]:
    """Convert a checkpoint; return the file.

    Yields:
        Notes, the bytes written, and the file.

    Raises:
        Unsupported: neither this program nor llama.cpp's converter can convert it.
        BadFile: something of the checkpoint is damaged, missing, or infinite.
        NotEnough: the disk is too small.
    """
    with contextlib.ExitStack() as open_:
        source = open_.enter_context(_opened(config))
        if reason := reason_for_upstream(source.config, source.folder):
            return (yield from _convert_upstream(config, source, reason))
        processes = open_.enter_context(proof_processes(source.folder)) if config.check_tokens else None
        plan = plan_conversion(source, config.outtype, config.name, check_tokens=False)
        output = output_path(config, source.folder, plan.outtype)
        for file in {source.info(name).file for name in source.names()}:
            refuse_same_file(file, output)
        check_disk_space(output.parent, plan.size_bytes, output.name)
        for note in plan.notes:
            yield Noted(note)
        # The proof waits for its processes most of the time: it runs while the weights are copied.
        with ThreadPoolExecutor(1) as pool:
            proof = pool.submit(proved, plan, processes) if config.check_tokens else None
            yield from write_plan(plan, output, proof)
        return output


def write_plan(plan: ConversionPlan, output: Path, proof: Future[ConversionPlan] | None = None) -> Job[None]:
    """Write the file of a plan.

    Args:
        plan: What to write.
        output: Where to.
        proof: The plan as it is when its tokens are proved; its error stops the writing.

    Yields:
        The bytes written, and the file.
    """
    with partial_file(output) as beside:
        yield from _write(plan, beside, proof)
        settled = proof.result() if proof else plan
        if len(settled.header) != len(plan.header):
            yield Noted(f"llama.cpp cuts text for it as {settled.vocabulary.names[0]}: written again with that name")
            yield from _write(settled, beside, None)
        with open(beside, "rb+") as file:
            file.write(settled.header)  # last: a file with a header is complete
    yield Wrote(output)


def _write(plan: ConversionPlan, beside: Path, proof: Future[ConversionPlan] | None) -> Job[None]:
    yield Started("converting", plan.size_bytes, "bytes")
    with open(beside, "wb", buffering=0) as file:
        reserve(file.fileno(), plan.size_bytes)
        yield Advanced(len(plan.header))
        written = len(plan.header)
        with contextlib.closing(write_tensors(plan.tensors, file.fileno(), written)) as writing:
            for amount in writing:
                written += amount
                yield Advanced(amount)
                if proof and proof.done():
                    proof.result()  # raises what it raised
        if written != plan.size_bytes:
            raise BadFile(f"{beside.name} came to {written} bytes, not {plan.size_bytes}", "Convert again.")


def output_path(config: ConvertConfig, folder: Path, outtype: str) -> Path:
    """Return the file to write.

    Raises:
        BadValue: it would not end in `.gguf`, by which every program knows such files.
    """
    name = f"{config.name or checkpoint_name(folder)}-{outtype}.gguf".replace("/", "-")
    output = config.output or Path(name)
    if output.is_dir():
        output = output / name
    if output.suffix != ".gguf":
        raise BadValue(f"{output} does not end in .gguf", "Name the output with -o NAME.gguf.")
    return output


@contextlib.contextmanager
def _opened(config: ConvertConfig) -> Iterator[WeightSource]:
    """Open the checkpoint, with its adapters if there are any: without, nothing of merging is loaded (40 ms)."""
    if config.loras:
        from localknobs.convert.merge import open_source

        with open_source(config.source, config.loras) as source:
            yield source
        return
    checkpoint = open_checkpoint(config.source)
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def _convert_upstream(config: ConvertConfig, source: WeightSource, reason: str) -> Job[Path]:
    """Convert by llama.cpp's own converter."""
    from localknobs.convert import upstream  # 40 ms: it unpacks archives and runs processes

    if config.loras:
        raise BadValue(
            f"Adapters cannot be merged on the way: {reason}",
            "Merge them first with `localknobs merge`, then convert the result.",
        )
    converter = upstream.find_converter(reason, download=config.get_converter)
    output = output_path(config, source.folder, config.outtype.upper())
    refuse_same_file(config.source, output)
    yield Noted(f"By llama.cpp's own converter, since {reason}")
    yield from upstream.run_converter(converter, source, output, config.outtype, config.name)
    return output
