"""The bill by formula, from a header alone: where llama.cpp cannot plan it.

The compute buffer is modelled by its largest stage; the error against llama.cpp's plan is in `tests/fit`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from localknobs.engine.cache_layout import (
    batch_tokens,
    cache_cells,
    is_windowed,
    layer_cache_bytes,
    layer_count,
    padded,
)
from localknobs.engine.settings import LoadSettings
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.fit.hollow import vocabulary_size
from localknobs.fit.machine import CARD_OVERHEAD, FitMachine
from localknobs.gguf_info import Header, TensorInfo

ENGINE_BYTES = 50 * 2**20
"""Main memory of the engine's process besides the model: Python and llama.cpp's code; measured on Linux."""
VOCABULARY_BYTES = 280
"""Main memory of one token of the vocabulary; measured on 150,000 with their merges (without merges 175)."""


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
    inputs = _masks(header, settings) + 4 * batch_tokens(settings) * header.number("embedding_length")
    copies = 3 * inputs if len(used) > 1 and first == 0 else 0
    for amounts in used:
        amounts.compute = copies + max(stages if amounts is used[-1] else stages[1:])
    memory.compute = max(stages) if not used else inputs + copies
    memory.compute += vocabulary_size(header, tensors) * 4  # the output of one token
    bills = [memory.bill("RAM", machine.free_bytes)]
    for card, amounts in zip(machine.cards, cards, strict=True):
        bills.append(amounts.bill(card.name, card.free_bytes, unified=card.unified))
    return Bill(tuple(bills), padded(settings.n_ctx), "computed", machine.assumptions)


def layers_of(header: Header, tensors: Sequence[TensorInfo], settings: LoadSettings) -> list[Layer]:
    """Return the layers of a model with what each takes."""
    count = layer_count(header)
    weights = [0] * count
    for tensor in tensors:
        found = re.match(r"blk\.(\d+)\.", tensor.name)
        if found and int(found[1]) < count:
            weights[int(found[1])] += tensor.size_bytes
    return [Layer(weights[at], layer_cache_bytes(header, at, settings)) for at in range(count)]


def compute_stages(header: Header, tensors: Sequence[TensorInfo], settings: LoadSettings) -> tuple[int, int, int]:
    """Return the bytes that the output, attention and the feed-forward part need; they share one buffer in turn."""
    tokens, cells = batch_tokens(settings), padded(settings.n_ctx)
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
    row = batch_tokens(settings) * (2 if _uses_flash(settings) else 4)
    windowed = any(is_windowed(header, layer) for layer in range(layer_count(header)))
    return row * (padded(settings.n_ctx) + (cache_cells(header, True, settings) if windowed else 0))


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


def _uses_flash(settings: LoadSettings) -> bool:
    return settings.flash_attn != "off"
