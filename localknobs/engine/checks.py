"""What is decided before a model is loaded: the context that fits, and whether memory suffices at all."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from localknobs.engine.cache_layout import cache_bytes
from localknobs.engine.rope import rope_notes, rope_of_load
from localknobs.engine.settings import LoadSettings
from localknobs.errors import NotEnough
from localknobs.gguf_info import Header, shard_paths
from localknobs.hardware import available_memory_bytes

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


def plan_context(header: Header, settings: LoadSettings) -> ContextPlan:
    """Choose the context size, or check the one the user chose.

    Raises:
        NotEnough: the cache of the chosen context is larger than the free memory.
    """
    window = rope_of_load(header, settings).window
    notes = rope_notes(header, settings)
    free = available_memory_bytes()
    if settings.n_ctx:
        needed = cache_bytes(header, settings)
        if free and needed > free:
            largest = max(SMALLEST_CONTEXT, _largest_context(header, settings, settings.n_ctx, free // 2))
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
    if not budget or cache_bytes(header, replace(settings, n_ctx=window)) <= budget:
        return ContextPlan(window, notes)
    size = max(SMALLEST_CONTEXT, _largest_context(header, settings, window, budget))
    return ContextPlan(
        size,
        (
            *notes,
            f"Context set to {size:,} of {window:,} tokens, so that its cache takes at most half of the free memory.",
        ),
    )


def _largest_context(header: Header, settings: LoadSettings, most: int, budget_bytes: int) -> int:
    """Return the largest context whose cache is no larger than so many bytes, in steps of 256 tokens."""
    steps = range(most // 256 + 1)
    return 256 * max(0, bisect_right(
        steps, budget_bytes, key=lambda step: cache_bytes(header, replace(settings, n_ctx=256 * step))
    ) - 1)  # fmt: skip


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
