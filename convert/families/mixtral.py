"""Mixtral: Mistral with experts; a GGUF file calls it llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import NAMES, register
from localknobs.convert.families.experts import WithExperts
from localknobs.convert.families.llama import Llama


@register("MixtralForCausalLM")
class Mixtral(WithExperts, Llama):
    """Mixtral 8x7B and 8x22B."""

    names: ClassVar[Mapping[str, str]] = {**NAMES, "block_sparse_moe.gate": "ffn_gate_inp"}
    expert_names: ClassVar[dict[str, str]] = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 131072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    theta = 1000000.0
    head_size_is_written = False
