"""Speed with drafts against without, answer by answer in turns: a draft that is good, one that is none, and the text.

One thread, so that the processor's time of the worker can be compared: on a busy machine that is the fairer one, if
answers are short and many. One process writes all answers, since two of the same kind differ by 3% by where their
memory lies. How right guesses are is found out anew in every answer: that is the worst case of `auto`, which in a
chat knows it from the answers before. Each ratio is the median over pairs of answers, with its standard error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median, stdev
from time import perf_counter

import pytest
from processor_time import processor_seconds
from random_model import write_random_model

from localknobs.engine import Finished, LoadSettings, load

pytestmark = pytest.mark.bench
NEVER_ENDS = tuple((token, float("-inf")) for token in range(5))


@dataclass
class Taken:
    """Seconds a token of each answer, and counts of all."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0


def ratio(plain: list[float], other: list[float]) -> tuple[float, float]:
    """Return how many times as fast the other is, and the standard error of that (by the bootstrap)."""
    pairs = [a / b for a, b in zip(plain, other, strict=True)]
    luck = Random(1)
    return median(pairs), stdev(median(luck.choices(pairs, k=len(pairs))) for _ in range(500))


def compare(
    capsys, name: str, settings: LoadSettings, kinds: list[str], *, rounds: int, tokens: int, prompt, **values
) -> dict[str, tuple[float, float]]:
    """Print how fast each kind of draft is; return the ratios of the processor's time to that without drafts."""
    taken = {kind: Taken() for kind in ("none", *kinds)}
    with load(settings) as engine:
        worker = engine._worker.process.pid
        for turn in range(rounds):
            for place, kind in enumerate(list(taken)[:: 1 if turn % 2 else -1]):
                engine.use_settings({"draft": kind})
                text = prompt(len(taken) * turn + place)  # never the same: its cache would be used again
                ahead, began = processor_seconds(worker), perf_counter()
                chosen = {"seed": turn, "n_predict": tokens, **values}
                stats = next(event.stats for event in engine.stream(text, chosen) if isinstance(event, Finished))
                count, one = stats.generated_tokens, taken[kind]
                one.wall.append((perf_counter() - began) / count)
                one.processor.append((processor_seconds(worker) - ahead) / count)
                one.tokens += count
                one.drafted += stats.drafted_tokens
                one.accepted += stats.accepted_tokens
    plain = taken.pop("none")
    found = {kind: ratio(plain.processor, one.processor) for kind, one in taken.items()}
    with capsys.disabled():
        print(f"\n{name}: without drafts {1 / median(plain.wall):,.1f} tokens/s, {plain.tokens:,} tokens")
        for kind, one in taken.items():
            share = one.accepted / one.drafted if one.drafted else 0.0
            by_clock, error = ratio(plain.wall, one.wall)
            print(
                f"  --draft {kind:5}: by the processor {found[kind][0]:.3f} ± {found[kind][1]:.3f} times as fast, by "
                f"the clock {by_clock:.3f} ± {error:.3f}; {one.drafted:,} tokens drafted, {share:.0%} accepted"
            )
    return found


def pair(folder: Path, width: int) -> tuple[Path, Path, Path]:
    """Return a model of nine layers, the first the loudest, that first layer alone, and a stranger of its size."""
    shape = {
        "width": width, "heads": 8, "kv_heads": 4, "feed_forward": width * 11 // 4, "context": 1024, "sharpness": 8.0,
        "never_ends": True,
    }  # fmt: skip
    return (
        write_random_model(folder / f"nine-{width}.gguf", layers=9, loud_layers=1, whisper=0.02, **shape),
        write_random_model(folder / f"one-{width}.gguf", layers=1, **shape),
        write_random_model(folder / f"stranger-{width}.gguf", layers=1, seed=9, **shape),
    )


def words(turn: int) -> str:
    return f"Tell me story number {turn}, a long one, about this and that."


def question(turn: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What does temperature do? ({turn})"}]


def test_a_draft_eight_times_smaller_that_is_mostly_right(tmp_path, capsys):
    target, draft, _ = pair(tmp_path, 512)
    times = target.stat().st_size / draft.stat().st_size
    settings = LoadSettings(model=target, model_draft=str(draft), threads=1)
    found = compare(
        capsys, f"a draft {times:.1f} times smaller", settings, ["model", "auto"], rounds=12, tokens=200, prompt=words,
        temp=0.0, logit_bias=NEVER_ENDS,
    )  # fmt: skip
    speed, error = found["auto"]
    assert speed - error > 1.3, found


@pytest.mark.parametrize(("tokens", "rounds"), [(256, 60), (60, 240)])
def test_a_draft_that_is_always_wrong(tmp_path, capsys, tokens, rounds):
    target, _, stranger = pair(tmp_path, 256)
    settings = LoadSettings(model=target, model_draft=str(stranger), threads=1)
    found = compare(
        capsys, f"a draft that knows nothing, answers of {tokens} tokens", settings, ["auto"], rounds=rounds,
        tokens=tokens, prompt=words, temp=1.0, logit_bias=NEVER_ENDS,
    )  # fmt: skip
    check(found["auto"])


@pytest.mark.parametrize(("tokens", "full", "rounds"), [(60, "stop", 240), (400, "stop", 60), (400, "sinks", 60)])
def test_the_built_in_model(built_in, capsys, tokens, full, rounds):
    """The last time in a context so small that something is dropped in every answer."""
    small = {"n_ctx": 256, "context_full": full} if full != "stop" else {}
    found = compare(
        capsys, f"built-in, the text alone, answers of {tokens} tokens, when the context is full: {full}",
        LoadSettings(model=built_in, threads=1, **small), ["auto"], rounds=rounds, tokens=tokens, temp=0.8,
        logit_bias=NEVER_ENDS, prompt=question,
    )  # fmt: skip
    check(found["auto"])


def check(measured: tuple[float, float]) -> None:
    """Never slower than 0.97 of no drafts, and the run so long that it can tell."""
    speed, error = measured
    assert speed - error > 0.97, measured
