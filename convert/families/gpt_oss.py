"""gpt-oss: experts in MXFP4, which llama.cpp has too, so that only nibbles change their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from localknobs.convert.checkpoint import WeightSource
from localknobs.convert.families.base import NAMES, Family, register
from localknobs.convert.metadata import Sheet
from localknobs.convert.tensors import Array, Part, PlannedTensor, stored_array

_EXPERTS = ".mlp.experts."
_MATRICES = {"down_proj": ("ffn_down_exps",), "gate_up_proj": ("ffn_gate_exps", "ffn_up_exps")}
"""Gate and up lie row by row in turn."""
_MXFP4_VALUES = 32


@register("GptOssForCausalLM")
class GptOss(Family):
    """gpt-oss 20B and 120B, and what was trained from them in BF16."""

    architecture = "gpt-oss"
    head = "needed"
    names: ClassVar[Mapping[str, str]] = {
        **NAMES,
        "post_attention_layernorm": "post_attention_norm",
        "mlp.router": "ffn_gate_inp",
        "self_attn.sinks": "attn_sinks",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_position_embeddings": 131072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "head_dim": 64,
        "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
        "rope_parameters": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    }  # fmt: skip
    theta = 150000.0
    vocabulary_kind = "bpe"

    def __init__(self, source: WeightSource) -> None:
        super().__init__(source)
        if "rope_scaling" in source.config and "rope_parameters" not in source.config:
            self.config.pop("rope_parameters")

    def add_numbers(self, sheet: Sheet, file_type: int) -> None:
        """Set the numbers of all families, the window, and the width of an expert."""
        super().add_numbers(sheet, file_type)
        sheet.u32("{arch}.attention.sliding_window", self.config["sliding_window"])
        sheet.u32("{arch}.expert_feed_forward_length", self.need("intermediate_size"))

    def plain_name(self, name: str) -> str:
        """Return the name with the ending that weights have."""
        return f"{name}.weight" if name.endswith(".sinks") else name

    def extra_tensors(self) -> Iterator[PlannedTensor]:
        """Yield the experts in MXFP4, which come before all other tensors."""
        for name in self.ordered_names():
            if name.endswith("_scales") and _EXPERTS in name:
                yield from self._repacked(name.removesuffix("_scales"))

    def tensors_of(self, name: str) -> Iterator[PlannedTensor]:
        """Yield nothing for MXFP4, experts of other types in GGUF's order of rows and columns, the rest as it is."""
        layer, _, matrix = name.removeprefix("model.layers.").partition(_EXPERTS)
        if not matrix:
            yield from super().tensors_of(name)
        elif matrix.endswith("_bias"):
            new_names = _MATRICES[matrix.removesuffix("_bias")]
            for at, new_name in enumerate(new_names):
                experts, width = self.source.info(name).shape
                part = Part(name, _every(len(new_names), at, 1))
                yield self.tensor(f"blk.{layer}.{new_name}.bias", [part], (experts, width // len(new_names)))
        elif not matrix.endswith(("_blocks", "_scales")):
            new_names = _MATRICES[matrix]
            experts, columns, rows = self.source.info(name).shape
            for at, new_name in enumerate(new_names):
                part = Part(name, _turned(len(new_names), at))
                shape = (experts, rows // len(new_names), columns)
                yield self.tensor(f"blk.{layer}.{new_name}.weight", [part], shape)

    def _repacked(self, name: str) -> Iterator[PlannedTensor]:
        layer, _, matrix = name.removeprefix("model.layers.").partition(_EXPERTS)
        new_names = _MATRICES[matrix]
        experts, rows, groups = self.source.info(f"{name}_scales").shape
        for at, new_name in enumerate(new_names):
            shape = (experts, rows // len(new_names), groups * _MXFP4_VALUES)
            parts = (Part(f"{name}_blocks"), Part(f"{name}_scales"))
            repack = partial(_mxfp4, name=name, step=len(new_names), first=at)
            yield PlannedTensor(
                f"blk.{layer}.{new_name}.weight", shape, "MXFP4", self.source, parts, repack=repack
            )  # fmt: skip


def _every(step: int, first: int, axis: int) -> Callable[[Array], Array]:
    """Return how every so many slices along an axis are taken."""
    return lambda array: array[(slice(None),) * axis + (slice(first, None, step),)]


def _turned(step: int, first: int) -> Callable[[Array], Array]:
    """Return how matrices are turned, and every so many of their rows taken."""
    return lambda array: array.swapaxes(-1, -2)[:, first::step, :]


def _mxfp4(source: WeightSource, *, name: str, step: int, first: int) -> Iterator[Array]:
    """Yield ggml's blocks of one expert after the other: a scale, then 16 bytes with values j and j + 16 in one.

    The source has 16 bytes with the values 2j and 2j + 1 in one, and the scales in a tensor of their own.

    Shapes:
        source: blocks (experts, rows, groups, 16), scales (experts, rows, groups).
    """
    blocks, _ = stored_array(source, f"{name}_blocks")
    scales, _ = stored_array(source, f"{name}_scales")
    for expert in range(len(scales)):
        pairs, exponents = blocks[expert, first::step], scales[expert, first::step]
        values = np.empty((*pairs.shape[:-1], _MXFP4_VALUES), np.uint8)
        np.bitwise_and(pairs, 0x0F, out=values[..., 0::2])
        np.right_shift(pairs, 4, out=values[..., 1::2])
        made = np.empty((*exponents.shape, 17), np.uint8)
        made[..., 0] = exponents
        made[..., 1:] = values[..., :16] | (values[..., 16:] << 4)
        yield made
