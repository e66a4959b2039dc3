"""Checkpoints of Hugging Face: a folder of config, tokenizer and weights, read one tensor at a time without torch.

Weights come from safetensors files, by positioned reads, so that memory stays at the tensor in hand and a
file that is cut short under us is an error and no bus fault. Older `.bin` files are pickles: only torch's
`weights_only` loader touches those, and no code of a checkpoint is ever run. Knows nothing of what the
tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from localknobs.convert.float_types import FLOAT_BYTES, Floats, first_not_finite, to_float32
from localknobs.convert.weight_files import SafetensorsFile, TensorSpec, TorchFile
from localknobs.errors import BadFile, NotFound, Unsupported

_READ_BYTES = 1 << 20
"""Bytes widened at once: small enough for a cache, large beside the cost of a call."""
_DOWNLOAD = "Download the file again."


class WeightSource(Protocol):
    """Named tensors that can be read one after another: a checkpoint, or one with adapters merged into it."""

    @property
    def folder(self) -> Path:
        """Where config and tokenizer lie."""

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says."""

    def names(self) -> list[str]:
        """Names of all tensors."""

    def info(self, name: str) -> TensorSpec:
        """What is known of a tensor without reading it."""

    def raw(self, name: str) -> memoryview:
        """A tensor's bytes in the type that `info` gives."""

    def read(self, name: str) -> Floats:
        """A tensor as float32."""

    def read_part(self, name: str, first: int, out: Floats) -> None:
        """Fill a flat buffer with a tensor's values from the given one on, as float32."""

    def is_changed(self, name: str) -> bool:
        """Whether its values are others than those on disk: something is merged into it."""

    def fill(self, name: str, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Read bytes of a tensor as they are on disk, from an offset on, into a buffer; from any thread."""


class Checkpoint:
    """A checkpoint that lies in a folder. Its tensors may be read from several threads.

    Args:
        folder: The folder.
        config: What its `config.json` says.
        files: Its weight files, open.
        wanted: Tensor names by file name, from the index; None takes all there are.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        files: Iterable[SafetensorsFile | TorchFile],
        wanted: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.files = tuple(files)
        self._places: dict[str, SafetensorsFile | TorchFile] = {}
        for file in self.files:
            for name in file.tensors:
                if wanted is not None and wanted.get(name) != file.path.name:
                    continue
                if name in self._places:
                    raise BadFile(f"{file.path} has the tensor {name}, as has {self._places[name].path}", _DOWNLOAD)
                self._places[name] = file
        for name, file_name in (wanted or {}).items():
            if name not in self._places:
                raise BadFile(f"{folder / file_name} does not have the tensor {name} that the index names", _DOWNLOAD)

    def names(self) -> list[str]:
        """Return the names of all tensors, in the order they lie on disk."""
        return list(self._places)

    def info(self, name: str) -> TensorSpec:
        """Return what is known of a tensor without reading it.

        Raises:
            BadFile: there is no such tensor.
        """
        if name not in self._places:
            raise BadFile(f"{self.folder} has no tensor {name}", "The checkpoint is not complete: download it again.")
        return self._places[name].tensors[name]

    def raw(self, name: str) -> memoryview:
        """Return a tensor's bytes as they are stored, mapped and read-only."""
        spec = self.info(name)
        return self._places[name].view(spec)

    def read(self, name: str) -> Floats:
        """Return a tensor as float32; peak memory is the tensor and a few megabytes.

        Raises:
            BadFile: the file is cut short, or a value is infinite or not a number; names file and tensor.
            Unsupported: it does not hold floating-point numbers.
        """
        spec = self.info(name)
        values = np.empty(spec.shape, np.float32)
        self.read_part(name, 0, values.reshape(-1))
        return values

    def read_part(self, name: str, first: int, out: Floats) -> None:
        """Fill a flat buffer with a tensor's values from the given one on, as float32; raises like `read`."""
        spec = self.info(name)
        item_bytes = FLOAT_BYTES.get(spec.dtype)
        if item_bytes is None:
            raise Unsupported(
                f"{spec.file}: the tensor {name} is of type {spec.dtype}, which holds no floating-point numbers",
                "Begin from a checkpoint in float32, float16 or bfloat16.",
            )
        step = _READ_BYTES // item_bytes
        for at in range(0, out.size, step):
            part = out[at : at + step]
            if spec.dtype == "F32":
                self.fill(name, (first + at) * item_bytes, part.view(np.uint8))
            else:
                stored = np.empty(part.size * item_bytes, np.uint8)
                self.fill(name, (first + at) * item_bytes, stored)
                to_float32(spec.dtype, stored, part)
            check_finite(part, spec)

    def read_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """Return a tensor's bytes as they are stored, read into memory of its own, of whatever type."""
        spec = self.info(name)
        stored = np.empty(spec.size_bytes, np.uint8)
        self.fill(name, 0, stored)
        return stored

    def is_changed(self, name: str) -> bool:
        """Return whether its values are others than those on disk; nothing is merged here."""
        return False

    def fill(self, name: str, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Read bytes of a tensor, from an offset on, into a buffer.

        Raises:
            BadFile: the file is cut short; names file and tensor.
        """
        spec = self.info(name)
        self._places[name].fill(spec, offset, out)

    def need(self, key: str) -> Any:
        """Return a value of the config that cannot be done without.

        Raises:
            BadFile: it is not there; names file and key.
        """
        if self.config.get(key) is None:
            raise BadFile(f"{self.folder / 'config.json'} does not say {key}", "The config is not complete.")
        return self.config[key]

    def file(self, name: str) -> Path | None:
        """Return a file that stands beside the weights, such as `tokenizer.json`; None where there is none."""
        path = self.folder / name
        return path if path.is_file() else None

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.info(name).size_bytes for name in self._places)

    def close(self) -> None:
        """Close the files; views that are still held stay valid."""
        for file in self.files:
            file.close()


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint and check that all its files are whole and all its tensors are there; no weight is read.

    Args:
        path: A folder with `config.json` and weights, or a weight file in one.

    Raises:
        NotFound: the folder, its config or a shard is missing.
        BadFile: a file is damaged, or the index names a tensor that is not there.
    """
    if path.suffix == ".gguf" and path.is_file():
        raise BadFile(f"{path} is a GGUF file, not a checkpoint", "`localknobs quantize` makes other types of it.")
    folder, only = (path.parent, path) if path.is_file() else (path, None)
    if not folder.is_dir():
        raise NotFound(f"There is no folder {path}", "Give the folder of a checkpoint, with its config.json.")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise NotFound(
                f"{folder} is an adapter, not a whole model", "Give its base model, and the adapter with --lora."
            )
        raise NotFound(f"{folder} has no config.json", "Give the folder of a Hugging Face checkpoint.")
    config = read_json(folder / "config.json")
    if only is not None and only.name != "config.json" and not only.name.endswith(".index.json"):
        return Checkpoint(folder, config, [open_weights(only)])
    return Checkpoint(folder, config, *_weight_files(folder))


def open_weights(path: Path) -> SafetensorsFile | TorchFile:
    """Open one file of weights, by what its name says it is; raises `NotFound` and `BadFile`."""
    if not path.is_file():
        raise NotFound(f"The file {path} is missing", _DOWNLOAD)
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _weight_files(folder: Path) -> tuple[list[SafetensorsFile | TorchFile], dict[str, str] | None]:
    """Return the files of weights, open, and which of them has which tensor if an index says so."""
    for single in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (folder / single).is_file():
            return _indexed(folder / single) if single.endswith(".json") else ([open_weights(folder / single)], None)
    if (folder / "pytorch_model.bin.index.json").is_file():
        return _indexed(folder / "pytorch_model.bin.index.json")
    loose = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("[!a]*.safetensors"))
    if not loose:
        raise NotFound(f"{folder} has no weights", "Expected model.safetensors, or its shards with their index.")
    return [open_weights(path) for path in _all_shards(loose)], None


def _all_shards(paths: list[Path]) -> list[Path]:
    """Return the shards that the number in the first one's name promises; opening tells which is missing."""
    head, of, rest = paths[0].stem.rpartition("-of-")
    if not of or not rest.isdigit() or "-" not in head:
        return paths
    prefix = head.rpartition("-")[0]
    return [paths[0].with_name(f"{prefix}-{at:05}-of-{rest}.safetensors") for at in range(1, int(rest) + 1)]


def _indexed(index: Path) -> tuple[list[SafetensorsFile | TorchFile], dict[str, str]]:
    wanted = read_json(index).get("weight_map")
    if not isinstance(wanted, dict) or not all(isinstance(name, str) for name in wanted.values()):
        raise BadFile(f"{index} has no weight_map", _DOWNLOAD)
    names = sorted(set(wanted.values()))
    for name in names:
        if Path(name).name != name:
            raise BadFile(f"{index} names a file outside its folder: {name}", "Do not trust this checkpoint.")
        if not (index.parent / name).is_file():
            raise NotFound(f"The shard {index.parent / name} is missing, which {index.name} names", _DOWNLOAD)
    return [open_weights(index.parent / name) for name in names], wanted


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        NotFound: there is no such file.
        BadFile: it holds no JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise BadFile(f"{path} cannot be read: {error}", _DOWNLOAD) from None
    if not isinstance(data, dict):
        raise BadFile(f"{path} holds no JSON object", _DOWNLOAD)
    return data


def check_finite(values: Floats, spec: TensorSpec) -> None:
    """Refuse values that are infinite or not numbers.

    Raises:
        BadFile: names file and tensor.
    """
    at = first_not_finite(values)
    if at is not None:
        raise BadFile(
            f"{spec.file}: the tensor {spec.name} has the value {values.reshape(-1)[at]}",
            "The weights are broken; nothing good can be made of them.",
        )
