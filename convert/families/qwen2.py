"""Qwen2 and Qwen2.5: biases on query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import Family, register


@register("Qwen2ForCausalLM")
class Qwen2(Family):
    """Qwen2 and Qwen2.5, and what was trained from them."""

    architecture = "qwen2"
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768, "num_key_value_heads": 32, "rms_norm_eps": 1e-6,
    }  # fmt: skip
