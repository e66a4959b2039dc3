"""Llama and what is built like it: the plain decoder from which the other families differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import Family, OwnFlags, by_halves, register
from localknobs.convert.metadata import Sheet
from localknobs.convert.rope import LongRope, llama3_factors, longrope
from localknobs.convert.tensors import Array, PlannedTensor
from localknobs.convert.vocabulary import Vocabulary

_TURNED = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")


@register("LlamaForCausalLM", "LLaMAForCausalLM")
class Llama(Family):
    """Llama 1 to 3, and the many models that use its code."""

    architecture = "llama"
    defaults: ClassVar[Mapping[str, Any]] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "su")
    head_size_is_written: ClassVar[bool] = True
    """Whether transformers works out the size of a head when the configuration does not say it."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.config.setdefault("num_key_value_heads", self.heads)
        if self.head_size_is_written:
            self.config.setdefault("head_dim", self.width // self.heads)

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers of all families, and two more; under LongRoPE also for how long texts it was trained."""
        super().add_numbers(sheet, file_type)
        sheet.u32("{arch}.vocab_size", self.vocabulary_size)
        sheet.u32("{arch}.rope.dimension_count", self.head_size)
        if self.longrope():
            trained = self.rope.full["original_max_position_embeddings"]
            sheet.u32("{arch}.rope.scaling.original_context_length", trained)

    def vocabulary_flags(self, vocabulary: Vocabulary) -> OwnFlags:
        """Return whether a space is put before a text, and for vocabularies of 49,152 tokens that none begins it."""
        before, after = super().vocabulary_flags(vocabulary)
        if isinstance(prefix := vocabulary.settings.get("add_prefix_space"), bool):
            before["tokenizer.ggml.add_space_prefix"] = prefix
            after.pop("tokenizer.ggml.add_space_prefix", None)
        if self.vocabulary_size == 49152:  # the small Granite and SmolLM models, whose settings say otherwise
            after["tokenizer.ggml.add_bos_token"] = False
        return before, after

    def extra_tensors(self) -> Iterator[PlannedTensor]:
        """Yield the factors of the rotary frequencies, for the scalings that have some."""
        if (factors := llama3_factors(self.rope, self.head_size)) is not None:
            yield self.computed("rope_freqs.weight", factors)
        if found := self.longrope():
            yield self.computed("rope_factors_long.weight", found.long)
            yield self.computed("rope_factors_short.weight", found.short)

    def add_early(self, sheet: Sheet) -> None:
        """Set what attention is scaled by under LongRoPE."""
        if found := self.longrope():
            sheet.f32("{arch}.rope.scaling.attn_factor", found.attention)

    def longrope(self) -> LongRope | None:
        """Return the factors of LongRoPE, which llama.cpp reads for this family, though its converter writes none."""
        if self.rope.kind not in ("longrope", "su"):
            return None
        return longrope(self.rope, self.config["max_position_embeddings"], self.head_size)

    def order_of(self, name: str) -> Callable[[Array], Array] | None:
        """Put query and key rows in llama.cpp's order of rotation."""
        if not name.endswith(_TURNED):
            return None
        return by_halves(self.heads if ".q_proj." in name else self.heads_kv)
