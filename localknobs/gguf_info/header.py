"""What a GGUF file says of itself: its metadata, its tensors, and what follows from them.

Source: ggml/docs/gguf.md and gguf.cpp of llama.cpp.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localknobs.errors import LocalknobsError
from localknobs.ggml_types import FILE_TYPES
from localknobs.knobs import KNOBS, Value

Kind = Literal["model", "adapter", "control vector", "projector", "imatrix"]


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array of the header that was not kept.

    Args:
        count: Elements.
        element_type: GGUF's number of their type.
    """

    count: int
    element_type: int


Scalar = int | float | bool | str
Metadata = Scalar | tuple[Scalar, ...] | ArrayInfo


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor.

    Args:
        name: Its name.
        shape: Sizes, the fastest first, as GGUF writes them.
        type_name: ggml's name of its type, such as `Q4_K`.
        offset: Bytes from the beginning of the data.
        size_bytes: Bytes it takes.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Values in it."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself.

    Args:
        path: The file.
        version: GGUF version, 2 or 3.
        metadata: Key to value; arrays of up to 512 numbers are kept, longer ones are `ArrayInfo`.
        tensors: In file order.
        data_start: Byte of the file from which the tensors' offsets count.
        key_ends: Byte of the file behind each key's value, in file order; the first key begins at 24.
    """

    path: Path
    version: int
    metadata: dict[str, Metadata]
    tensors: tuple[TensorInfo, ...]
    data_start: int = 0
    key_ends: tuple[int, ...] = ()

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as `llama`."""
        return self.text("general.architecture")

    @property
    def name(self) -> str:
        """The model's own name, or the file's."""
        return self.text("general.name") or self.path.stem

    @property
    def kind(self) -> Kind:
        """What the file holds."""
        declared = self.text("general.type")
        if declared == "adapter" or "adapter.type" in self.metadata:
            return "adapter"
        if self.architecture == "controlvector":
            return "control vector"
        if declared == "imatrix" or "imatrix.datasets" in self.metadata:
            return "imatrix"
        if declared == "mmproj" or self.architecture == "clip":
            return "projector"
        return "model"

    @property
    def parameters(self) -> int:
        """Values in all tensors of this file."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors of this file."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Mean bits a value takes."""
        return 8 * self.tensor_bytes / self.parameters if self.parameters else 0.0

    @property
    def context_trained(self) -> int:
        """Tokens of context the model was trained with; 0 when the file does not say."""
        return self.number("context_length")

    @property
    def chat_template(self) -> str | None:
        """Source of the chat template."""
        return self.text("tokenizer.chat_template") or None

    @property
    def quant(self) -> str:
        """The quantization's name, such as `Q4_K_M`: what the file declares, or else its most frequent type."""
        declared = self.metadata.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        weight: Counter[str] = Counter()
        for tensor in self.tensors:
            weight[tensor.type_name] += tensor.size_bytes
        return weight.most_common(1)[0][0] if weight else "unknown"

    @property
    def shards(self) -> int:
        """Files the model was split into; 1 when it was not."""
        count = self.metadata.get("split.count")
        return count if isinstance(count, int) and count > 0 else 1

    @property
    def sampling(self) -> dict[str, Value]:
        """The author's recommended sampling values (`general.sampling.*`); what no knob allows is left out."""
        found: dict[str, Value] = {}
        for key, name in _SAMPLING_KEYS.items():
            value = self.metadata.get(f"general.sampling.{key}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                try:
                    # Stored as 32-bit floats: 0.9 must not become 0.8999999762.
                    found[name] = KNOBS[name].check(float(f"{value:.6g}") if isinstance(value, float) else value)
                except LocalknobsError:
                    continue
        return found

    def text(self, key: str) -> str:
        """Return a text of the header, empty when it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """Return a number under the architecture's prefix (`block_count` is `llama.block_count`); 0 when missing."""
        values = self.per_layer(key)
        return max(values) if values else 0

    def per_layer(self, key: str) -> tuple[int, ...]:
        """Return a value that may be one number or one a layer, as whole numbers; empty when missing."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        values = value if isinstance(value, tuple) else (value,)
        return tuple(int(item) for item in values if isinstance(item, int | float) and math.isfinite(item))


_SAMPLING_KEYS = {
    "temp": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
