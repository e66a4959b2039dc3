"""What a control vector does to answers: how many match a pattern, how long they are, how many it changes, by scale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localknobs.engine.adapter_files import text_of
from localknobs.engine.client import Engine
from localknobs.engine.events import TextArrived
from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.evaluate.statistics import interval_of_means, wilson_interval
from localknobs.jobs import Advanced, Job, Started
from localknobs.measured_effects import MeasuredEffect
from localknobs.steer.prompts import read_prompts

SCALES = (-1.0, 0.0, 1.0, 2.0)
ANSWER_TOKENS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectConfig:
    """What to measure.

    Args:
        model: A GGUF file.
        vector: A control vector of it.
        prompts: Lists of prompts, one a line.
        scales: Scales to answer at; 0, the model alone, is added where it is missing.
        pattern: A regular expression that answers are looked through for; empty for none. Case does not count.
        chat: Whether each prompt is a message, with the model's template round it.
        answer_tokens: Most tokens of an answer.
        context: Most tokens of a prompt.
        threads: 0 chooses by measuring.
        n_gpu_layers: -1 for all that fit.
    """

    model: Path
    vector: Path
    prompts: tuple[Path, ...]
    scales: tuple[float, ...] = SCALES
    pattern: str = ""
    chat: bool = False
    answer_tokens: int = ANSWER_TOKENS
    context: int = 512
    threads: int = 0
    n_gpu_layers: int = -1


@dataclass(frozen=True, slots=True)
class Effect:
    """Answers to one list at one scale; all are written at temperature 0.

    Args:
        prompts: Name of the list.
        scale: Of the vector.
        answers: How many.
        matching: Those in which the pattern was found.
        matching_interval: 95% interval of their share (Wilson).
        tokens: Mean length.
        longer: Mean change of the length against scale 0, prompt by prompt, in tokens.
        longer_interval: Its 95% interval (Student's t).
        changed: Those that differ from the answer at scale 0.
        example: The first one.
    """

    prompts: str
    scale: float
    answers: int
    matching: int
    matching_interval: tuple[float, float]
    tokens: float
    longer: float
    longer_interval: tuple[float, float]
    changed: int
    example: str

    @property
    def share(self) -> float:
        """Share of the answers in which the pattern was found."""
        return self.matching / self.answers


Answer = tuple[str, int]
"""The text, and its tokens."""


def measure_effect(config: EffectConfig) -> Job[tuple[Effect, ...]]:
    """Answer all prompts at every scale.

    Yields:
        Progress in answers.

    Raises:
        BadValue: no scale, one that is not finite, or a pattern that is no regular expression.
        NotFound, BadFile, Unsupported: a file is missing, damaged, or of another model.
    """
    pattern, lists = check_trial(config.prompts, config.scales, config.pattern)
    scales = sorted({0.0, *config.scales})
    settings = LoadSettings(
        model=config.model, n_ctx=config.context + config.answer_tokens, threads=config.threads,
        n_gpu_layers=config.n_gpu_layers, control_vector=(text_of(str(config.vector), 0.0),),
    )  # fmt: skip
    yield Started("loading the model", 0, "answers")
    with Engine(settings) as engine:
        yield Started("answering", len(scales) * sum(len(texts) for _, texts in lists), "answers")
        found: dict[tuple[str, float], list[Answer]] = {}
        for scale in scales:
            engine.use_settings({"control_vector": (text_of(str(config.vector), scale),)})
            for name, texts in lists:
                answers = found[name, scale] = []
                for text in texts:
                    answers.append(_answer(engine, text, config))
                    yield Advanced(1)
    return tuple(
        effect_of(name, scale, found[name, scale], found[name, 0.0], pattern) for name, _ in lists for scale in scales
    )


def check_trial(
    prompts: Sequence[Path], scales: Sequence[float], pattern: str
) -> tuple[re.Pattern[str] | None, list[tuple[str, tuple[str, ...]]]]:
    """Return the pattern, ready for use, and the prompts of each list with its name; before any work is done.

    Raises:
        BadValue, NotFound, BadFile: as `measure_effect`, for what can be known without the model.
    """
    if not all(math.isfinite(scale) for scale in scales):
        raise BadValue("A scale must be a number", f"Such as --scales {' '.join(f'{scale:g}' for scale in SCALES)}")
    names = [path.stem for path in prompts]
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise BadValue(f"Two lists to try are named {twice[0]}", "Rename one: what they show is told by their names.")
    return compiled(pattern), [(path.stem, read_prompts(path)) for path in prompts]


def compiled(pattern: str) -> re.Pattern[str] | None:
    """Return a pattern ready for use, None for an empty one; raises `BadValue`."""
    try:
        return re.compile(pattern, re.IGNORECASE) if pattern else None
    except re.error as error:
        raise BadValue(f"{pattern!r} is no regular expression: {error}", "Words do: --match 'not know'") from None


def _answer(engine: Engine, text: str, config: EffectConfig) -> Answer:
    parts = []
    what = [{"role": "user", "content": text}] if config.chat else text
    for event in engine.stream(what, {"temp": 0.0, "n_predict": config.answer_tokens}):  # type: ignore[arg-type]
        if isinstance(event, TextArrived):
            parts.append(event.text)
    return "".join(parts), engine.stats.generated_tokens


def effect_of(
    name: str, scale: float, answers: Sequence[Answer], plain: Sequence[Answer], pattern: re.Pattern[str] | None
) -> Effect:
    """Return what answers at one scale are against those at scale 0, prompt by prompt."""
    matching = sum(bool(pattern and pattern.search(text)) for text, _ in answers)
    longer = np.array([own - other for (_, own), (_, other) in zip(answers, plain, strict=True)], np.float64)
    return Effect(
        name, scale, len(answers), matching, wilson_interval(matching, len(answers)),
        float(np.mean([count for _, count in answers])), float(longer.mean()),
        interval_of_means([longer[at : at + 1] for at in range(len(longer))]),
        sum(one[0] != other[0] for one, other in zip(answers, plain, strict=True)), answers[0][0],
    )  # fmt: skip


def effects_for_cards(
    model: str, vector: Path, effects: Sequence[Effect], pattern: str, command: str
) -> list[MeasuredEffect]:
    """Return what a vector did, for the card of its knob: one record a list of prompts and scale but 0.

    Args:
        model: Its name.
        vector: The file.
        effects: What was measured.
        pattern: What answers were looked through for; empty for nothing.
        command: The command line that measures it again.
    """
    alone = {one.prompts: one for one in effects if not one.scale}
    found = []
    for one in effects:
        if not one.scale:
            continue
        before = alone[one.prompts]
        numbers = {"changed": one.changed / one.answers, "tokens_before": before.tokens, "tokens": one.tokens}
        parts = [f"changes {numbers['changed']:.0%} of {one.answers} answers ({one.prompts})"]
        if pattern:
            parts.append(f"{pattern!r} in {before.share:.0%} -> {one.share:.0%}")
            numbers |= {"matching_before": before.share, "matching": one.share}
        parts.append(f"length {before.tokens:.1f} -> {one.tokens:.1f} tokens")
        found.append(MeasuredEffect(
            lever="finetune", settings={"control_vector": text_of(vector.name, one.scale), "prompts": one.prompts},
            model=model, against="scale 0", text="; ".join(parts), numbers=numbers, command=command,
        ))  # fmt: skip
    return found
