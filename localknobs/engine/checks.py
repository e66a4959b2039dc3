"""What is decided before a model is loaded: the context that fits, and whether memory suffices at all.

The formula for the cache is llama.cpp's own layout: two tensors a layer of `n_ctx` rows of
`n_head_kv x head_size` values (llama-kv-cache.cpp), in the types chosen for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from localknobs.engine.rope import rope_notes, rope_of_load
from localknobs.engine.settings import LoadSettings
from localknobs.errors import NotEnough
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info import Header, shard_paths
from localknobs.hardware import available_memory_bytes

_BYTES_A_VALUE = {name.lower(): size / block for name, block, size in GGML_TYPES.values()}
SMALLEST_CONTEXT = 512
AUTO_SHARE = 0.5
"""Share of the free memory that an automatic context may take."""


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """The context to ask llama.cpp for.

    Args:
        size: Tokens.
        notes: What the user should know about the choice.
    """

    size: int
    notes: tuple[str, ...] = ()


def cache_bytes_per_token(header: Header, type_k: str = "f16", type_v: str = "f16") -> int:
    """Return the bytes one token takes in the key-value cache; 0 when the header does not say.

    Layers with a sliding window are counted as full ones: which they are is not in every header.
    """
    kv_heads = header.per_layer("attention.head_count_kv") or header.per_layer("attention.head_count")
    layers = header.number("block_count")
    heads, width = header.number("attention.head_count"), header.number("embedding_length")
    if not (kv_heads and layers):
        return 0
    head_size = width // heads if heads and width else 128
    key = header.number("attention.key_length") or head_size
    value = header.number("attention.value_length") or head_size
    total_heads = sum(kv_heads) if len(kv_heads) > 1 else kv_heads[0] * layers
    return int(total_heads * (key * _BYTES_A_VALUE[type_k] + value * _BYTES_A_VALUE[type_v]))


def plan_context(header: Header, settings: LoadSettings) -> ContextPlan:
    """Choose the context size, or check the one the user chose.

    Raises:
        NotEnough: the cache of the chosen context is larger than the free memory.
    """
    window = rope_of_load(header, settings).window
    notes = rope_notes(header, settings)
    per_token = cache_bytes_per_token(header, settings.cache_type_k, settings.cache_type_v)
    free = available_memory_bytes()
    if settings.n_ctx:
        needed = per_token * settings.n_ctx
        if free and needed > free:
            largest = max(SMALLEST_CONTEXT, free // per_token // 2 // 256 * 256)
            raise NotEnough(
                f"A context of {settings.n_ctx:,} tokens needs {_gib(needed)} for its cache, "
                f"and {_gib(free)} of memory are free",
                f"Use a smaller one, for example -c {min(largest, window)}, or a smaller type (-ctk q8_0 -ctv q8_0).",
                needed_bytes=needed,
                available_bytes=free,
            )
        if settings.n_ctx > window and not settings.rope_freq_base:
            notes += (
                f"The model reaches {window:,} tokens of context; beyond that its answers fall apart unless RoPE is "
                f"scaled further: --target-ctx {settings.n_ctx} proposes how.",
            )
        return ContextPlan(settings.n_ctx, notes)
    weights = sum(shard.stat().st_size for shard in shard_paths(header))
    budget = int(max(0, free - weights) * AUTO_SHARE) if free else 0
    fits = budget // per_token if per_token and budget else window
    if fits >= window:
        return ContextPlan(window, notes)
    size = max(SMALLEST_CONTEXT, fits // 256 * 256)
    return ContextPlan(
        size,
        (
            *notes,
            f"Context set to {size:,} of {window:,} tokens, so that its cache takes at most half of the free memory.",
        ),
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
