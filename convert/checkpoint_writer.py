"""Writes a whole checkpoint: weights in safetensors files, their index, config, and what stands beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from localknobs.convert.checkpoint import WeightSource, read_json
from localknobs.convert.float_types import FLOAT_BYTES, ITEM_BYTES, LARGEST, Floats, from_float32
from localknobs.convert.weight_files import TensorSpec
from localknobs.errors import BadFile, BadValue
from localknobs.hardware import check_disk_space
from localknobs.jobs import Advanced, Job, Started

SHARD_BYTES = 5 * 10**9
"""Size at which the hub's own tools begin another file."""
OUT_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_PLAIN = frozenset({"F32", "F16", "BF16"})
_CHUNK = 1 << 20
"""Values read, rounded and written at once."""
_VOCABULARY = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "chat_template.json", "*.tiktoken",
)  # fmt: skip
_BESIDE = (
    *_VOCABULARY, "generation_config.json", "preprocessor_config.json", "processor_config.json", "*.py", "LICENSE*",
    "NOTICE*", "USE_POLICY*",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OutTensor:
    """A tensor as it will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """A checkpoint that will be written.

    Args:
        source: Where the values come from.
        output: The folder.
        shards: Tensors by file, in order.
        out_type: Type of the weights: `same`, `f32`, `f16`, `bf16`.
        overlay: Folders whose vocabulary takes the place of the source's, the last first.
    """

    source: WeightSource
    output: Path
    shards: tuple[tuple[OutTensor, ...], ...]
    out_type: str
    overlay: tuple[Path, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.size_bytes for shard in self.shards for tensor in shard)

    def shard_name(self, at: int) -> str:
        """Return the name of a file of weights, by its place."""
        count = len(self.shards)
        return "model.safetensors" if count == 1 else f"model-{at + 1:05}-of-{count:05}.safetensors"


def plan_checkpoint(
    source: WeightSource,
    output: Path,
    out_type: str,
    shard_bytes: int = SHARD_BYTES,
    overlay: Sequence[Path] = (),
    dtype_of: Callable[[str], str] | None = None,
) -> CheckpointPlan:
    """Decide what is written where, and check that it can be; writes nothing.

    Args:
        source: Where the values come from.
        output: Folder to write.
        out_type: `same`, or the type of all floating-point tensors.
        shard_bytes: Largest file of weights, unless one tensor is larger.
        overlay: Folders of adapters, which may have a vocabulary of their own.
        dtype_of: Type of a tensor under `same`; the source's own when not given.

    Raises:
        BadValue: the output exists.
        NotEnough: it does not fit on the disk.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise BadValue(f"{output} exists already", "Name another folder with -o.")
    tensors = [_out_tensor(source.info(name), out_type, dtype_of) for name in source.names()]
    tensors.sort(key=lambda tensor: -ITEM_BYTES.get(tensor.dtype, 1))  # so that every tensor begins aligned
    shards: list[list[OutTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(other.size_bytes for other in shards[-1]) + tensor.size_bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    own = tuple(folder for folder in overlay if _has_vocabulary(folder))
    plan = CheckpointPlan(source, output, tuple(map(tuple, shards)), out_type, own)
    check_disk_space(output.parent, plan.total_bytes, output.name)
    return plan


def _out_tensor(spec: TensorSpec, out_type: str, dtype_of: Callable[[str], str] | None) -> OutTensor:
    is_float = spec.dtype in (*_PLAIN, "F64")
    same = dtype_of(spec.name) if dtype_of else spec.dtype
    dtype = (OUT_DTYPES.get(out_type, same)) if is_float else spec.dtype
    size = spec.elements * ITEM_BYTES[dtype] if dtype in ITEM_BYTES else spec.size_bytes
    return OutTensor(spec.name, dtype, spec.shape, size)


def _has_vocabulary(folder: Path) -> bool:
    """Return whether a fine-tune was saved with a whole vocabulary: then that is the one it was trained with."""
    return (folder / "tokenizer_config.json").is_file() and any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    )


def write_checkpoint(plan: CheckpointPlan, folder: Path) -> Job[None]:
    """Write a planned checkpoint into an empty folder, tensor by tensor.

    Raises:
        BadFile: a value is infinite, not a number or too large for its type; names file and tensor.
    """
    yield Started("writing weights", plan.total_bytes, "bytes")
    for at, shard in enumerate(plan.shards):
        with open(folder / plan.shard_name(at), "wb") as file:
            file.write(_header(shard))
            for tensor in shard:
                for data in _stored(plan.source, tensor):
                    file.write(data)
                    yield Advanced(data.nbytes)
    if len(plan.shards) > 1:
        places = {tensor.name: plan.shard_name(at) for at, shard in enumerate(plan.shards) for tensor in shard}
        index = {"metadata": {"total_size": plan.total_bytes}, "weight_map": dict(sorted(places.items()))}
        _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", _config(plan))
    _copy_beside(plan, folder)


def _header(tensors: Sequence[OutTensor]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _stored(source: WeightSource, tensor: OutTensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes in the type in which it is written, checked."""
    spec = source.info(tensor.name)
    if tensor.dtype not in _PLAIN:
        if spec.dtype in FLOAT_BYTES:
            source.read(tensor.name)  # for its check
        raw = source.raw(tensor.name)
        yield from (raw[at : at + 4 * _CHUNK] for at in range(0, len(raw), 4 * _CHUNK))
        return
    for values in _values(source, tensor, spec):
        largest = LARGEST.get(tensor.dtype)
        if largest and (spec.dtype != tensor.dtype or source.is_changed(tensor.name)):
            at = int(np.argmax(np.abs(values)))
            if abs(values[at]) > largest:
                raise BadFile(
                    f"{spec.file}: the tensor {tensor.name} has the value {values[at]:g}, too large for {tensor.dtype}",
                    "Take --outtype bf16 or f32.",
                )
        yield from_float32(tensor.dtype, values).data


def _values(source: WeightSource, tensor: OutTensor, spec: TensorSpec) -> Iterator[Floats]:
    if source.is_changed(tensor.name):
        flat = source.read(tensor.name).reshape(-1)
        yield from (flat[at : at + _CHUNK] for at in range(0, flat.size, _CHUNK))
        return
    buffer = np.empty(min(_CHUNK, spec.elements), np.float32)
    for at in range(0, spec.elements, _CHUNK):
        part = buffer[: min(_CHUNK, spec.elements - at)]
        source.read_part(tensor.name, at, part)
        yield part


def _config(plan: CheckpointPlan) -> dict[str, Any]:
    config = dict(plan.source.config)
    name = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(plan.out_type)
    if name:
        config["dtype" if "dtype" in config else "torch_dtype"] = name
        for key, part in config.items():
            if isinstance(part, dict) and {"dtype", "torch_dtype"} & set(part):
                config[key] = {inner: name if inner in ("dtype", "torch_dtype") else part[inner] for inner in part}
    return config


def _copy_beside(plan: CheckpointPlan, folder: Path) -> None:
    """Copy the files beside the weights; a vocabulary that came with an adapter goes over the base's."""
    copy_beside(plan.source.folder, folder)
    for own in plan.overlay:
        copy_beside(own, folder, _VOCABULARY)
    if plan.overlay:
        _keep_chat_template(plan.source.folder, folder)


def copy_beside(source: Path, folder: Path, patterns: Sequence[str] = _BESIDE) -> None:
    """Copy what stands beside the weights of a checkpoint into another folder: tokenizer, licence and the like."""
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _keep_chat_template(base: Path, folder: Path) -> None:
    """Carry over the base's chat template where the adapter's vocabulary came without one."""
    old, new = (_tokenizer_config(where) for where in (base, folder))
    template = old.get("chat_template")
    if template and not new.get("chat_template") and not any(folder.glob("chat_template.*")):
        _write_json(folder / "tokenizer_config.json", {**new, "chat_template": template})


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
