"""One tensor of the new file: which source tensors it is made of, how, and its bytes in any float type or Q8_0.

Nothing is read before the bytes are asked for, and then a slab at a time: a permuted or stacked tensor is a view
of the mapped source, so that no more than a slab is ever copied. Weights that are no numbers are noticed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.convert import ggml
from localknobs.convert.checkpoint import WeightSource
from localknobs.convert.float_types import from_float32, to_float32
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, Unsupported

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

SLAB_BYTES = 1 << 20
"""Bytes that are looked at and written at once: they stay in the processor's cache between the two."""
_STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_LARGEST: dict[str, tuple[Any, Any, int]] = {
    "F32": (np.uint32, np.int32, 0x7F80_0000),
    "BF16": (np.uint16, np.int16, 0x7F80),
    "F16": (np.uint16, np.int16, 0x7C00),
}
"""Bits of infinity, above which lie the NaNs."""


@dataclass(frozen=True, slots=True)
class Part:
    """A source tensor and how its values are put in order.

    Args:
        name: The source tensor.
        view: Turns it into a view whose values, read in order, are what is written; must not compute, and keep the
            fastest size last. None: they are in order already, and are read and written a slab at a time.
    """

    name: str
    view: Callable[[Array], Array] | None = None


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor that will be written.

    Args:
        name: In the GGUF file.
        shape: Sizes as numpy has them, the slowest first; GGUF lists them the other way round.
        type_name: ggml's name of its type in a conversion as it was asked for.
        source: Where its parts are read.
        parts: What it is made of, one after the other.
        shift: Added to every value, such as Gemma's 1 on norms.
        values: The values themselves, for a tensor that is computed from the configuration.
        repack: Makes the stored bytes of a tensor that keeps its quantized form; yields them in order.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    source: WeightSource
    parts: tuple[Part, ...] = ()
    shift: float = 0.0
    values: Floats | None = None
    repack: Callable[[WeightSource], Iterator[Array]] | None = field(default=None, compare=False)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The source tensors it is made of."""
        return tuple(part.name for part in self.parts)

    @property
    def is_float(self) -> bool:
        """Whether its values can be asked for: not those that keep a quantized form."""
        return self.repack is None

    @property
    def elements(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """How many rows of its fastest size it has."""
        return self.elements // self.shape[-1] if self.shape and self.shape[-1] else 0

    @property
    def can_be_cut(self) -> bool:
        """Whether some of its rows may be asked for by themselves: all lie on disk as they are, in one tensor."""
        if self.repack or self.values is not None or len(self.parts) != 1:
            return False
        return self.parts[0].view is None and stored_as_it_is(self.source, self.parts[0].name)

    @property
    def source_row_bytes(self) -> int:
        """Bytes that a row of a tensor that can be cut takes on disk."""
        return self.shape[-1] * _STORED[self.source.info(self.parts[0].name).dtype].itemsize

    def size_bytes(self, type_name: str | None = None) -> int:
        """Return how many bytes it takes, in its own type or another."""
        columns = self.shape[-1] if self.shape else 1
        rows = self.elements // columns if columns else 0
        return rows * ggml.row_bytes(type_name or self.type_name, columns)

    def make(self) -> Floats:
        """Return all values as float32, in `shape`.

        Raises:
            BadFile: some are no numbers.
            Unsupported: it keeps a quantized form.
        """
        if self.repack:
            raise Unsupported(f"{self.name} is stored as {self.type_name} and keeps that form", "Convert it as it is.")
        made = np.empty(self.elements, np.float32)
        at = 0
        for slab in self.slabs():
            made[at : at + slab.size] = slab.reshape(-1)
            at += slab.size
        return made.reshape(self.shape)

    def slabs(self) -> Iterator[Floats]:
        """Yield the values as float32, whole rows at a time, without ever holding them all.

        Shapes:
            each: (rows, columns), columns being the fastest size.
        """
        for block, kind, name in self._blocks():
            yield self._widened(block, kind, name).reshape(-1, self.shape[-1] if self.shape else 1)

    def chunks(self, type_name: str | None = None, rows: range | None = None) -> Iterator[Array]:
        """Yield the bytes to write, each chunk before the next is asked for: that may take the same memory.

        Args:
            type_name: `F32`, `F16`, `BF16` or `Q8_0`; its own type when not given.
            rows: Which rows, of a tensor that can be cut; all when not given.

        Raises:
            BadFile: a weight is infinite or no number.
        """
        wanted = type_name or self.type_name
        if self.repack:
            yield from self.repack(self.source)
            return
        for block, kind, name in self._blocks(rows):
            if kind == wanted and not self.shift:
                self._check(block, kind, name)
                yield block
            else:
                yield narrowed(self._widened(block, kind, name).reshape(-1, self.shape[-1]), wanted, self.name)

    def _blocks(self, rows: range | None = None) -> Iterator[tuple[Array, str, str]]:
        if self.values is not None:
            yield self.values, "F32", self.name
        for part in self.parts:
            spec = self.source.info(part.name)
            if part.view is None and stored_as_it_is(self.source, part.name):
                for slab in _streamed(self.source, spec, self.shape[-1] if self.shape else 1, rows):
                    yield slab, spec.dtype, part.name
                continue
            array, kind = stored_array(self.source, part.name)
            for slab in _slabs(part.view(array) if part.view else array):
                yield np.ascontiguousarray(slab), kind, part.name

    def _widened(self, block: Array, kind: str, name: str) -> Floats:
        self._check(block, kind, name)
        if self.shift and kind == "F16":  # llama.cpp's converter adds in the type that is stored, except BF16
            return (block + np.float16(self.shift)).astype(np.float32)
        floats = widened(block, kind)
        return floats + np.float32(self.shift) if self.shift else floats

    def _check(self, block: Array, kind: str, name: str) -> None:
        if not is_finite(block, kind):
            where = f" of {self.source.info(name).file}" if self.values is None else ""
            raise BadFile(
                f"The tensor {name}{where} has infinite values or such that are no numbers", "Fetch it again."
            )


def stored_as_it_is(source: WeightSource, name: str) -> bool:
    """Return whether the bytes on disk are the tensor: of a type that is read here, and no adapter changes it."""
    return source.info(name).dtype in _STORED and not source.is_changed(name)


def stored_array(source: WeightSource, name: str) -> tuple[Array, str]:
    """Return a whole source tensor as it is stored, and the name of its type.

    BF16 comes as the unsigned numbers that its bits are. What is merged, or of a rare type, comes as float32.
    """
    if not stored_as_it_is(source, name):
        return source.read(name), "F32"
    spec = source.info(name)
    stored = np.empty(spec.size_bytes, np.uint8)
    source.fill(name, 0, stored)
    return stored.view(_STORED[spec.dtype]).reshape(spec.shape), spec.dtype


def _streamed(source: WeightSource, spec: TensorSpec, columns: int, rows: range | None) -> Iterator[Array]:
    """Yield a tensor, or some of its rows, in slabs of whole rows, each in the same memory as the one before."""
    kind = _STORED[spec.dtype]
    row_bytes = max(1, columns * kind.itemsize)
    step = max(1, SLAB_BYTES // row_bytes) * row_bytes
    start, stop = (rows.start * row_bytes, rows.stop * row_bytes) if rows is not None else (0, spec.size_bytes)
    room = np.empty(min(step, stop - start), np.uint8)
    for at in range(start, stop, step):
        slab = room[: min(step, stop - at)]
        source.fill(spec.name, at, slab)
        yield slab.view(kind)


def _slabs(view: Array) -> Iterator[Array]:
    """Cut a view into pieces of about `SLAB_BYTES` along its slowest size."""
    if view.ndim <= 1 or view.nbytes <= SLAB_BYTES:
        yield view
        return
    step = SLAB_BYTES // (view.nbytes // len(view))
    if step:
        for start in range(0, len(view), step):
            yield view[start : start + step]
    else:
        for piece in view:
            yield from _slabs(piece)


def is_finite(block: Array, kind: str) -> bool:
    """Return whether all values are numbers, by looking at the largest of their bits, with and without sign."""
    if kind not in _LARGEST or not block.size:
        return True
    unsigned, signed, infinity = _LARGEST[kind]
    negative_infinity = infinity + 2 ** (8 * block.itemsize - 1)
    return int(block.view(signed).max()) < infinity and int(block.view(unsigned).max()) < negative_infinity


def widened(block: Array, kind: str) -> Floats:
    """Return values as float32."""
    if kind == "F32":
        return block
    floats = np.empty(block.shape, np.float32)
    to_float32(kind, block.reshape(-1).view(np.uint8), floats.reshape(-1))
    return floats


def narrowed(values: Floats, kind: str, name: str = "") -> Array:
    """Return values in another type, rounded as ggml rounds them.

    Args:
        values: Finite.
        kind: `F32`, `F16`, `BF16` or `Q8_0`.
        name: Of the tensor, for the error.

    Raises:
        BadFile: a value is too large for F16.

    Shapes:
        values: (rows, columns).
    """
    if kind == "F32":
        return values
    if kind in ("F16", "BF16"):
        stored: Array = from_float32(kind, values).view(_STORED[kind])
        if not is_finite(stored, kind):
            raise BadFile(f"{name} has values beyond what {kind} can hold", "Convert with --outtype f32.")
        return stored
    values = np.ascontiguousarray(values)
    out = np.empty(len(values) * ggml.row_bytes(kind, values.shape[1]), np.uint8)
    if not ggml.quantize_rows(kind, values, out, None):
        raise BadFile(f"{name} has values beyond what {kind} can hold", "Convert with --outtype bf16 or f32.")
    return out
