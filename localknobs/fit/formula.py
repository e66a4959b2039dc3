"""The bill by formula, from a header alone: where llama.cpp cannot plan it.

The cache is llama.cpp's own layout (llama-kv-cache.cpp, llama-kv-cache-iswa.cpp): per layer, with its own number of
heads, sliding windows, and the compressed heads of latent attention. The compute buffer is modelled by its largest
stage; the error against llama.cpp's plan is in `tests/fit`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from localknobs.engine.settings import LoadSettings
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.fit.hollow import vocabulary_size
from localknobs.fit.machine import CARD_OVERHEAD, FitMachine
from localknobs.ggml_types import GGML_TYPES
from localknobs.gguf_info import Header, TensorInfo

ENGINE_BYTES = 50 * 2**20
"""Main memory of the engine's process besides the model: Python and llama.cpp's code; measured on Linux."""
VOCABULARY_BYTES = 280
"""Main memory of one token of the vocabulary; measured on 150,000 with their merges (without merges 175)."""
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


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer takes, in bytes.

    Args:
        weights: Its matrices.
        cache: Its part of the key-value cache, or its recurrent state.
    """

    weights: int
    cache: int


@dataclass(slots=True)
class _Amounts:
    """What one device takes, while it is being added up."""

    weights: int = 0
    cache: int = 0
    compute: int = 0
    overhead: int = 0

    def bill(self, name: str, free_bytes: int, *, unified: bool = False) -> DeviceBill:
        return DeviceBill(name, free_bytes, self.weights, self.cache, self.compute, self.overhead, unified)


def computed_bill(headers: Sequence[Header], settings: LoadSettings, machine: FitMachine) -> Bill:
    """Return the bill of a model.

    Args:
        headers: Of all its files.
        settings: How it is to be loaded; `n_ctx` must be set.
        machine: Where.
    """
    header = headers[0]
    tensors = [tensor for one in headers for tensor in one.tensors]
    layers = layers_of(header, tensors, settings)
    total = len(layers) + 1  # the output counts as one, as llama.cpp counts
    wanted = settings.n_gpu_layers if settings.n_gpu_layers >= 0 else total
    on_cards = min(wanted, total) if machine.cards else 0
    first = total - on_cards
    cards = [_Amounts(overhead=0 if card.unified else CARD_OVERHEAD) for card in machine.cards]
    overhead = ENGINE_BYTES + vocabulary_size(header, tensors) * VOCABULARY_BYTES
    memory = _Amounts(weights=_named(tensors, "token_embd"), overhead=overhead)
    for number in range(total):
        place = cards[_place(number, first, total, machine)] if number >= first else memory
        if number < len(layers):
            place.weights += layers[number].weights
            (place if settings.no_kv_offload == "off" else memory).cache += layers[number].cache
        else:
            place.weights += _output_weights(tensors, tied_twice=place is not memory)
    stages = compute_stages(header, tensors, settings)
    used = [card for card in cards if card.weights]
    # Several cards that hold everything work on four batches at once, each with its own inputs (ggml-backend.cpp).
    inputs = _masks(header, settings) + 4 * _tokens(settings) * header.number("embedding_length")
    copies = 3 * inputs if len(used) > 1 and first == 0 else 0
    for amounts in used:
        amounts.compute = copies + max(stages if amounts is used[-1] else stages[1:])
    memory.compute = max(stages) if not used else inputs + copies
    memory.compute += vocabulary_size(header, tensors) * 4  # the output of one token
    bills = [memory.bill("RAM", machine.free_bytes)]
    for card, amounts in zip(machine.cards, cards, strict=True):
        bills.append(amounts.bill(card.name, card.free_bytes, unified=card.unified))
    return Bill(tuple(bills), _padded(settings.n_ctx), "computed", machine.assumptions)


def layers_of(header: Header, tensors: Sequence[TensorInfo], settings: LoadSettings) -> list[Layer]:
    """Return the layers of a model with what each takes."""
    count = _layer_count(header)
    weights = [0] * count
    for tensor in tensors:
        found = re.match(r"blk\.(\d+)\.", tensor.name)
        if found and int(found[1]) < count:
            weights[int(found[1])] += tensor.size_bytes
    return [Layer(weights[at], _cache_of(header, at, settings)) for at in range(count)]


def _cache_of(header: Header, layer: int, settings: LoadSettings) -> int:
    count = _layer_count(header)
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
    return int(_cells(header, windowed, settings) * size)


def _layer_count(header: Header) -> int:
    return min(header.number("block_count"), MOST_LAYERS)  # a hostile header may claim billions


def _cells(header: Header, windowed: bool, settings: LoadSettings) -> int:
    context = _padded(settings.n_ctx)
    if not windowed or settings.swa_full == "on":
        return context
    return _padded(min(context, _window(header) + _tokens(settings)))


def is_windowed(header: Header, layer: int) -> bool:
    """Return whether a layer looks through a sliding window only."""
    if not _window(header):
        return False
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and layer < len(pattern):
        return bool(pattern[layer])
    every = int(pattern) if isinstance(pattern, int) and pattern > 1 else _WINDOW_EVERY.get(header.architecture, 0)
    return bool(every) and layer % every < every - 1


def _window(header: Header) -> int:
    return header.number("attention.sliding_window") or _FIXED_WINDOW.get(header.architecture, 0)


def _state_bytes(header: Header) -> int:
    """Return the bytes of a recurrent layer's state, 32-bit (llama-hparams.cpp, n_embd_r and n_embd_s)."""
    convolution, inner = header.number("ssm.conv_kernel"), header.number("ssm.inner_size")
    state, groups = header.number("ssm.state_size"), header.number("ssm.group_count")
    return 4 * (max(0, convolution - 1) * (inner + 2 * groups * state) + state * inner)


def compute_stages(header: Header, tensors: Sequence[TensorInfo], settings: LoadSettings) -> tuple[int, int, int]:
    """Return the bytes that the output, attention and the feed-forward part need; they share one buffer in turn."""
    tokens, cells = _tokens(settings), _padded(settings.n_ctx)
    width, heads = header.number("embedding_length"), header.number("attention.head_count")
    head = header.number("attention.key_length") or (width // heads if heads else 0)
    latent = header.number("attention.key_length_mla")
    flash = _uses_flash(settings)
    row = 4 * tokens
    masks = _masks(header, settings)
    output = row * (vocabulary_size(header, tensors) + 2 * width)
    attention = masks + row * (2 * width + 2 * heads * (latent or head) + (heads * head if latent else 0))
    if not flash:
        attention = masks + row * (cells * heads + 5 * width)
    used = header.number("expert_used_count") or 0
    inner = max(header.per_layer("feed_forward_length") or (0,))
    dense = masks + row * (3 * inner + 3 * width)
    experts = header.number("expert_feed_forward_length") or inner
    mixed = masks + row * (used * (3 * experts + width) + 2 * width) if used else 0
    return output, attention, max(mixed or dense, dense if header.number("leading_dense_block_count") else 0)


def _masks(header: Header, settings: LoadSettings) -> int:
    """Return the bytes of the attention masks: one over all cells, and one over the window's."""
    row = _tokens(settings) * (2 if _uses_flash(settings) else 4)
    windowed = any(is_windowed(header, layer) for layer in range(_layer_count(header)))
    return row * (_padded(settings.n_ctx) + (_cells(header, True, settings) if windowed else 0))


def _output_weights(tensors: Sequence[TensorInfo], *, tied_twice: bool) -> int:
    """Return what belongs to no layer; a card needs its own copy of an embedding that is the output too."""
    size = sum(t.size_bytes for t in tensors if not t.name.startswith(("blk.", "token_embd")))
    if tied_twice and not any(tensor.name == "output.weight" for tensor in tensors):
        size += _named(tensors, "token_embd.weight")
    return size


def _place(number: int, first: int, total: int, machine: FitMachine) -> int:
    """Return the card of a layer: cards take shares by their free memory, as llama.cpp splits."""
    free = [card.free_bytes or 1 for card in machine.cards]
    share = (number - first) / (total - first)
    reached = 0.0
    for at, size in enumerate(free):
        reached += size / sum(free)
        if share < reached:
            return at
    return len(free) - 1


def _named(tensors: Sequence[TensorInfo], beginning: str) -> int:
    return sum(tensor.size_bytes for tensor in tensors if tensor.name.startswith(beginning))


def _at(header: Header, key: str, layer: int) -> int | None:
    values = header.per_layer(key)
    if not values:
        return None
    return values[layer] if layer < len(values) else values[-1]


def _uses_flash(settings: LoadSettings) -> bool:
    return settings.flash_attn != "off"


def _tokens(settings: LoadSettings) -> int:
    return min(settings.n_ubatch, settings.n_batch, _padded(settings.n_ctx))


def _padded(count: int) -> int:
    return (count + _PADDING - 1) // _PADDING * _PADDING
