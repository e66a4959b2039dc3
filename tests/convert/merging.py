"""Helpers for tests of merging: kinds of adapters, a merge, and a comparison to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.checkpoint import open_checkpoint
from localknobs.convert.merge import MergeConfig, merge, plan_merge
from localknobs.jobs import drain

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Every matrix of a Llama."""
KINDS: dict[str, dict[str, Any]] = {
    "lora": dict(r=4, lora_alpha=7, target_modules=["q_proj", "v_proj"]),
    "all layers": dict(r=8, lora_alpha=16, target_modules=ALL),
    "rslora": dict(r=6, lora_alpha=9, use_rslora=True, target_modules=ALL),
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=ALL),
    "dora and rslora": dict(r=5, lora_alpha=8, use_dora=True, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "patterns": dict(
        r=4, lora_alpha=8, target_modules=ALL,
        rank_pattern={"q_proj": 2, r"model\.layers\.1\.mlp\.down_proj": 9},
        alpha_pattern={"layers.0.self_attn.v_proj": 3, "up_proj": 32},
    ),
    "patterns and rslora": dict(
        r=4, lora_alpha=8, target_modules=ALL, use_rslora=True, rank_pattern={"q_proj": 3}, alpha_pattern={"k_proj": 5}
    ),
    "whole modules": dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]),
    "whole norm": dict(r=4, target_modules=["q_proj"], modules_to_save=["input_layernorm"]),
    "embeddings": dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"]),
    "embeddings by dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=["embed_tokens", "v_proj"]),
    "head": dict(r=4, lora_alpha=8, target_modules=["lm_head", "v_proj"]),
    "tokens": dict(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 250, 3]}),
}  # fmt: skip
"""What makes an adapter of a kind."""


def merge_to(base: Path, adapters: list[tuple[Path, float]], output: Path, **settings: Any) -> Path:
    """Merge adapters at scales into a base; return the folder."""
    loras = tuple(LoraChoice(path, scale) for path, scale in adapters)
    return drain(merge(plan_merge(MergeConfig(base, loras, output, **settings))))


def assert_same_weights(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Compare every weight, bit for bit."""
    source = open_checkpoint(folder)
    assert set(source.names()) == set(expected)
    for name in source.names():
        values = expected[name]
        assert source.info(name).shape == tuple(values.shape)
        assert bytes(source.raw(name)) == values.contiguous().view(torch.uint8).numpy().tobytes(), name


def open_both(folder: Path, expected: dict[str, torch.Tensor]) -> list[tuple[str, Any]]:
    """Return the weights of a checkpoint that are expected, by name."""
    source = open_checkpoint(folder)
    return [(name, source.read(name)) for name in source.names() if name in expected]
