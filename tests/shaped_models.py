"""GGUF files of any family and size whose weights are a hole: all zeros, a few kilobytes on disk, loaded in an instant.

They compute nothing of use; llama.cpp allocates for them exactly what it would for real ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf_files import ARRAY, BOOL, F32, TEXT, U32, gguf_bytes, gguf_key

from localknobs.ggml_types import GGML_TYPES

NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}


@dataclass(frozen=True)
class Shape:
    """The shape of a model.

    Args:
        family: llama.cpp's name of the architecture.
        layers, width, heads, kv_heads, head, feed_forward, vocabulary, context: As in the header.
        experts, used: Of a mixture; `expert_feed_forward` is the width of each.
        window: Sliding window.
        tied: No output matrix of its own.
        kind: Type of the matrices.
        keys: More keys, without the family's prefix.
    """

    family: str = "llama"
    layers: int = 4
    width: int = 256
    heads: int = 8
    kv_heads: int = 2
    head: int = 64
    feed_forward: int = 512
    vocabulary: int = 2048
    context: int = 8192
    experts: int = 0
    used: int = 2
    expert_feed_forward: int = 0
    window: int = 0
    tied: bool = False
    kind: str = "Q8_0"
    keys: Mapping[str, Any] = field(default_factory=dict)


def write_shaped_model(path: Path, shape: Shape) -> Path:
    """Write the file; return its path."""
    keys = [
        gguf_key("general.architecture", TEXT, shape.family),
        gguf_key("general.name", TEXT, path.stem.rpartition("-")[0] or path.stem),
    ]
    for name, value in {**_numbers(shape), **shape.keys}.items():
        keys.append(_key(f"{shape.family}.{name}", value))
    keys += [gguf_key("tokenizer.ggml.model", TEXT, "none"), _key(f"{shape.family}.vocab_size", shape.vocabulary)]
    table, offset = {}, 0
    for name, sizes, kind in _tensors(shape):
        number = NUMBERS[kind]
        _, block, block_bytes = GGML_TYPES[number]
        count = 1
        for size in sizes:
            count *= size
        table[name] = (sizes, number, offset)
        offset += (count // block * block_bytes + 31) // 32 * 32
    head = gguf_bytes(keys, table)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + offset)
    return path


def _key(name: str, value: Any) -> bytes:
    if isinstance(value, list):
        return gguf_key(name, ARRAY, value, BOOL if isinstance(value[0], bool) else U32)
    kinds = {bool: BOOL, int: U32, float: F32, str: TEXT}
    return gguf_key(name, kinds[type(value)], value)


def _numbers(shape: Shape) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "block_count": shape.layers, "context_length": shape.context, "embedding_length": shape.width,
        "feed_forward_length": shape.feed_forward, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": shape.head, "attention.value_length": shape.head, "rope.dimension_count": shape.head,
    }  # fmt: skip
    if shape.experts:
        numbers |= {"expert_count": shape.experts, "expert_used_count": shape.used}
        numbers |= {"expert_feed_forward_length": shape.expert_feed_forward or shape.feed_forward}
    if shape.window:
        numbers["attention.sliding_window"] = shape.window
    return numbers


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], str]]:
    width, kind = shape.width, shape.kind
    yield "token_embd.weight", (width, shape.vocabulary), kind
    yield "output_norm.weight", (width,), "F32"
    if not shape.tied:
        yield "output.weight", (width, shape.vocabulary), kind
    for layer in range(shape.layers):
        for name, sizes, kind in _block(shape, layer):
            yield f"blk.{layer}.{name}", sizes, kind


def _block(shape: Shape, layer: int) -> Iterator[tuple[str, tuple[int, ...], str]]:
    width, kind, family = shape.width, shape.kind, shape.family
    query, cached = shape.heads * shape.head, shape.kv_heads * shape.head
    yield "attn_norm.weight", (width,), "F32"
    if family == "deepseek2":
        yield from _latent_attention(shape)
    elif family == "phi3":
        yield "attn_qkv.weight", (width, query + 2 * cached), kind
        yield "attn_output.weight", (query, width), kind
    else:
        yield "attn_q.weight", (width, query), kind
        yield "attn_k.weight", (width, cached), kind
        yield "attn_v.weight", (width, cached), kind
        yield "attn_output.weight", (query, width), kind
    if family in ("qwen3", "qwen3moe", "gemma3"):
        yield "attn_q_norm.weight", (shape.head,), "F32"
        yield "attn_k_norm.weight", (shape.head,), "F32"
    if family in ("gemma2", "gemma3"):
        yield "post_attention_norm.weight", (width,), "F32"
        yield "post_ffw_norm.weight", (width,), "F32"
    if family == "gpt-oss":
        yield "post_attention_norm.weight", (width,), "F32"
        yield "attn_sinks.weight", (shape.heads,), "F32"
        for name, size in (("q", query), ("k", cached), ("v", cached), ("output", width)):
            yield f"attn_{name}.bias", (size,), "F32"
    else:
        yield "ffn_norm.weight", (width,), "F32"
    if family == "phi3":
        yield "ffn_up.weight", (width, 2 * shape.feed_forward), kind
        yield "ffn_down.weight", (shape.feed_forward, width), kind
    elif shape.experts and not (family == "deepseek2" and layer == 0):
        yield from _experts(shape)
    else:
        yield "ffn_gate.weight", (width, shape.feed_forward), kind
        yield "ffn_up.weight", (width, shape.feed_forward), kind
        yield "ffn_down.weight", (shape.feed_forward, width), kind


def _latent_attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """DeepSeek's: one compressed key-value head of `kv_lora_rank`, with the rotated part behind it."""
    width, kind, keys = shape.width, shape.kind, shape.keys
    rank, rotated = int(keys["attention.kv_lora_rank"]), int(keys["rope.dimension_count"])
    key, value = int(keys["attention.key_length_mla"]), int(keys["attention.value_length_mla"])
    yield "attn_q.weight", (width, shape.heads * key), kind
    yield "attn_kv_a_mqa.weight", (width, rank + rotated), kind
    yield "attn_kv_a_norm.weight", (rank,), "F32"
    yield "attn_k_b.weight", (key - rotated, rank, shape.heads), kind
    yield "attn_v_b.weight", (rank, value, shape.heads), kind
    yield "attn_output.weight", (shape.heads * value, width), kind


def _experts(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], str]]:
    width, kind, inner = shape.width, shape.kind, shape.expert_feed_forward or shape.feed_forward
    yield "ffn_gate_inp.weight", (width, shape.experts), "F32"
    yield "ffn_gate_exps.weight", (width, inner, shape.experts), kind
    yield "ffn_up_exps.weight", (width, inner, shape.experts), kind
    yield "ffn_down_exps.weight", (inner, width, shape.experts), kind
    if shape.family == "gpt-oss":
        yield "ffn_gate_inp.bias", (shape.experts,), "F32"
        yield "ffn_gate_exps.bias", (inner, shape.experts), "F32"
        yield "ffn_up_exps.bias", (inner, shape.experts), "F32"
        yield "ffn_down_exps.bias", (width, shape.experts), "F32"
    if shape.family == "deepseek2":
        shared = inner * int(shape.keys["expert_shared_count"])
        yield "ffn_gate_shexp.weight", (width, shared), kind
        yield "ffn_up_shexp.weight", (width, shared), kind
        yield "ffn_down_shexp.weight", (shared, width), kind


LATENT = {
    "attention.kv_lora_rank": 128, "rope.dimension_count": 32, "attention.key_length_mla": 64,
    "attention.value_length_mla": 32, "attention.key_length": 160, "attention.value_length": 128,
    "attention.head_count_kv": 1, "leading_dense_block_count": 1, "expert_shared_count": 1,
    "expert_weights_scale": 1.0, "rope.scaling.yarn_log_multiplier": 0.1,
}  # fmt: skip
SMALL = {
    "llama": Shape(),
    "llama-tied": Shape(tied=True, kind="F16"),
    "mixtral": Shape(experts=8),
    "qwen3": Shape("qwen3", head=128, heads=4, kv_heads=2),
    "qwen3moe": Shape("qwen3moe", experts=16, used=4, expert_feed_forward=128),
    "gemma2": Shape("gemma2", window=512, tied=True, layers=6),
    "gemma3": Shape("gemma3", window=512, tied=True, layers=6, vocabulary=8192),
    "phi3": Shape("phi3", width=512),
    "gpt-oss": Shape("gpt-oss", window=128, experts=8, used=2, expert_feed_forward=256),
    "deepseek2": Shape("deepseek2", 27, kv_heads=1, experts=8, used=2, expert_feed_forward=128, keys=LATENT),
}
"""Families that llama.cpp lays out differently, small enough to load for real."""
REAL = {
    "Llama-3.1-8B": Shape(layers=32, width=4096, heads=32, kv_heads=8, head=128, feed_forward=14336, vocabulary=128256,
                          context=131072),
    "Llama-3.2-1B": Shape(layers=16, width=2048, heads=32, kv_heads=8, head=64, feed_forward=8192, vocabulary=128256,
                          context=131072, tied=True),
    "Qwen3-8B": Shape("qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960),
    "Qwen3-30B-A3B": Shape("qwen3moe", 48, 2048, 32, 4, 128, 6144, 151936, 40960, 128, 8, 768),
    "gemma-2-9b": Shape("gemma2", 42, 3584, 16, 8, 256, 14336, 256000, 8192, window=4096, tied=True),
    "gemma-3-12b": Shape("gemma3", 48, 3840, 16, 8, 256, 15360, 262144, 131072, window=1024, tied=True),
    "Phi-3-mini": Shape("phi3", 32, 3072, 32, 32, 96, 8192, 32064, 4096),
    "gpt-oss-20b": Shape("gpt-oss", 24, 2880, 64, 8, 64, 2880, 201088, 131072, 32, 4, 2880, window=128),
    "DeepSeek-V2-Lite": Shape(
        "deepseek2", 27, 2048, 16, 1, 576, 10944, 102400, 163840, 64, 6, 1408,
        keys={**LATENT, "attention.kv_lora_rank": 512, "rope.dimension_count": 64, "attention.key_length_mla": 192,
              "attention.value_length_mla": 128, "attention.key_length": 576, "attention.value_length": 512,
              "expert_shared_count": 2},
    ),
    "Mixtral-8x7B": Shape(layers=32, width=4096, heads=32, kv_heads=8, head=128, feed_forward=14336, vocabulary=32000,
                          context=32768, experts=8),
}  # fmt: skip
"""The shapes of models that people use."""
