"""Qwen3: norms on queries and keys instead of biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import Family, register


@register("Qwen3ForCausalLM")
class Qwen3(Family):
    """Qwen3 without experts."""

    architecture = "qwen3"
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768, "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "head_dim": 128,
    }  # fmt: skip
