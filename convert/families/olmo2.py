"""OLMo 2 and 3: norms after attention and feed-forward, over whole queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import NAMES, Family, register
from localknobs.convert.metadata import Sheet


@register("Olmo2ForCausalLM", "Olmo3ForCausalLM")
class Olmo2(Family):
    """OLMo 2, and OLMo 3 with its sliding windows."""

    architecture = "olmo2"
    names: ClassVar[Mapping[str, str]] = {
        **NAMES,
        "post_attention_layernorm": "post_attention_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}
    head = "needed"
    vocabulary_kind = "bpe"

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.config.setdefault("num_key_value_heads", self.heads)

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers of all families, and which layers have a window."""
        super().add_numbers(sheet, file_type)
        if window := self.config.get("sliding_window"):
            sheet.u32("{arch}.attention.sliding_window", window)
            kinds = self.config.get("layer_types")
            slides = [kind == "sliding_attention" for kind in kinds or ()]
            slides = slides or [(layer + 1) % 4 != 0 for layer in range(self.layers)]
            sheet.flags("{arch}.attention.sliding_window_pattern", slides)
