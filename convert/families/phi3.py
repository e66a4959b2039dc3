"""Phi-3 and Phi-4: query, key and value in one matrix, gate and up in another, LongRoPE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from localknobs.convert.checkpoint import WeightSource
from localknobs.convert.families.base import NAMES, Family, register
from localknobs.convert.metadata import Sheet
from localknobs.convert.rope import LongRope, longrope
from localknobs.convert.tensors import PlannedTensor
from localknobs.errors import Unsupported


@register("Phi3ForCausalLM")
class Phi3(Family):
    """Phi-3, Phi-3.5 and Phi-4 mini and medium, text only."""

    architecture = "phi3"
    names: ClassVar[Mapping[str, str]] = {**NAMES, "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    vocabulary_kind = "phi3"
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "longrope", "su", "yarn")

    def __init__(self, source: WeightSource) -> None:
        super().__init__(source)
        if self.rope.kind == "yarn" and not self.rope.full.get("long_factor"):
            raise Unsupported(
                "llama.cpp does not scale the rotary positions of phi3 models by plain YaRN",
                "Remove rope_scaling from config.json to convert the model without.",
            )

    @property
    def rotated(self) -> int:
        """Values of a head that are rotated."""
        return int(self.rope.full.get("partial_rotary_factor", 1.0) * self.width) // self.heads

    def add_early(self, sheet: Sheet) -> None:
        """Set what attention is scaled by under LongRoPE."""
        if found := self._longrope():
            sheet.f32("{arch}.rope.scaling.attn_factor", found.attention)

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers, in an order of their own."""
        config = self.config
        sheet.u32("{arch}.context_length", config["max_position_embeddings"])
        sheet.u32("{arch}.rope.scaling.original_context_length", self.rope.full["original_max_position_embeddings"])
        sheet.u32("{arch}.embedding_length", self.width)
        sheet.u32("{arch}.feed_forward_length", self.need("intermediate_size"))
        sheet.u32("{arch}.block_count", self.layers)
        sheet.u32("{arch}.attention.head_count", self.heads)
        sheet.u32("{arch}.attention.head_count_kv", self.heads_kv)
        sheet.f32("{arch}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
        sheet.u32("{arch}.rope.dimension_count", self.rotated)
        sheet.f32("{arch}.rope.freq_base", self.rope.full["rope_theta"])
        sheet.u32("general.file_type", file_type)
        sheet.u32("{arch}.attention.sliding_window", config.get("sliding_window", 0))  # 0 tells Phi-4 from Phi-3

    def extra_tensors(self) -> Iterator[PlannedTensor]:
        """Yield the factors of LongRoPE."""
        if found := self._longrope():
            yield self.computed("rope_factors_long.weight", found.long)
            yield self.computed("rope_factors_short.weight", found.short)

    def _longrope(self) -> LongRope | None:
        return longrope(self.rope, self.config["max_position_embeddings"], self.rotated)
