"""LoRA adapters on a loaded model; only worker processes import this.

An adapter changes what every cached token would have been: whoever attaches one begins with an empty cache.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from localknobs.engine.llama import LoadedModel, lib
from localknobs.errors import BadFile


def attach_adapters(model: LoadedModel, adapters: Sequence[tuple[Path, float]]) -> None:
    """Put adapters on a model in place of those that are on it; they are freed with the model.

    Args:
        model: What they were trained on.
        adapters: GGUF files, each with the factor on top of its own scale.

    Raises:
        BadFile: llama.cpp refuses one: it is none, or not of this model.
    """
    count = len(adapters)
    handles, scales = (lib.llama_adapter_lora_p_ctypes * count)(), (ctypes.c_float * count)()
    for at, (path, scale) in enumerate(adapters):
        handle = lib.llama_adapter_lora_init(model.pointer, os.fsencode(path))
        if not handle:
            raise BadFile(
                f"llama.cpp cannot put the adapter {path} on this model",
                "It must be a GGUF adapter made for it: localknobs convert ADAPTER --base BASE.",
            )
        handles[at], scales[at] = handle, scale
    if count and lib.llama_set_adapters_lora(model.context, handles, count, scales):
        raise BadFile("llama.cpp refuses these adapters", "They may be of another model.")
