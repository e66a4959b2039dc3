"""StarCoder2: biases everywhere, a feed-forward of two matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from localknobs.convert.families.base import NAMES, Family, register


@register("Starcoder2ForCausalLM")
class Starcoder2(Family):
    """StarCoder2 of all sizes."""

    architecture = "starcoder2"
    names: ClassVar[Mapping[str, str]] = {**NAMES, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 4096, "num_key_value_heads": 2, "norm_epsilon": 1e-5,
    }  # fmt: skip
    vocabulary_kind = "bpe"
    pre_tokenizers: ClassVar[tuple[str, ...]] = ("starcoder",)
