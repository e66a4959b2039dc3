"""SmolLM3: Llama without rotation in every fourth layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import register
from localknobs.convert.families.llama import Llama
from localknobs.errors import Unsupported


@register("SmolLM3ForCausalLM")
class SmolLM3(Llama):
    """SmolLM3."""

    architecture = "smollm3"
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 32768, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    theta = 2000000.0
    rope_kinds: ClassVar[tuple[str, ...]] = ("default", "linear", "dynamic", "yarn")
    head_size_is_written = False

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        given = self.config.get("no_rope_layers") or self._every(self.config.get("no_rope_layer_interval") or 4)
        if [bool(rotated) for rotated in given] != self._every(4):
            raise Unsupported(
                "This SmolLM3 leaves out the rotation in other layers than every fourth",
                "llama.cpp knows the usual pattern only; the converted model would answer nonsense.",
            )

    def _every(self, interval: int) -> list[bool]:
        return [(layer + 1) % interval != 0 for layer in range(self.layers)]
