"""How a model is to be loaded: one frozen record; every field but the path and `use_extra_bufts` is a knob."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """What to load and how; the meaning and range of each field is its row in `knobs/loading.py`.

    Args:
        model: Path of a GGUF file (of the first shard, when split).
        use_extra_bufts: llama.cpp's repacked CPU weights; None tries them and falls back (AMX can
            crash on virtual machines, ggml-cpu/amx).
    """

    model: Path
    n_ctx: int = 0
    n_gpu_layers: int = -1
    threads: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    use_extra_bufts: bool | None = None
