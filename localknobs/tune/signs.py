"""The ways in which a fine-tuning fails, seen in its curves, each with what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MUCH = 0.05
"""Rise of a loss, as a share, that is worth a word."""
_MUCH_NATS = 0.05
"""And the least rise that is: a loss near 0 doubles by nothing; this is 5% of perplexity."""


def warnings_of(
    before: Mapping[str, float], after: Mapping[str, float], looks: Sequence[tuple[int, Mapping[str, float]]],
    losses: Sequence[float],
) -> list[str]:  # fmt: skip
    """Return what looks wrong, as sentences.

    Args:
        before: Losses on held-out examples and general text, without the adapter.
        after: The same with it.
        looks: Step, and losses on the way.
        losses: Of every step.
    """
    found = []
    if "general" in before and after["general"] > before["general"] + max(_MUCH_NATS, _MUCH * before["general"]):
        rise = after["general"] / before["general"] - 1
        found.append(
            f"Forgetting: the loss of general text rose by {rise:.0%}. Lower --lr or --epochs, take a lower rank, or "
            "mix general examples into the data."
        )
    held = [look["held_out"] for _, look in looks if "held_out" in look]
    if len(held) > 2 and held[-1] > min(held) * (1 + _MUCH):
        found.append(
            f"Overfitting: the held-out loss rose again from {min(held):.3f} to {held[-1]:.3f}; the adapter of its "
            "lowest point is kept. More examples help, or fewer --epochs, or --lora-dropout 0.1."
        )
    if len(losses) >= 40 and "held_out" in before:
        last = sum(losses[-len(losses) // 4 :]) / len(losses[-len(losses) // 4 :])
        middle = losses[len(losses) // 2 : -len(losses) // 4]
        flat = last > 0.98 * sum(middle) / len(middle)
        if flat and after["held_out"] > 0.5 * before["held_out"]:
            found.append(
                "Plateau: the loss hardly falls and is still high. A higher rank (-r), --targets all-linear or a "
                "higher --lr can learn more."
            )
    return found
