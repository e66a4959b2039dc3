"""Speed with drafts against without, answer by answer in turns: a draft that is good, one that is none, and the text.

One thread, so that the processor's time of the worker can be compared too: on a busy machine that is the fairer one.
One process writes all answers, since two of the same kind differ by 3% by where their memory lies. So everything is
measured anew in every answer: that is the worst case of `auto`, whose trials pay back from answer to answer in a chat.
Each ratio is the median over pairs of answers, with its standard error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of nine layers of which the first is loudest, that first layer alone, and a stranger of its size."""
    folder = tmp_path_factory.mktemp("drafts")
    shape = {
        "width": 512, "heads": 8, "kv_heads": 4, "feed_forward": 1408, "context": 1024, "sharpness": 8.0,
        "never_ends": True,
    }  # fmt: skip
    return (
        write_random_model(folder / "nine.gguf", layers=9, loud_layers=1, whisper=0.02, **shape),
        write_random_model(folder / "one.gguf", layers=1, **shape),
        write_random_model(folder / "stranger.gguf", layers=1, seed=9, **shape),
    )


def words(turn: int) -> str:
    return f"Tell me story number {turn}, a long one, about this and that."


def test_a_draft_eight_times_smaller_that_is_mostly_right(models, capsys):
    target, draft, _ = models
    times = target.stat().st_size / draft.stat().st_size
    settings = LoadSettings(model=target, model_draft=str(draft), threads=1)
    compare(
        capsys, f"a draft {times:.1f} times smaller", settings, ["model", "auto"], rounds=10, tokens=200, prompt=words,
        temp=0.0, logit_bias=NEVER_ENDS,
    )  # fmt: skip


def test_a_draft_that_is_always_wrong(models, capsys):
    target, _, stranger = models
    settings = LoadSettings(model=target, model_draft=str(stranger), threads=1)
    found = compare(
        capsys, "a draft that knows nothing", settings, ["auto"], rounds=16, tokens=256, prompt=words, temp=1.0,
        logit_bias=NEVER_ENDS,
    )  # fmt: skip
    check(found["auto"])


@pytest.mark.parametrize("full", ["stop", "sinks"])
def test_the_built_in_model(built_in, capsys, full):
    """The second time in a context so small that something is dropped in every answer."""
    small = {"n_ctx": 256, "context_full": full} if full != "stop" else {}
    found = compare(
        capsys, f"built-in, the text alone, when the context is full: {full}",
        LoadSettings(model=built_in, threads=1, **small), ["ngram", "auto"], rounds=50,
        tokens=400, temp=0.8, logit_bias=NEVER_ENDS,
        prompt=lambda turn: [{"role": "user", "content": f"What does temperature do? ({turn})"}],
    )  # fmt: skip
    check(found["auto"])


def check(measured: tuple[float, float]) -> None:
    """Never slower than 0.97 of no drafts, as far as this run can tell."""
    speed, error = measured
    assert speed + 2 * error > 0.97, measured
