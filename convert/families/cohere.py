"""Command R: one norm a layer, logits that are scaled down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import Family, register
from localknobs.convert.metadata import Sheet
from localknobs.errors import Unsupported


@register("CohereForCausalLM")
class Cohere(Family):
    """Command R, Command R+ and Aya 23."""

    architecture = "command-r"
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
    }  # fmt: skip
    theta = 500000.0
    head = "embedding"
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "dynamic")
    vocabulary_kind = "bpe"
    pre_tokenizers: ClassVar[tuple[str, ...]] = ("command-r",)

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.config.setdefault("num_key_value_heads", self.heads)
        if self.config.get("use_qk_norm") and self.layers < 64:
            raise Unsupported(
                "This Command R has norms on queries and keys, which llama.cpp has in models of 64 layers and more",
                "A GGUF file of it would not load.",
            )
        # Trained on more than max_position_embeddings says, where this is given.
        self.config["max_position_embeddings"] = (
            self.config.get("model_max_length") or self.config["max_position_embeddings"]
        )

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers of all families, and the scale of the logits."""
        super().add_numbers(sheet, file_type)
        sheet.f32("{arch}.logit_scale", self.config["logit_scale"])
        sheet.text("{arch}.rope.scaling.type", "none")
