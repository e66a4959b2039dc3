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
from threading import local

import numpy as np

from localknobs.convert.ggml import Bytes, Floats, library, quantize_rows, row_bytes
from localknobs.convert.gguf_header import padded
from localknobs.convert.imatrix_file import read_imatrix
from localknobs.convert.quant_plan import FilePlan, PlannedTensor, TypeChoice, importance_of, plan_files
from localknobs.convert.quant_source import GgufSource, Source, SourceTensor, TensorReader
from localknobs.convert.quant_types import TENSOR_TYPES
from localknobs.errors import BadFile, BadValue, NotEnough
from localknobs.hardware import free_disk_bytes, logical_cores
from localknobs.jobs import Advanced, Job, Noted, Started, Wrote, partial_file, refuse_same_file
from localknobs.units import size_text

CHUNK_VALUES = 262_144
"""Values a thread takes at once: 1 MiB as float32, which stays in its cache between reading and quantizing."""
CHUNKS_AHEAD = 4
"""Chunks a thread may be ahead of the writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeConfig:
    """What to quantize to what.

    Args:
        source: A GGUF file, the first shard when it is split.
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
    source = GgufSource(config.source)
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
    for note in dict.fromkeys(note for file in plan.files for note in file.notes):
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
    """Some rows of a tensor, which share one importance, and what they become in each file.

    Args:
        padding: Bytes that follow it in each file, behind the tensor's last rows.
    """

    tensor: SourceTensor
    reader: TensorReader
    first_row: int
    rows: int
    targets: tuple[PlannedTensor, ...]
    importance: Floats | None
    padding: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Done:
    data: list[Bytes]
    padding: tuple[int, ...]
    source_bytes: int


def _chunks(plan: QuantizePlan, reader_of: Callable[[SourceTensor], TensorReader]) -> Iterator[_Chunk]:
    """Cut all tensors into chunks, in the order of the files, which is one for all types."""
    for targets in zip(*(file.tensors for file in plan.files), strict=True):
        tensor = targets[0].source
        assert all(target.source is tensor for target in targets), "llama.cpp orders tensors by name alone"
        reader = reader_of(tensor)
        importance = plan.importance.get(tensor.name)
        padding = tuple(
            padded(target.size_bytes, file.alignment) - target.size_bytes
            for target, file in zip(targets, plan.files, strict=True)
        )
        step, row = max(1, CHUNK_VALUES // max(1, tensor.columns)), 0
        while row < tensor.rows:
            expert = row // tensor.rows_of_expert
            rows = min(step, (expert + 1) * tensor.rows_of_expert - row)
            last = row + rows == tensor.rows
            part = None if importance is None else importance[expert * tensor.columns : (expert + 1) * tensor.columns]
            behind = padding if last else (0,) * len(targets)
            yield _Chunk(tensor, reader, row, rows, targets, part, behind)
            row += rows


_scratch = local()


def _do(chunk: _Chunk) -> _Done:
    """Read, widen and quantize a chunk; runs in a thread."""
    tensor = chunk.tensor
    rows = _finite_rows(chunk) if tensor.type_name in TENSOR_TYPES else np.empty((0, 0), np.float32)  # integers
    results: list[Bytes] = []
    for target in chunk.targets:
        out = np.empty(chunk.rows * row_bytes(target.type_name, tensor.columns), np.uint8)
        if target.is_copied:
            chunk.reader.read_bytes(chunk.first_row, out)
        elif not quantize_rows(target.type_name, rows, out, chunk.importance if target.importance else None):
            raise BadFile(
                f"{tensor.where}: {tensor.name} has weights too large for {target.type_name}",
                "Choose another type for it: --tensor-type PATTERN=TYPE",
            )
        results.append(out)
    return _Done(results, chunk.padding, chunk.rows * row_bytes(tensor.type_name, tensor.columns))


def _finite_rows(chunk: _Chunk) -> Floats:
    size = chunk.rows * chunk.tensor.columns
    values: Floats | None = getattr(_scratch, "values", None)
    if values is None or values.size < size:
        values = _scratch.values = np.empty(size, np.float32)
    rows = values[:size].reshape(chunk.rows, chunk.tensor.columns)
    chunk.reader.read_rows(chunk.first_row, rows)
    if not np.isfinite(rows).all():
        raise BadFile(
            f"{chunk.tensor.where}: {chunk.tensor.name} has weights that are no finite numbers",
            "The model is damaged or its training went wrong; llama.cpp would refuse it too.",
        )
    return rows


def _write_next(waiting: deque[Future[_Done]], handles: list[FileIO]) -> Advanced:
    done = waiting.popleft().result()
    for handle, data, padding in zip(handles, done.data, done.padding, strict=True):
        _write(handle, data)
        _write(handle, b"\0" * padding)
    return Advanced(done.source_bytes)


def _write(handle: FileIO, data: bytes | Bytes) -> None:
    rest = memoryview(data)
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
        free = free_disk_bytes(folder)
        if free and size > free:
            raise NotEnough(
                f"{folder} has {size_text(free)} free, and {size_text(size)} will be written",
                "Free some space, or write elsewhere with -o.",
                needed_bytes=size,
                available_bytes=free,
            )
