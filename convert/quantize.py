"""Quantize a model: one pass over the source, one file a type, the bytes those of llama-quantize.

Rows go in chunks to threads that read, widen and quantize them for every wanted type; this thread writes
what is ready, in order. Memory is that of the chunks in flight, whatever the model's size.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.ggml import Bytes, Floats, quantize_rows, row_bytes
from localknobs.convert.gguf_header import padded
from localknobs.convert.imatrix_file import read_imatrix
from localknobs.convert.quant_plan import FilePlan, PlannedTensor, TypeChoice, importance_of, plan_files
from localknobs.convert.quant_source import GgufSource, Rows, Source, SourceTensor
from localknobs.convert.quant_types import TENSOR_TYPES
from localknobs.errors import BadFile, BadValue
from localknobs.ggml_library import library
from localknobs.hardware import check_disk_space, logical_cores
from localknobs.jobs import Advanced, Job, Noted, Started, Wrote, partial_file, refuse_same_file

CHUNKS_AHEAD = 4
"""Chunks a thread may be ahead of the writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeConfig:
    """What to quantize to what.

    Args:
        source: A GGUF file, the first shard when it is split; or the folder of a checkpoint.
        loras: Adapters that are merged into the checkpoint on the way.
        outputs: Pairs of a file type and where to write it.
        choice: What shapes the types of the tensors.
        imatrix: An importance matrix.
        threads: 0 for all cores.
    """

    source: Path
    outputs: tuple[tuple[str, Path], ...]
    choice: TypeChoice = TypeChoice()
    imatrix: Path | None = None
    threads: int = 0
    loras: tuple[LoraChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantizePlan:
    """A checked plan.

    Args:
        config: What was asked.
        source: Ready to be read.
        files: One an output.
        importance: Tensor name to one weight a column.
    """

    config: QuantizeConfig
    source: Source
    files: tuple[FilePlan, ...]
    importance: Mapping[str, Floats]

    @property
    def source_bytes(self) -> int:
        """Bytes that will be read."""
        return sum(tensor.size_bytes for tensor in self.source.tensors)


def plan_quantize(config: QuantizeConfig) -> QuantizePlan:
    """Check everything that can be checked before anything is written.

    Raises:
        NotFound, BadFile: the source or the importance matrix is missing, damaged or of another kind.
        BadValue: an output is the input, or two outputs are one file, or an option does not fit.
        Unsupported: a type that needs an importance matrix without one, or a quantized source.
    """
    source = _open(config)
    outputs = [output for _, output in config.outputs]
    for output in outputs:
        if output.is_dir():
            raise BadValue(f"{output} is a folder", "Name a file with -o.")
        for file in source.files:
            refuse_same_file(file, output)
    if len({output.absolute() for output in outputs}) != len(outputs):
        raise BadValue("Two files would have one name", "Name a folder with -o.")
    library()
    imatrix = read_imatrix(config.imatrix) if config.imatrix else None
    name = config.imatrix.name if config.imatrix else ""  # without its folder: that is nobody's business
    files = plan_files(source, [file_type for file_type, _ in config.outputs], config.choice, imatrix, name)
    return QuantizePlan(config, source, tuple(files), importance_of(imatrix) if imatrix else {})


def _open(config: QuantizeConfig) -> Source:
    if config.source.is_dir():
        from localknobs.convert.quant_checkpoint import CheckpointSource  # tokenizers: not needed for a GGUF

        return CheckpointSource(config.source, config.loras)
    if config.loras:
        raise BadValue(
            f"Adapters are merged into checkpoints, and {config.source} is a GGUF file",
            "Name the folder of the checkpoint, with config.json in it.",
        )
    return GgufSource(config.source)


def quantize(plan: QuantizePlan) -> Job[tuple[Path, ...]]:
    """Write the files of a plan.

    Args:
        plan: What `plan_quantize` returned.

    Yields:
        Progress in bytes of the source.

    Raises:
        NotEnough: the disk is too full; nothing is left behind.
        BadFile: the source has weights that are no numbers, or cannot be read.
    """
    outputs = tuple(output for _, output in plan.config.outputs)
    _check_room(plan)
    for note in dict.fromkeys([*plan.source.notes, *(note for file in plan.files for note in file.notes)]):
        yield Noted(note)
    yield Started("quantizing", plan.source_bytes, "bytes")
    with contextlib.ExitStack() as stack:
        handles = []
        for output, file_plan in zip(outputs, plan.files, strict=True):
            beside = stack.enter_context(partial_file(output))
            handles.append(stack.enter_context(beside.open("wb", buffering=0)))
            _write(handles[-1], file_plan.header)
        threads = plan.config.threads or logical_cores()
        pool = stack.enter_context(_pool(threads))
        waiting: deque[Future[_Done]] = deque()
        for chunk in _chunks(plan, stack.enter_context(plan.source.open())):
            waiting.append(pool.submit(_do, chunk))
            if len(waiting) > threads * CHUNKS_AHEAD:
                yield _write_next(waiting, handles)
        while waiting:
            yield _write_next(waiting, handles)
    for output in outputs:
        yield Wrote(output)
    return outputs


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows of a tensor, and what they become in each file.

    Args:
        padding: Bytes that follow in each file, behind the tensor's last rows.
    """

    rows: Rows
    first_row: int
    targets: tuple[PlannedTensor, ...]
    importance: Floats | None
    padding: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Done:
    data: list[Bytes]
    padding: tuple[int, ...]
    source_bytes: int


def _chunks(plan: QuantizePlan, rows_of: Callable[[SourceTensor], Iterator[Rows]]) -> Iterator[_Chunk]:
    """Take all tensors by rows, in the order of the files, which is one for all types."""
    for targets in zip(*(file.tensors for file in plan.files), strict=True):
        tensor, row = targets[0].source, 0
        assert all(target.source is tensor for target in targets), "llama.cpp orders tensors by name alone"
        padding = tuple(
            padded(target.size_bytes, file.alignment) - target.size_bytes
            for target, file in zip(targets, plan.files, strict=True)
        )
        for rows in rows_of(tensor):
            is_last = row + rows.count == tensor.rows
            behind = padding if is_last else (0,) * len(targets)
            yield _Chunk(rows, row, targets, plan.importance.get(tensor.name), behind)
            row += rows.count
        if row != tensor.rows:
            raise BadFile(
                f"{tensor.where}: {tensor.name} has {row:,} rows instead of {tensor.rows:,}", "Fetch it again."
            )


def _do(chunk: _Chunk) -> _Done:
    """Read, widen and quantize some rows; runs in a thread."""
    tensor = chunk.targets[0].source
    values = chunk.rows.values() if tensor.type_name in TENSOR_TYPES else None  # integers are copied unseen
    if values is not None and not np.isfinite(values).all():
        raise BadFile(
            f"{tensor.where}: {tensor.name} has weights that are no finite numbers",
            "The model is damaged or its training went wrong; llama.cpp would refuse it too.",
        )
    results: list[Bytes] = []
    for target in chunk.targets:
        if target.is_copied or values is None:
            results.append(chunk.rows.stored())
            continue
        out = np.empty(chunk.rows.count * row_bytes(target.type_name, tensor.columns), np.uint8)
        if not _quantize(target, values, out, chunk):
            raise BadFile(
                f"{tensor.where}: {tensor.name} has weights too large for {target.type_name}",
                "Choose another type for it: --tensor-type PATTERN=TYPE",
            )
        results.append(out)
    return _Done(results, chunk.padding, chunk.rows.count * row_bytes(tensor.type_name, tensor.columns))


def _quantize(target: PlannedTensor, values: Floats, out: Bytes, chunk: _Chunk) -> bool:
    """Quantize rows, those of each expert with its own importance; False when the result is no valid data."""
    if chunk.importance is None or not target.importance:
        return quantize_rows(target.type_name, values, out, None)
    tensor, row = target.source, 0
    width = row_bytes(target.type_name, tensor.columns)
    while row < len(values):
        expert, inside = divmod(chunk.first_row + row, tensor.rows_of_expert)
        end = min(len(values), row + tensor.rows_of_expert - inside)
        weights = chunk.importance[expert * tensor.columns : (expert + 1) * tensor.columns]
        if not quantize_rows(target.type_name, values[row:end], out[row * width : end * width], weights):
            return False
        row = end
    return True


def _write_next(waiting: deque[Future[_Done]], handles: list[FileIO]) -> Advanced:
    done = waiting.popleft().result()
    for handle, data, padding in zip(handles, done.data, done.padding, strict=True):
        _write(handle, data)
        _write(handle, b"\0" * padding)
    return Advanced(done.source_bytes)


def _write(handle: FileIO, data: bytes | Bytes) -> None:
    rest = memoryview(data) if isinstance(data, bytes) else data.data
    while rest:
        rest = rest[handle.write(rest) :]


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_room(plan: QuantizePlan) -> None:
    needed: dict[Path, int] = {}
    for (_, output), file in zip(plan.config.outputs, plan.files, strict=True):
        needed[output.parent] = needed.get(output.parent, 0) + file.size_bytes
    for folder, size in needed.items():
        names = ", ".join(output.name for _, output in plan.config.outputs if output.parent == folder)
        check_disk_space(folder, size, names)
