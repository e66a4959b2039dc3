"""What is made of measured numbers: means with their errors, intervals, and tests of two models on the same items.

Perplexity and KL divergence follow llama-perplexity to the digit (tools/perplexity/perplexity.cpp): its `+/-` is the
standard error as if tokens were independent. They are not, so the 95% intervals are made from whole chunks.
Plain numpy; nothing here knows models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that was measured on a sample.

    Args:
        value: The number.
        error: llama-perplexity's `+/-`: one standard error, tokens taken as independent.
        low, high: 95% interval, from the spread between chunks or items; not numbers where one is no sample.
    """

    value: float
    error: float
    low: float
    high: float


def standard_error(values: Floats) -> float:
    """Return the standard error of a mean as llama-perplexity computes it; not a number for fewer than two."""
    if len(values) < 2:
        return math.nan
    variance = float((values * values).mean()) - float(values.mean()) ** 2
    return math.sqrt(max(0.0, variance) / (len(values) - 1))


def mean_of(chunks: Sequence[Floats]) -> Estimate:
    """Return the mean over all tokens of all chunks."""
    values = np.concatenate(chunks)
    low, high = interval_of_means(chunks)
    return Estimate(float(values.mean()), standard_error(values), low, high)


def interval_of_means(chunks: Sequence[Floats]) -> tuple[float, float]:
    """Return the 95% interval of a mean from the means of chunks of one size (Student's t)."""
    means = np.array([chunk.mean() for chunk in chunks])
    if len(means) < 2:
        return math.nan, math.nan
    half = student_t_quantile(len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))
    middle = float(means.mean())
    return middle - half, middle + half


def perplexity_of(surprises: Sequence[Floats]) -> Estimate:
    """Return the perplexity of chunks of surprises.

    Args:
        surprises: Minus the natural logarithm of each right token's probability, one array a chunk.
    """
    mean = mean_of(surprises)
    value = math.exp(mean.value)
    return Estimate(value, value * mean.error, math.exp(mean.low), math.exp(mean.high))


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a model's next-token distributions are from its parent's, over the same tokens.

    Args:
        tokens: How many were compared.
        mean: Mean KL divergence, in nats.
        median, percentile_90, percentile_95, percentile_99, percentile_999, largest, smallest: Of the tokens'
            divergences; percentiles by linear interpolation.
        same_top: Share of tokens whose likeliest follower is the same.
        mean_change: Mean change of the right token's probability.
        rms_change: Root of the mean square of that change.
        log_ratio: Logarithm of the ratio of the perplexities, with the error that pairing leaves.
        correlation: Of the two models' surprises.
        p_value: Chance of such a mean difference of surprise if both were equally good (paired t over chunks).
    """

    tokens: int
    mean: Estimate
    median: float
    percentile_90: float
    percentile_95: float
    percentile_99: float
    percentile_999: float
    largest: float
    smallest: float
    same_top: Estimate
    mean_change: Estimate
    rms_change: Estimate
    log_ratio: Estimate
    correlation: float
    p_value: float


def divergence_of(
    kls: Sequence[Floats], same_top: Sequence[Floats], base: Sequence[Floats], surprises: Sequence[Floats]
) -> Divergence:
    """Return what is made of the comparison of two models, one array a chunk of each.

    Args:
        kls: KL divergences.
        same_top: 1 where the likeliest tokens agree, else 0.
        base: The parent's surprises.
        surprises: The model's.
    """
    values = np.sort(np.concatenate(kls))
    percentiles = np.percentile(values, (50, 90, 95, 99, 99.9))
    changes = [np.exp(-own) - np.exp(-theirs) for own, theirs in zip(surprises, base, strict=True)]
    squares = mean_of([change * change for change in changes])
    rms = math.sqrt(squares.value)
    one, other = np.concatenate(surprises), np.concatenate(base)
    spread = math.sqrt(one.var() * other.var())
    covariance = float((one * other).mean() - one.mean() * other.mean())
    differences = [own - theirs for own, theirs in zip(surprises, base, strict=True)]
    return Divergence(
        tokens=len(values),
        mean=mean_of(kls),
        median=float(percentiles[0]),
        percentile_90=float(percentiles[1]),
        percentile_95=float(percentiles[2]),
        percentile_99=float(percentiles[3]),
        percentile_999=float(percentiles[4]),
        largest=float(values[-1]),
        smallest=float(values[0]),
        same_top=_share_of(same_top),
        mean_change=mean_of(changes),
        rms_change=Estimate(
            rms,
            0.5 / rms * squares.error if rms else 0.0,
            math.sqrt(max(0.0, squares.low)),
            math.sqrt(max(0.0, squares.high)),
        ),
        log_ratio=mean_of(differences),
        correlation=covariance / spread if spread else math.nan,
        p_value=paired_t_test([float(chunk.mean()) for chunk in differences]),
    )


def _share_of(chunks: Sequence[Floats]) -> Estimate:
    """Return a share of yes over chunks of ones and zeros; its interval stays within 0 and 1."""
    found = mean_of(chunks)
    return Estimate(found.value, found.error, max(0.0, found.low), min(1.0, found.high))


# ---- shares and paired items --------------------------------------------------------------------


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927), which also holds near 0 and 1."""
    if not count:
        return math.nan, math.nan
    z2, share = 1.959963984540054**2, right / count
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count * count))) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(lost: int, gained: int) -> float:
    """Return the chance of so uneven a split of changed answers if neither model were better (exact binomial).

    Args:
        lost: Items that only the first answers right.
        gained: Items that only the second answers right.
    """
    changed = lost + gained
    if not changed:
        return 1.0
    tail = sum(math.comb(changed, few) for few in range(min(lost, gained) + 1))
    return float(min(1.0, 2 * tail / 2**changed))


def paired_t_test(differences: Sequence[float]) -> float:
    """Return the two-sided chance of such a mean difference if the true one were 0; not a number for under two."""
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return math.nan
    spread = float(values.std(ddof=1))
    if spread == 0:
        return 1.0 if values[0] == 0 else 0.0
    t = abs(float(values.mean())) / (spread / math.sqrt(len(values)))
    return max(0.0, 1 - _student_t_within(t, len(values) - 1))


def student_t_quantile(degrees: int) -> float:
    """Return how many standard errors to each side hold 95% for a sample of `degrees` + 1."""
    low, high = 1.9, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_within(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _student_t_within(t: float, degrees: int) -> float:
    """Return the chance of a value between -t and t.

    Source:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if degrees > 1000:  # the normal distribution, to 4 digits
        return math.erf(t / math.sqrt(2))
    angle = math.atan(t / math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for step in range(1, (degrees - 1) // 2 if odd else degrees // 2):
        term *= cos2 * (2 * step / (2 * step + 1) if odd else (2 * step - 1) / (2 * step))
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
