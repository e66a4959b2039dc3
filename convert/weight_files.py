"""Files of weights: safetensors, read as the format says, and torch's `.bin`, by torch's own safe loader."""

from __future__ import annotations

import json
import math
import mmap
import os
import pickle
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localknobs.convert.float_types import ITEM_BYTES
from localknobs.errors import BadFile, MissingExtra, Unsupported

_LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""
_DOWNLOAD = "Download the file again."


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor in a file, without its values.

    Args:
        name: Its name in the checkpoint.
        dtype: Its type, as safetensors files name them: `F32`, `BF16`, `F8_E4M3`, `I64` ...
        shape: Sizes, the fastest last.
        file: The file that has it.
        offset: Where its bytes begin in the file; 0 where the file is no plain one.
        size_bytes: How many there are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


class SafetensorsFile:
    """A safetensors file: a JSON header and the bytes of all tensors.

    Raises:
        BadFile: the header is damaged, or the file is shorter than it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = open(path, "rb", buffering=0)
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()
        try:
            self.metadata, self.tensors = self._read_header()
        except BaseException:
            self._handle.close()
            raise

    def _read_header(self) -> tuple[dict[str, str], dict[str, TensorSpec]]:
        file_bytes = os.fstat(self._handle.fileno()).st_size
        length = int.from_bytes(self._handle.read(8), "little")
        if file_bytes < 8 or length > min(_LARGEST_HEADER, file_bytes - 8):
            raise self._bad("is no safetensors file, or only the beginning of one")
        try:
            header = json.loads(self._handle.read(length))
        except (ValueError, RecursionError):
            raise self._bad("has a damaged header") from None
        if not isinstance(header, dict):
            raise self._bad("has a damaged header")
        metadata = header.pop("__metadata__", None) or {}
        start = 8 + length
        tensors = {name: self._spec(name, entry, start, file_bytes) for name, entry in header.items()}
        return metadata, dict(sorted(tensors.items(), key=lambda item: item[1].offset))

    def _spec(self, name: str, entry: Any, start: int, file_bytes: int) -> TensorSpec:
        try:
            dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
            first, end = entry["data_offsets"]
            plain = all(type(number) is int and number >= 0 for number in (*shape, first, end))
        except (KeyError, TypeError, ValueError):
            plain = False
        if not plain:
            raise self._bad(f"has a damaged entry for the tensor {name}")
        if dtype in ITEM_BYTES and math.prod(shape) * ITEM_BYTES[dtype] != end - first or end < first:
            raise self._bad(f"gives the tensor {name} {end - first} bytes, which its shape {shape} does not take")
        if start + end > file_bytes:
            raise self._bad(f"ends within the tensor {name}: {file_bytes} bytes where at least {start + end} belong")
        return TensorSpec(name, dtype, shape, self.path, start + first, end - first)

    def fill(self, spec: TensorSpec, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Read a tensor's bytes from the given one on into a buffer; may be called from several threads."""
        view = out.data
        at = spec.offset + offset
        while view:
            got = os.preadv(self._handle.fileno(), [view], at)
            if not got:
                raise self._bad(f"ends within the tensor {spec.name}")
            view, at = view[got:], at + got

    def view(self, spec: TensorSpec) -> memoryview:
        """Return a tensor's bytes, mapped and read-only."""
        with self._lock:
            if self._map is None:
                self._map = mmap.mmap(self._handle.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[spec.offset : spec.offset + spec.size_bytes]

    def close(self) -> None:
        """Close the file; views stay valid."""
        self._handle.close()

    def _bad(self, what: str) -> BadFile:
        return BadFile(f"{self.path} {what}", _DOWNLOAD)


class TorchFile:
    """A `.bin` file of torch: a pickle, of which torch's `weights_only` loader takes tensors and nothing else.

    Raises:
        MissingExtra: torch is not installed.
        BadFile: the file is damaged or holds more than tensors.
    """

    metadata: dict[str, str]

    def __init__(self, path: Path) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtra(
                f"{path} is a pickle, which torch reads safely, and torch is not installed",
                "Install the extra `train`, or take the checkpoint's safetensors files.",
            ) from None
        self.path, self.metadata = path, {}
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadFile(f"{path} cannot be loaded as weights alone: {reason}", _DOWNLOAD) from None
        names = {
            torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
            torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
            torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
        }  # fmt: skip
        self._tensors: dict[str, Any] = {}
        self.tensors: dict[str, TensorSpec] = {}
        for name, tensor in loaded.items() if isinstance(loaded, dict) else ():
            if not isinstance(tensor, torch.Tensor):
                continue
            if tensor.dtype not in names:
                raise Unsupported(f"{path}: the tensor {name} is of type {tensor.dtype}", "Save it in another type.")
            size = tensor.numel() * tensor.element_size()
            self.tensors[name] = TensorSpec(name, names[tensor.dtype], tuple(tensor.shape), path, 0, size)
            self._tensors[name] = tensor
        if not self.tensors:
            raise BadFile(f"{path} has no tensors", _DOWNLOAD)

    def fill(self, spec: TensorSpec, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Copy a tensor's bytes from the given one on into a buffer."""
        out[:] = np.frombuffer(self.view(spec), np.uint8)[offset : offset + out.size]

    def view(self, spec: TensorSpec) -> memoryview:
        """Return a tensor's bytes."""
        import torch

        flat = self._tensors[spec.name].contiguous().reshape(-1)
        data: npt.NDArray[np.uint8] = flat.view(torch.uint8).numpy()
        return data.data.toreadonly()

    def close(self) -> None:
        """Let go of the tensors."""
        self._tensors.clear()
