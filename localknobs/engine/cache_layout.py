"""What the key-value cache takes, from a header alone.

It is llama.cpp's own layout (llama-kv-cache.cpp, llama-kv-cache-iswa.cpp): per layer, with its own number of heads,
sliding windows, the compressed heads of latent attention, and the recurrent states of hybrids.
"""

from __future__ import annotations

from dataclasses import replace

from localknobs.engine.settings import LoadSettings
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info import Header

_TYPE_BYTES = {name.lower(): size / block for name, block, size in GGML_TYPES.values()}
MOST_LAYERS = 512
"""Of llama.cpp (llama-hparams.h, LLAMA_MAX_LAYERS)."""
_PADDING = 256
_WINDOW_EVERY = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma4": 6, "cohere2": 4, "gpt-oss": 2, "llama4": 4, "olmo2": 4,
    "exaone4": 4, "smallthinker": 4, "granite_swa": 4, "afmoe": 4,
}  # fmt: skip
"""In each run of so many layers all but the last look through the window only, where the header does not tell them."""
_FIXED_WINDOW = {"llama4": 8192}
_FULL_EVERY = "full_attention_interval"
"""In hybrids: one layer of so many has a cache, the others a state of fixed size."""


def cache_bytes(header: Header, settings: LoadSettings) -> int:
    """Return the bytes of the whole cache, recurrent states too; 0 where the header does not say.

    Args:
        header: Of the model.
        settings: How it is to be loaded; `n_ctx` must be set.
    """
    return sum(layer_cache_bytes(header, layer, settings) for layer in range(layer_count(header)))


def cache_bytes_per_token(header: Header, settings: LoadSettings) -> int:
    """Return the bytes of each further token, once sliding windows are full; 0 where the header does not say."""
    few = _PADDING * (1 + (window_of(header) + settings.n_ubatch) // _PADDING)
    more = cache_bytes(header, replace(settings, n_ctx=2 * few)) - cache_bytes(header, replace(settings, n_ctx=few))
    return more // few


def layer_cache_bytes(header: Header, layer: int, settings: LoadSettings) -> int:
    """Return the bytes of one layer's part of the cache, or of its recurrent state."""
    count = layer_count(header)
    if layer >= count - header.number("nextn_predict_layers"):
        return 0
    shared = header.number("attention.shared_kv_layers")
    if shared and layer >= count - shared:
        return 0
    every = header.number(_FULL_EVERY)
    heads = _at(header, "attention.head_count_kv", layer) or 0
    if not header.per_layer("attention.head_count_kv"):
        heads = _at(header, "attention.head_count", layer) or 0
    if (every and (layer + 1) % every) or not heads:
        return _state_bytes(header)
    windowed = is_windowed(header, layer)
    suffix = "_swa" if windowed and header.number("attention.key_length_swa") else ""
    width, all_heads = header.number("embedding_length"), header.number("attention.head_count") or 1
    key = header.number(f"attention.key_length{suffix}") or width // all_heads
    value = header.number(f"attention.value_length{suffix}") or width // all_heads
    latent = bool(header.number("attention.key_length_mla"))  # the values are a part of the keys
    size = heads * key * _TYPE_BYTES[settings.cache_type_k]
    size += 0 if latent else heads * value * _TYPE_BYTES[settings.cache_type_v]
    return int(cache_cells(header, windowed, settings) * size)


def layer_count(header: Header) -> int:
    """Return the layers of a model, at most as many as llama.cpp takes."""
    return min(header.number("block_count"), MOST_LAYERS)  # a hostile header may claim billions


def cache_cells(header: Header, windowed: bool, settings: LoadSettings) -> int:
    """Return the tokens that a layer's cache has room for."""
    context = padded(settings.n_ctx)
    if not windowed or settings.swa_full == "on":
        return context
    return padded(min(context, window_of(header) + batch_tokens(settings)))


def is_windowed(header: Header, layer: int) -> bool:
    """Return whether a layer looks through a sliding window only."""
    if not window_of(header):
        return False
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and layer < len(pattern):
        return bool(pattern[layer])
    every = int(pattern) if isinstance(pattern, int) and pattern > 1 else _WINDOW_EVERY.get(header.architecture, 0)
    return bool(every) and layer % every < every - 1


def window_of(header: Header) -> int:
    """Return the tokens of the sliding window; 0 for none."""
    return header.number("attention.sliding_window") or _FIXED_WINDOW.get(header.architecture, 0)


def _state_bytes(header: Header) -> int:
    """Return the bytes of a recurrent layer's state, 32-bit (llama-hparams.cpp, n_embd_r and n_embd_s)."""
    convolution, inner = header.number("ssm.conv_kernel"), header.number("ssm.inner_size")
    state, groups = header.number("ssm.state_size"), header.number("ssm.group_count")
    return 4 * (max(0, convolution - 1) * (inner + 2 * groups * state) + state * inner)


def _at(header: Header, key: str, layer: int) -> int | None:
    values = header.per_layer(key)
    if not values:
        return None
    return values[layer] if layer < len(values) else values[-1]


def batch_tokens(settings: LoadSettings) -> int:
    """Return the tokens that are computed at once."""
    return min(settings.n_ubatch, settings.n_batch, padded(settings.n_ctx))


def padded(count: int) -> int:
    """Return a context's size as llama.cpp rounds it."""
    return (count + _PADDING - 1) // _PADDING * _PADDING
