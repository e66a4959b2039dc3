"""Control vectors on disk: a GGUF file with one `direction.N` a layer, as llama.cpp's cvector-generator names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from localknobs.convert.gguf_header import StoredTensor, header_bytes, number_key, padded, text_key
from localknobs.gguf_info import Header
from localknobs.gguf_info.base_mark import BASE_MARK, norms_mark

ARCHITECTURE = "controlvector"


def write_vector(
    path: Path, vectors: Mapping[int, npt.NDArray[np.float32]], model: Header, extra: Mapping[str, str]
) -> None:
    """Write a file.

    Args:
        path: Where to.
        vectors: By layer from 0; llama.cpp adds that of layer N to the output of block N, and has no room for layer 0.
        model: Header of the model that they are of.
        extra: Further keys.
    """
    keys = [
        text_key("general.architecture", ARCHITECTURE),
        text_key(f"{ARCHITECTURE}.model_hint", model.architecture),
        number_key(f"{ARCHITECTURE}.layer_count", len(vectors)),
        text_key("general.base_model.0.name", model.name),
        *(text_key(name, value) for name, value in extra.items()),
    ]
    if mark := norms_mark(model):
        keys.append(text_key(BASE_MARK, mark))
    tensors, data = [], bytearray()
    for layer in sorted(vectors):
        raw = vectors[layer].astype("<f4").tobytes()
        tensors.append(StoredTensor(f"direction.{layer}", (len(vectors[layer]),), "F32", len(raw)))
        data += raw + b"\0" * (padded(len(raw)) - len(raw))
    path.write_bytes(header_bytes(keys, tensors) + data)
