"""A checkpoint, with adapters or without, as a source to quantize: nothing of 16 bits is written on the way.

The plan is the converter's; llama.cpp is asked for the types by that plan's header, before a hole in place
of the weights. The file is the one that converting and then quantizing gives. Where that would round twice
(an adapter is merged, or the checkpoint is not all of one 16-bit type), it is the one by way of float32.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.ggml import FLOAT_TYPES, Bytes, Floats, quantize_rows, row_bytes, to_floats
from localknobs.convert.merge import open_source
from localknobs.convert.plan import ConversionPlan, plan_conversion, proved
from localknobs.convert.quant_source import Rows, SourceTensor
from localknobs.convert.tensors import PlannedTensor
from localknobs.convert.token_proof import proof_processes
from localknobs.errors import BadFile, NotEnough
from localknobs.jobs import remove_leftovers
from localknobs.paths import cache_folder
from localknobs.storing import PARTIAL
from localknobs.units import size_text


class CheckpointSource:
    """A checkpoint as the GGUF file it would become.

    Args:
        folder: Of the checkpoint.
        loras: Adapters that are merged on the way.

    Attributes:
        notes: What the user should know about the conversion.
    """

    def __init__(self, folder: Path, loras: Sequence[LoraChoice] = ()) -> None:
        self._open = contextlib.ExitStack()
        try:
            source = self._open.enter_context(open_source(folder, loras))
            with proof_processes(source.folder) as processes:
                plan = plan_conversion(source, "auto", check_tokens=False)
                if not _is_plain(plan):
                    plan = plan_conversion(source, "f32", check_tokens=False)
                plan = proved(plan, processes)  # which may give the tokens' rules another name
        except BaseException:
            self._open.close()
            raise
        self._plan, self.path, self.notes = plan, folder, plan.notes
        self._planned = {tensor.name: tensor for tensor in plan.tensors}
        self.files = tuple(sorted({source.info(name).file for name in source.names()}))
        self.keys = plan.keys
        self.block_count = plan.family.layers
        self.tensors = [
            SourceTensor(tensor.name, tuple(reversed(tensor.shape)), tensor.type_name, _file_of(tensor, folder))
            for tensor in plan.tensors
        ]

    def close(self) -> None:
        """Close the checkpoint's files; nothing can be read after it."""
        self._open.close()

    @contextlib.contextmanager
    def header_file(self) -> Iterator[Path]:
        """Return a file that has the header, and a hole for the weights, which takes no room on disk."""
        folder = cache_folder() / "plans"
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        file = folder / f".{self.path.resolve().name or 'checkpoint'}.{os.getpid()}{PARTIAL}"
        try:
            self._write_hole(file)
            yield file
        finally:
            file.unlink(missing_ok=True)

    def _write_hole(self, file: Path) -> None:
        try:
            with file.open("wb") as handle:
                handle.write(self._plan.header)
                handle.truncate(self._plan.size_bytes)
        except OSError as error:
            raise NotEnough(
                f"{file.parent} takes no file of {size_text(self._plan.size_bytes)}: {error.strerror}",
                "It would be empty, and for a moment; name another place: LOCALKNOBS_HOME.",
            ) from None

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[SourceTensor], Iterator[Rows]]]:
        """Begin to read; the checkpoint is closed at the end."""
        with self._open:
            yield lambda tensor: _rows(tensor, self._planned[tensor.name])


def _is_plain(plan: ConversionPlan) -> bool:
    """Return whether converting rounds nothing: each weight is stored in the type it will have, and unchanged."""
    for tensor in plan.tensors:
        if tensor.type_name == plan.outtype:
            for name in tensor.source_names:
                if plan.source.info(name).dtype != plan.outtype or plan.source.is_changed(name):
                    return False
    return True


def _file_of(tensor: PlannedTensor, folder: Path) -> Path:
    return tensor.source.info(tensor.parts[0].name).file if tensor.parts else folder


def _rows(tensor: SourceTensor, planned: PlannedTensor) -> Iterator[Rows]:
    """Yield a tensor's rows in order; reading and widening is done here, quantizing by whoever takes them."""
    if not planned.is_float:
        yield from _stored_rows(tensor, planned)
        return
    for slab in planned.slabs():
        # A slab of float32 may lie in memory that the next one takes again.
        yield _MadeRows(tensor, slab if _is_widened(planned) else slab.copy())


def _is_widened(planned: PlannedTensor) -> bool:
    return bool(planned.parts) and all(planned.source.info(name).dtype != "F32" for name in planned.source_names)


def _stored_rows(tensor: SourceTensor, planned: PlannedTensor) -> Iterator[Rows]:
    """Yield the rows of a tensor that keeps its quantized form, whose bytes come in pieces of any length."""
    width, rest = row_bytes(tensor.type_name, tensor.columns), b""
    for piece in planned.chunks():
        rest += piece.tobytes()
        whole = len(rest) // width * width
        if whole:
            yield _StoredRows(tensor, np.frombuffer(rest[:whole], np.uint8))
            rest = rest[whole:]


@dataclass(frozen=True, slots=True)
class _MadeRows:
    tensor: SourceTensor
    made: Floats

    @property
    def count(self) -> int:
        return len(self.made)

    def values(self) -> Floats:
        return self.made

    def stored(self) -> Bytes:
        out = np.empty(self.count * row_bytes(self.tensor.type_name, self.tensor.columns), np.uint8)
        assert self.tensor.type_name in FLOAT_TYPES, "the converter was asked for a float type"
        if not quantize_rows(self.tensor.type_name, np.ascontiguousarray(self.made), out, None):
            raise BadFile(
                f"{self.tensor.where}: {self.tensor.name} has values beyond what {self.tensor.type_name} holds",
                "The checkpoint is damaged: fetch it again.",
            )
        return out


@dataclass(frozen=True, slots=True)
class _StoredRows:
    tensor: SourceTensor
    data: Bytes

    @property
    def count(self) -> int:
        return len(self.data) // row_bytes(self.tensor.type_name, self.tensor.columns)

    def values(self) -> Floats:
        made = np.empty((self.count, self.tensor.columns), np.float32)
        to_floats(self.tensor.type_name, self.data, made.reshape(-1))
        return made

    def stored(self) -> Bytes:
        return self.data
