"""StableLM 2: layer norms with biases, part of each head rotated, in the larger one a norm for each head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import NAMES, Family, register
from localknobs.convert.metadata import Sheet
from localknobs.convert.tensors import Part, PlannedTensor

_HEAD_NORM = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qk])_layernorm\.norms\.(\d+)\.weight")


@register("StableLmForCausalLM", "StableLMEpochForCausalLM")
class StableLm(Family):
    """StableLM 3B, 2 1.6B and 2 12B."""

    architecture = "stablelm"
    head = "needed"
    names: ClassVar[Mapping[str, str]] = NAMES
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 4096, "num_key_value_heads": 32, "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25, "use_parallel_residual": False,
    }  # fmt: skip
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "dynamic")
    vocabulary_kind = "bpe"
    pre_tokenizers: ClassVar[tuple[str, ...]] = ("stablelm2",)

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers, in an order of their own."""
        config = self.config
        sheet.u32("{arch}.context_length", config["max_position_embeddings"])
        sheet.u32("{arch}.embedding_length", self.width)
        sheet.u32("{arch}.block_count", self.layers)
        sheet.u32("{arch}.feed_forward_length", self.need("intermediate_size"))
        rotated = self.rope.full["partial_rotary_factor"] * (self.width // self.heads)
        sheet.u32("{arch}.rope.dimension_count", int(rotated))
        sheet.u32("{arch}.attention.head_count", self.heads)
        sheet.u32("{arch}.attention.head_count_kv", self.heads_kv)
        sheet.flag("{arch}.use_parallel_residual", config["use_parallel_residual"])
        self._add_first(sheet.f32, "attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps")
        sheet.u32("general.file_type", file_type)
        if self.rope.full["rope_theta"] != 10000.0:  # what llama.cpp takes when no key says otherwise
            sheet.f32("{arch}.rope.freq_base", self.rope.full["rope_theta"])

    def tensors_of(self, name: str) -> Iterator[PlannedTensor]:
        """Yield the norms of a layer's heads together, when the first of them is seen."""
        named = _HEAD_NORM.fullmatch(name)
        if not named:
            yield from super().tensors_of(name)
        elif named[3] == "0":
            heads = self.heads if named[2] == "q" else self.heads_kv
            parts = [Part(name.replace(".norms.0.", f".norms.{head}.")) for head in range(heads)]
            shape = (heads, *self.source.info(name).shape)
            yield self.tensor(f"blk.{named[1]}.attn_{named[2]}_norm.weight", parts, shape)
