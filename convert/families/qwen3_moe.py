"""Qwen3 with experts: none shared, norms on queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import register
from localknobs.convert.families.qwen2_moe import Qwen2Moe


@register("Qwen3MoeForCausalLM")
class Qwen3Moe(Qwen2Moe):
    """Qwen3-30B-A3B, Qwen3-235B-A22B and Qwen3-Coder."""

    architecture = "qwen3moe"
    head = "optional"
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    }  # fmt: skip
