"""What the samplers make of the scores of one token, stage by stage; plain records, importable without llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from localknobs.knobs import KNOBS

STAGE_LABELS = {
    "logit_bias": "logit bias",
    "penalties": "penalties",
    "dry": "DRY",
    "top_n_sigma": "top-n-sigma",
    "top_k": "top-k",
    "typ_p": "typical-p",
    "top_p": "top-p",
    "min_p": "min-p",
    "xtc": "XTC",
    "temperature": "temperature",
    "mirostat": "mirostat",
    "adaptive_p": "adaptive-p",
    "greedy": "likeliest",
    "grammar": "grammar",
}
"""Stage names as people read them, in no order: the order is the chain's."""
MOVABLE = KNOBS["samplers"].choices
"""Stages whose place the knob `samplers` decides. Adaptive-p draws, so it is last wherever it is named."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One sampler of the chain, and what it did.

    Args:
        name: Its name, as in the knob `samplers`.
        active: Whether it does anything with the present values.
        before, after: Candidates that came to it, and that it left.
        removed: Probability, 0 to 1, of the candidates it took away.
        moved: Probability that lies elsewhere after it: half the sum of all differences. What truncation removes
            goes to those that stay, so that there it is the same as `removed`.
        chance: How often it acts at all: 1 but for XTC, of which `removed` and `moved` are the average.
    """

    name: str
    active: bool
    before: int
    after: int
    removed: float
    moved: float
    chance: float = 1.0

    @property
    def label(self) -> str:
        """Its name as people read it."""
        return STAGE_LABELS.get(self.name, self.name)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could come.

    Args:
        token: Its number in the vocabulary.
        text: What it stands for; control tokens as the vocabulary spells them, a part of a character in hex.
        ends: Whether it ends the answer.
        score: The model's own score (logit), before anything.
        probabilities: First the model's own, then that after each stage; 0 where it is no candidate any more.
    """

    token: int
    text: str
    ends: bool
    score: float
    probabilities: tuple[float, ...]

    @property
    def before(self) -> float:
        """The model's own probability."""
        return self.probabilities[0]

    @property
    def after(self) -> float:
        """The probability with which it is drawn."""
        return self.probabilities[-1]


@dataclass(frozen=True, slots=True)
class SamplerView:
    """What the samplers make of the scores of one token of an answer.

    Args:
        place: Which token of the answer, from 0.
        drawn: The token that was drawn there; None while it is the next one.
        exact: Whether the scores of the whole vocabulary were kept. If not, the stages saw the likeliest ones only.
        seen: Share of the probability that the kept scores hold: 1 when exact.
        entropy: Of the model's own distribution, in bits; 0 is certain.
        confidence: Probability, before any sampler, of the token that was drawn; of the likeliest if none was.
        stages: The chain, first to last.
        candidates: The likeliest before and the likeliest after, by the model's own probability.
        places: Which tokens of the answer can be looked at: first, and one beyond the last.
    """

    place: int
    drawn: int | None
    exact: bool
    seen: float
    entropy: float
    confidence: float
    stages: tuple[Stage, ...]
    candidates: tuple[Candidate, ...]
    places: tuple[int, int]

    def removed_by(self, candidate: Candidate) -> Stage | None:
        """Return the stage that took a candidate out for good, None for one that can be drawn."""
        if candidate.after > 0:
            return None
        last = max((at for at, value in enumerate(candidate.probabilities) if value > 0), default=-1)
        return self.stages[last] if 0 <= last < len(self.stages) else None

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SamplerView:
        """Return the view that `to_plain` wrote."""
        stages = tuple(Stage(**stage) for stage in plain["stages"])
        candidates = tuple(
            Candidate(**{**one, "probabilities": tuple(one["probabilities"])}) for one in plain["candidates"]
        )
        first, beyond = plain["places"]
        return cls(**{**plain, "stages": stages, "candidates": candidates, "places": (first, beyond)})
