"""How far a file's logits are from those of its checkpoint, and how far is normal for its type.

The limits tell a broken file (weights in the wrong order, a wrong scale, another rope) from a rounded one; they are
wide, since small models lose more to rounding than large ones. How good a quantization is they do not tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from localknobs.gguf_info import Header

Logits = npt.NDArray[np.float32]

MOST_DIFFERENCE_F32 = 2e-3
"""Largest difference of a logit where nothing was rounded: sums in another order make less."""
_MOST_DIFFERENCE_GELU = 1e-2
_GELU = ("gemma", "starcoder", "gpt2", "gptneox", "phi2", "bloom", "falcon", "mpt")
"""Beginnings of architectures with GELU, which llama.cpp looks up in a table of 16-bit values on the processor."""
ANCHOR = "Llama-3-8B on wikitext-2, from llama.cpp's tools/perplexity/README.md"
_ANCHORS = (
    ("Q8_0", 8.5, 0.00136), ("Q6_K", 6.57, 0.00545), ("Q5_K_M", 5.70, 0.0108), ("Q4_K_M", 4.89, 0.0313),
    ("Q4_K_S", 4.67, 0.0431), ("IQ4_XS", 4.46, 0.0363), ("Q4_0", 4.66, 0.0719), ("Q3_K_M", 4.0, 0.102),
    ("IQ3_XXS", 3.25, 0.184), ("Q2_K", 3.16, 0.445), ("IQ2_XXS", 2.38, 0.812), ("IQ1_S", 2.0, 2.21),
)  # fmt: skip
"""Type, bits a weight has there, and the mean KL divergence in nats."""
_ROUNDED = {"F16": 1e-3, "BF16": 5e-3}
"""Most mean KL divergence of the 16-bit types: 20 to 1,000 times what the built-in model has in them."""
_ROOM = 10.0
"""How many times the divergence of the anchor still passes."""
_MOST_KL, _LEAST_TOP = 3.0, 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file of some type must keep to.

    Args:
        most_difference: Largest absolute difference of a logit; infinite where the type has no such limit.
        most_kl: Largest mean KL divergence, in nats.
        least_top: Smallest share of places whose likeliest token is the same, 0 to 1.
        normal: Where the limits come from, one sentence.
    """

    most_difference: float
    most_kl: float
    least_top: float
    normal: str


def limits_for(header: Header) -> Limits:
    """Return the limits for a file's type."""
    quant = header.quant
    if quant == "F32":
        if header.architecture.startswith(_GELU):
            normal = f"F32, but llama.cpp rounds GELU to 16 bits: logits may differ by {_MOST_DIFFERENCE_GELU:g}."
            return Limits(_MOST_DIFFERENCE_GELU, 1e-4, 0.97, normal)
        normal = f"F32 rounds nothing: no logit may differ by more than {MOST_DIFFERENCE_F32:g}."
        return Limits(MOST_DIFFERENCE_F32, 1e-5, 0.99, normal)
    if quant in _ROUNDED:
        most = _ROUNDED[quant]
        return Limits(math.inf, most, _top_for(most), f"{quant} rounds little: a mean KL divergence below {most:g}.")
    bits = header.bits_per_weight
    exact = [anchor for anchor in _ANCHORS if anchor[0] == quant]
    below = [anchor for anchor in sorted(_ANCHORS, key=lambda anchor: -anchor[1]) if anchor[1] <= bits]
    name, _, usual = (exact or below or _ANCHORS[-1:])[0]
    most = min(_MOST_KL, _ROOM * usual)
    of = f"{quant} has" if name == quant else f"{quant} is not listed; {name}, of about its bits, has"
    normal = f"{of} a mean KL divergence of {usual:g} ({ANCHOR}); smaller models lose more, up to {most:.3g} passes."
    return Limits(math.inf, most, _top_for(most), normal)


def _top_for(most_kl: float) -> float:
    """Return a share of equal top tokens that goes with a divergence: Pinsker bounds the change by sqrt(KL / 2)."""
    return max(_LEAST_TOP, 1 - math.sqrt(most_kl))


@dataclass(slots=True)
class Distance:
    """Differences over all places so far.

    Args:
        places: Tokens after which the logits were compared.
        largest: Largest absolute difference of a logit.
        kl_worst: Largest KL divergence of a place, in nats.
        worst_prompt: Number of the prompt that has it, from 0.
        not_finite: Whether the file gave a logit that is no number.
    """

    places: int = 0
    largest: float = 0.0
    kl_worst: float = 0.0
    worst_prompt: int = 0
    not_finite: bool = False
    _difference_sum: float = 0.0
    _values: int = 0
    _top_equal: int = 0
    _kl_sum: float = 0.0

    @property
    def mean(self) -> float:
        """Mean absolute difference of a logit."""
        return self._difference_sum / max(1, self._values)

    @property
    def top_share(self) -> float:
        """Share of places whose likeliest token is the same."""
        return self._top_equal / max(1, self.places)

    @property
    def kl_mean(self) -> float:
        """Mean KL divergence of the file's distribution from the checkpoint's, in nats."""
        return self._kl_sum / max(1, self.places)

    def add(self, prompt: int, expected: Logits, found: Logits) -> None:
        """Take in a prompt.

        Args:
            prompt: Its number.
            expected: The checkpoint's logits.
            found: The file's.

        Shapes:
            expected, found: (tokens, vocabulary).
        """
        if not np.isfinite(found).all():
            self.not_finite = True
            return
        for one, other in zip(expected, found, strict=True):  # a place at a time: vocabularies are large
            difference = np.abs(one - other)
            self.largest = max(self.largest, float(difference.max()))
            self._difference_sum += float(difference.sum(dtype=np.float64))
            self._values += one.size
            self._top_equal += int(one.argmax() == other.argmax())
            logs, their_logs = _log_shares(one), _log_shares(other)
            divergence = max(0.0, float((np.exp(logs) * (logs - their_logs)).sum()))
            self._kl_sum += divergence
            self.places += 1
            if divergence > self.kl_worst:
                self.kl_worst, self.worst_prompt = divergence, prompt

    def failures(self, limits: Limits) -> list[str]:
        """Return what is beyond the limits, as phrases."""
        if self.not_finite:
            return ["the file gives logits that are no numbers"]
        found = []
        if self.largest > limits.most_difference:
            found.append(f"a logit differs by {self.largest:.3g}, at most {limits.most_difference:g} is right")
        if self.kl_mean > limits.most_kl:
            found.append(f"the mean KL divergence is {self.kl_mean:.3g}, at most {limits.most_kl:.3g} is right")
        if self.top_share < limits.least_top:
            found.append(f"the top token is the same at {self.top_share:.1%}, at least {limits.least_top:.1%} is right")
        return found


def _log_shares(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    logs: npt.NDArray[np.float64] = shifted - math.log(float(np.exp(shifted).sum()))
    return logs
