"""Small GGUF adapters and control vectors for models made in a test, with random values; and the sum of some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from localknobs.gguf_info import read_header
from localknobs.gguf_info.base_mark import BASE_MARK, norms_mark


def write_adapter(
    path: Path, model: Path, *, seed: int = 0, strength: float = 0.2, rank: int = 4, architecture: str = "",
    says_base: bool = True, only: str = "",
) -> Path:  # fmt: skip
    """Write a LoRA adapter for every matrix of a model's blocks; return its path.

    Args:
        path: Where to.
        model: Its base.
        seed: Of the values.
        strength: How strongly it acts.
        rank: Of its factors.
        architecture: Of the base, where the file is to say something else.
        says_base: Whether the file tells its base by the mark.
        only: Part of the names of the matrices it is for; all by default.
    """
    header = read_header(model)
    writer = gguf.GGUFWriter(path, architecture or header.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    if says_base:
        writer.add_string(BASE_MARK, norms_mark(header))
    random = np.random.default_rng(seed)
    for tensor in header.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2 and only in tensor.name:
            columns, rows = tensor.shape
            writer.add_tensor(
                f"{tensor.name}.lora_a", random.standard_normal((rank, columns), np.float32) * columns**-0.5
            )
            writer.add_tensor(f"{tensor.name}.lora_b", random.standard_normal((rows, rank), np.float32) * strength)
    return _written(writer, path)


def write_control_vector(path: Path, model: Path, *, seed: int = 0, strength: float = 0.3, width: int = 0) -> Path:
    """Write a control vector with a direction for every layer but the first; return its path."""
    header = read_header(model)
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", header.architecture)
    random = np.random.default_rng(seed)
    for layer in range(1, header.number("block_count")):
        direction = random.standard_normal(width or header.number("embedding_length"), np.float32)
        writer.add_tensor(f"direction.{layer}", direction * np.float32(strength))
    return _written(writer, path)


def write_merged(path: Path, model: Path, adapters: Sequence[tuple[Path, float]]) -> Path:
    """Write a model of 32-bit floats with adapters added to its matrices; return its path."""
    reader = gguf.GGUFReader(model)
    added: dict[str, np.ndarray] = {}
    for adapter, scale in adapters:
        factors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(adapter).tensors}
        for name in {name.removesuffix(".lora_a") for name in factors if name.endswith(".lora_a")}:
            product = scale * (factors[f"{name}.lora_b"].astype(np.float64) @ factors[f"{name}.lora_a"])
            added[name] = added.get(name, 0) + product
    data = bytearray(model.read_bytes())
    for tensor in reader.tensors:
        if tensor.name in added:
            values = (tensor.data + added[tensor.name]).astype(np.float32)
            begin = int(tensor.data_offset)
            data[begin : begin + values.nbytes] = values.tobytes()
    path.write_bytes(data)
    return path


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
