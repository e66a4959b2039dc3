"""How a model is to be loaded: one frozen record; every field but the path and `use_extra_bufts` is a knob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """What to load and how.

    The meaning and range of each field is its row in `knobs/` (loading, rope, cache, placement, adapters).

    Args:
        model: Path of a GGUF file (of the first shard, when split).
        use_extra_bufts: llama.cpp's repacked CPU weights; None tries them and falls back (AMX can
            crash on virtual machines, ggml-cpu/amx).
    """

    model: Path
    n_ctx: int = 0
    threads: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    rope_scaling: str = "model"
    rope_scale: float = 0.0
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_orig_ctx: int = 0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"
    no_kv_offload: str = "off"
    swa_full: str = "off"
    context_full: str = "stop"
    n_sink: int = 4
    drop_by: str = "auto"
    sliding_window: int = 0
    park_cache: str = "off"
    park_limit: float = 4.0
    n_gpu_layers: int = -1
    cpu_moe: str = "off"
    n_cpu_moe: int = 0
    override_tensor: str = ""
    split_mode: str = "layer"
    tensor_split: str = ""
    main_gpu: int = 0
    model_draft: str = ""
    draft: str = "none"
    draft_max: int = 8
    draft_min: int = 0
    draft_p_min: float = 0.0
    draft_ngram: int = 3
    n_gpu_layers_draft: int = -1
    lora: tuple[str, ...] = ()
    lora_any_base: str = "off"
    control_vector: tuple[str, ...] = ()
    control_vector_layers: str = ""
    use_extra_bufts: bool | None = None

    def adapters(self) -> dict[str, tuple[str, ...]]:
        """Return the knobs that name files which act beside the model."""
        return {"lora": self.lora, "control_vector": self.control_vector}

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> LoadSettings:
        """Return the settings of a mapping that went through JSON."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        values["model"] = Path(values["model"])
        return cls(**values)
