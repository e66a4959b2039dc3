"""What a bench measures: every combination of the values of some loading knobs, and what came of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median

from localknobs.engine.settings import LoadSettings
from localknobs.errors import BadValue
from localknobs.hardware import physical_cores
from localknobs.knobs import BENCHED, KNOBS, Value

MOST_CASES = 64


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What to measure.

    Args:
        model: A GGUF file.
        values: Values of the knobs in `BENCHED`; one that is not named has its default.
        prompt: Tokens of the prompt that is read; 0 leaves that out.
        generate: Tokens that are written one by one; 0 leaves that out.
        depth: Tokens in the context before both.
        repetitions: How often each is measured.
    """

    model: Path
    values: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    prompt: int = 512
    generate: int = 128
    depth: int = 0
    repetitions: int = 5


@dataclass(frozen=True, slots=True)
class Case:
    """One combination.

    Args:
        settings: How the model is loaded for it; `threads` is a number above 0.
        varied: The knobs that differ between the cases, with their values here.
    """

    settings: LoadSettings
    varied: Mapping[str, Value]

    @property
    def loaded_as(self) -> LoadSettings:
        """What it takes of a load: cases that are alike here share one."""
        return replace(self.settings, threads=1)

    @property
    def label(self) -> str:
        """Name it by what varies: `threads 2 · flash attention on`."""
        return " · ".join(f"{KNOBS[name].label} {value}" for name, value in self.varied.items()) or "as loaded"


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a combination did.

    Args:
        case: Which.
        prompt: Tokens a second of each repetition of reading.
        generation: Tokens a second of each repetition of writing.
        devices: What held its layers.
        trouble: Why it could not be measured, empty when it was.
    """

    case: Case
    prompt: tuple[float, ...] = ()
    generation: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def prompt_speed(self) -> float:
        """Median speed of reading; 0 when not measured."""
        return median(self.prompt) if self.prompt else 0.0

    @property
    def generation_speed(self) -> float:
        """Median speed of writing; 0 when not measured."""
        return median(self.generation) if self.generation else 0.0


def cases(config: BenchConfig) -> tuple[Case, ...]:
    """Return every combination, those that share a load side by side.

    Raises:
        BadValue: there is nothing to measure, or far too much.
    """
    if config.prompt < 0 or config.generate < 0 or config.depth < 0 or not config.prompt + config.generate:
        raise BadValue("There is nothing to measure", "Give -p or -n a number of tokens above 0.")
    if config.repetitions < 1:
        raise BadValue(f"-r cannot be {config.repetitions}", "It takes a number of at least 1.")
    size = config.depth + max(config.prompt, config.generate)
    base = LoadSettings(model=config.model, n_ctx=size)
    lists = {name: config.values.get(name) or (getattr(base, name),) for name in BENCHED}
    # 0 means automatic elsewhere; a measurement needs to know what it measures.
    threads = (value if value else physical_cores() for value in lists["threads"])
    lists["threads"] = tuple(dict.fromkeys(threads))
    several = [name for name, values in lists.items() if len(values) > 1]
    count = 1
    for values in lists.values():
        count *= len(values)
    if count > MOST_CASES:
        raise BadValue(
            f"These are {count:,} combinations", f"Take at most {MOST_CASES}: fewer values, or one list at a time."
        )
    order = (*BENCHED[1:], BENCHED[0])  # threads change fastest
    made = []
    for combination in product(*(lists[name] for name in order)):
        chosen = dict(zip(order, combination, strict=True))
        settings = replace(base, **chosen)
        made.append(Case(settings, {name: chosen[name] for name in BENCHED if name in several}))
    return tuple(made)
