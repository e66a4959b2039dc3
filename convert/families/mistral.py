"""Mistral: Llama's tensors with other defaults; the sliding window of its first version is not in GGUF."""

from __future__ import annotations

from typing import ClassVar

from localknobs.convert.families.base import register
from localknobs.convert.families.llama import Llama


@register("MistralForCausalLM")
class Mistral(Llama):
    """Mistral 7B, Nemo, Small and Ministral in Hugging Face's form."""

    defaults: ClassVar = {"max_position_embeddings": 131072, "num_key_value_heads": 8, "rms_norm_eps": 1e-6}
