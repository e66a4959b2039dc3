"""What to train and how, and the defaults that depend on data and model, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localknobs.knobs import Value, defaults

LONGEST = 2048
"""Tokens of an example when nobody chose: longer ones cost memory, and few sets have them."""
_WIDE, _WIDE_RATE, _TOP_RATE = 4096, 2e-4, 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """What to train.

    Args:
        base: Folder of a Hugging Face checkpoint, or a GGUF file, whose bytes are trained over as they are.
        data: File of examples.
        output: Folder to write the adapter, or the model, to.
        checkpoint: Folder with config and tokenizer of a GGUF file; None to look for it.
        held_out: File of examples that are only measured; None to keep a share of `data` back.
        general: A text or examples of another kind, whose loss shows what else is forgotten; None to measure none.
        rehearsal: A text or examples at which the model is held to what its base says; None for no rehearsal.
        knobs: Values of the fine-tuning knobs; what is missing has its default.
        samples: Prompts that are answered now and then; none for the first held-out example's.
        answers: Most held-out questions that the model answers before and after.
        restart: Begin anew even where a stopped run could be taken up.
        threads: 0 for all physical cores.
        prove: Compare the result in torch, as a GGUF adapter and merged.
        picture: File, `.png` or `.svg`, that the curves are drawn into besides the one beside the adapter.
    """

    base: Path
    data: Path
    output: Path
    checkpoint: Path | None = None
    held_out: Path | None = None
    general: Path | None = None
    rehearsal: Path | None = None
    knobs: Mapping[str, Value] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    answers: int = 50
    restart: bool = False
    threads: int = 0
    prove: bool = True
    picture: Path | None = None

    def values(self) -> dict[str, Value]:
        """Return every knob's value."""
        return {**defaults("fine-tuning"), **self.knobs}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of a training that nobody has to choose any more.

    Args:
        rank, alpha, rate, epochs, length: As the knobs say, or chosen.
        reasons: Why those that were chosen are as they are.
    """

    rank: int
    alpha: float
    rate: float
    epochs: float
    length: int
    reasons: tuple[str, ...]


def choose(values: Mapping[str, Value], *, examples: int, width: int, context: int) -> Recipe:
    """Fill in what was left to the program.

    Args:
        values: Of all fine-tuning knobs.
        examples: To learn from.
        width: Size of the model's hidden state.
        context: Tokens the model was trained on; 0 when unknown.
    """
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    reasons = []
    rate = numbers["learning_rate"]
    if not rate:
        # The best rate falls with the width (arXiv:2203.03466); anchored at what QLoRA uses for 4096.
        rate = min(_TOP_RATE, float(f"{_WIDE_RATE * _WIDE / max(1, width):.2g}"))
        reasons.append(f"learning rate {rate:g}: 0.0002 at a width of 4,096, more for narrower models; here {width:,}")
    epochs = numbers["epochs"]
    if not epochs:
        epochs, why = next(
            (count, text)
            for least, count, text in (
                (20_000, 1.0, "there is much to read, once is enough"),
                (1_000, 3.0, "some thousand examples are learned in three readings"),
                (200, 6.0, "few examples must be read more often; the best adapter on held-out ones is kept"),
                (0, 15.0, "very few examples must be read often; more of them would help more"),
            )
            if examples >= least
        )
        reasons.append(f"epochs {epochs:g} for {examples:,} examples: {why}")
    rank = int(numbers["lora_r"])
    length = int(numbers["seq_length"]) or min(context or LONGEST, LONGEST)
    return Recipe(rank, numbers["lora_alpha"] or 2.0 * rank, rate, epochs, length, tuple(reasons))
