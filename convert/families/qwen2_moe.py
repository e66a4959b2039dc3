"""Qwen1.5 and Qwen2 with experts, one of them shared by all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import NAMES, Head, lower_half, register, upper_half
from localknobs.convert.families.experts import WithExperts
from localknobs.convert.metadata import Sheet
from localknobs.convert.tensors import Part, PlannedTensor


@register("Qwen2MoeForCausalLM")
class Qwen2Moe(WithExperts):
    """Qwen1.5-MoE and Qwen2-57B-A14B."""

    architecture = "qwen2moe"
    head: ClassVar[Head] = "needed"
    vocabulary_kind = "bpe"
    names: ClassVar[Mapping[str, str]] = {
        **NAMES,
        "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
        "mlp.shared_expert.up_proj": "ffn_up_shexp",
        "mlp.shared_expert.down_proj": "ffn_down_shexp",
        "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768, "num_key_value_heads": 16, "rms_norm_eps": 1e-6, "num_experts": 60,
        "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    }  # fmt: skip

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers of all families, and the widths of the experts."""
        super().add_numbers(sheet, file_type)
        self._add_first(sheet.u32, "expert_feed_forward_length", "moe_intermediate_size")
        self._add_first(sheet.u32, "expert_shared_feed_forward_length", "shared_expert_intermediate_size")

    def tensors_of(self, name: str) -> Iterator[PlannedTensor]:
        """Yield the experts too where a checkpoint has them together already, with gate and up in one tensor."""
        module = self.plain_name(name).removesuffix(".weight")
        layer = module.removeprefix("model.layers.").partition(".")[0]
        if module.endswith("mlp.experts.down_proj"):
            yield self.tensor(f"blk.{layer}.ffn_down_exps.weight", [Part(name)])
        elif module.endswith("mlp.experts.gate_up_proj"):
            experts, rows, columns = self.source.info(name).shape
            shape = (experts, rows // 2, columns)
            yield self.tensor(f"blk.{layer}.ffn_gate_exps.weight", [Part(name, upper_half)], shape)
            yield self.tensor(f"blk.{layer}.ffn_up_exps.weight", [Part(name, lower_half)], shape)
        else:
            yield from super().tensors_of(name)
