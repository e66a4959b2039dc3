"""Granite: Llama with four multipliers."""

from __future__ import annotations

from typing import Any, ClassVar

from localknobs.convert.families.base import register
from localknobs.convert.families.llama import Llama
from localknobs.convert.metadata import Sheet

_MULTIPLIERS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


@register("GraniteForCausalLM")
class Granite(Llama):
    """Granite 3 and 4 without experts and without state-space layers."""

    architecture = "granite"
    pre_tokenizers: ClassVar[tuple[str, ...]] = ("refact",)
    head_size_is_written = False

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.config.pop("head_dim", None)  # llama.cpp has none for this family
        for name in _MULTIPLIERS.values():
            self.config.setdefault(name, 1.0)

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set Llama's numbers, and the multipliers."""
        super().add_numbers(sheet, file_type)
        for key, name in _MULTIPLIERS.items():
            if self.config[name]:
                sheet.f32(f"{{arch}}.{key}", self.config[name])
