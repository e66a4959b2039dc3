"""Gemma 3, its text part: two rotary bases, norms stored less 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import Family, OwnFlags, register
from localknobs.convert.families.gemma2 import GEMMA_NAMES
from localknobs.convert.metadata import Sheet
from localknobs.convert.vocabulary import Vocabulary

_NOT_TEXT = ("vision", "multi_modal_projector", "projector.")


@register("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
class Gemma3(Family):
    """Gemma 3 of all sizes; of those that see, what reads and writes text."""

    architecture = "gemma3"
    names: ClassVar[Mapping[str, str]] = GEMMA_NAMES
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "head_dim": 256, "sliding_window": 4096, "vocab_size": 262208,
    }  # fmt: skip
    theta = 1000000.0
    local_theta = 10000.0
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "linear", "dynamic")

    def is_left_out(self, name: str) -> bool:
        """Leave out what sees."""
        return any(part in name for part in _NOT_TEXT)

    def plain_name(self, name: str) -> str:
        """Return the name without the place of the text model in one that also sees."""
        return name.replace("language_model.", "")

    def shift_of(self, name: str) -> float:
        """Return the 1 that its norms are stored without."""
        return 1.0 if name.endswith("norm.weight") else 0.0

    def vocabulary_flags(self, vocabulary: Vocabulary) -> OwnFlags:
        """Return that no space is put before a text."""
        return {}, {"tokenizer.ggml.add_space_prefix": False}

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers of all families, and the window."""
        super().add_numbers(sheet, file_type)
        if self.config.get("final_logit_softcapping"):
            sheet.f32("{arch}.final_logit_softcapping", self.config["final_logit_softcapping"])
        if self.config.get("sliding_window_pattern") != 1:
            sheet.u32("{arch}.attention.sliding_window", self.config["sliding_window"])
