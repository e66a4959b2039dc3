"""Gemma 2: norms stored less 1, four of them a layer, and logits that are capped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import NAMES, Family, OwnFlags, register
from localknobs.convert.metadata import Sheet
from localknobs.convert.vocabulary import Vocabulary

GEMMA_NAMES = {
    **NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@register("Gemma2ForCausalLM")
class Gemma2(Family):
    """Gemma 2 of all sizes."""

    architecture = "gemma2"
    names: ClassVar[Mapping[str, str]] = GEMMA_NAMES
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 8192, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "head_dim": 256,
        "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    }  # fmt: skip
    head = "embedding"
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "dynamic")

    def shift_of(self, name: str) -> float:
        """Return the 1 that its norms are stored without."""
        return 1.0 if name.endswith("norm.weight") else 0.0

    def vocabulary_flags(self, vocabulary: Vocabulary) -> OwnFlags:
        """Return that no space is put before a text."""
        return {}, {"tokenizer.ggml.add_space_prefix": False}

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers, in an order of their own."""
        config = self.config
        sheet.u32("{arch}.context_length", config["max_position_embeddings"])
        sheet.u32("{arch}.embedding_length", self.width)
        sheet.u32("{arch}.block_count", self.layers)
        sheet.u32("{arch}.feed_forward_length", self.need("intermediate_size"))
        sheet.u32("{arch}.attention.head_count", self.heads)
        sheet.u32("{arch}.attention.head_count_kv", self.heads_kv)
        sheet.f32("{arch}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
        sheet.u32("{arch}.attention.key_length", config["head_dim"])
        sheet.u32("{arch}.attention.value_length", config["head_dim"])
        sheet.u32("general.file_type", file_type)
        sheet.f32("{arch}.attn_logit_softcapping", config["attn_logit_softcapping"])
        sheet.f32("{arch}.final_logit_softcapping", config["final_logit_softcapping"])
        sheet.u32("{arch}.attention.sliding_window", config["sliding_window"])
        if self.rope.full["rope_theta"] != 10000.0:  # what llama.cpp takes when no key says otherwise
            sheet.f32("{arch}.rope.freq_base", self.rope.full["rope_theta"])
