"""The ways in which a fine-tuning fails, seen in its curves while they grow, each with what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localknobs.tune.curves import Curves

_MUCH = 0.05
"""Rise of a loss, as a share, that is worth a word."""
_MUCH_NATS = 0.05
"""And the least rise that is: a loss near 0 doubles by nothing; this is 5% of perplexity."""
_DIVERGED = 1.3
"""A loss of so many times the first ones is no noise."""
_FEW_STEPS, _LOW_LOSS = 40, 0.3
"""Fewer steps say nothing about a plateau; of a loss so low there is little left to learn."""
_LOOKS = 2
"""Looks in a row that must say the same: one alone may be an outlier."""
_FIRST, _LATE = 5, 10
"""Steps whose mean stands for the beginning and for now."""


def signs_of(curves: Curves, kept: Mapping[str, float] | None = None) -> list[str]:
    """Return what looks wrong so far, as sentences that begin with the sign's name and a colon.

    Args:
        curves: Of a training that runs or is over.
        kept: Losses of the adapter that was kept, once it is over: `general`; only they count for forgetting.
    """
    signs = (_divergence(curves), _forgetting(curves, kept or {}), _overfitting(curves), _plateau(curves))
    return [sign for sign in signs if sign]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _divergence(curves: Curves) -> str:
    losses = [loss for _, loss in curves.loss]
    if len(losses) < _FIRST + _LATE:
        return ""
    first, now = _mean(losses[:_FIRST]), _mean(losses[-_LATE:])
    if now < _DIVERGED * first + _MUCH_NATS:
        return ""
    return (
        f"Divergence: the loss rises, from {first:.3f} to {now:.3f}. The learning rate is too high: stop, and begin "
        "anew with a third of it (--lr, --restart)."
    )


def _forgetting(curves: Curves, kept: Mapping[str, float]) -> str:
    if not curves.general:
        return ""
    before = curves.general[0][1]
    now = kept.get("general", min(value for _, value in curves.general[-_LOOKS:]))
    if now <= before + max(_MUCH_NATS, _MUCH * before):
        return ""
    return (
        f"Forgetting: the loss of general text rose by {now / before - 1:.0%}. Rehearse more, or more like it "
        "(--rehearsal-share, --rehearsal), or lower --lr or --epochs, or the rank."
    )


def _overfitting(curves: Curves) -> str:
    held = [loss for step, loss in curves.held_out if step]
    if len(held) <= _LOOKS or min(held[-_LOOKS:]) <= min(held) * (1 + _MUCH):
        return ""
    return (
        f"Overfitting: the held-out loss rose again from {min(held):.3f} to {held[-1]:.3f}; the adapter of its "
        "lowest point is kept. More examples help, or fewer --epochs, or --lora-dropout 0.1."
    )


def _plateau(curves: Curves) -> str:
    """Tell a loss that never fell, since its steps are too small, from one that stays where no more can be learned."""
    losses = [loss for _, loss in curves.loss]
    if len(losses) < _FEW_STEPS or curves.step < curves.steps / 2 or _divergence(curves):
        return ""
    quarter = len(losses) // 4
    first, middle, last = (_mean(losses[a:b]) for a, b in ((0, quarter), (-2 * quarter, -quarter), (-quarter, None)))
    if last < _LOW_LOSS or last < 0.98 * middle:
        return ""
    if last > 0.97 * first:
        return (
            f"Plateau: the loss hardly falls at all, from {first:.3f} to {last:.3f}. The learning rate is probably "
            "too low: try three times as much (--lr), or more --epochs."
        )
    if len(curves.held_out) > 1 and curves.held_out[-1][1] <= 0.5 * curves.held_out[0][1]:
        return ""
    return (
        f"Plateau: the loss falls no more and is still {last:.3f}. The adapter is probably too small: a higher "
        "rank (-r), --targets all-linear, or a higher --lr can learn more."
    )
