"""Speed with drafts against without, answer by answer in turns: a draft that is good, one that is none, and the text.

One thread, so that the processor's time of the worker can be compared too: on a busy machine that is the fairer one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from random_model import write_random_model

from localknobs.engine import Finished, LoadSettings, load

pytestmark = pytest.mark.bench
NEVER_ENDS = tuple((token, float("-inf")) for token in range(5))
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Taken:
    """Seconds and counts of some answers."""

    wall: list[float]
    processor: list[float]
    drafted: int = 0
    accepted: int = 0


def processor_seconds(engine) -> float:
    fields = Path(f"/proc/{engine._worker.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def compare(capsys, name: str, settings: LoadSettings, kinds: list[str], *, rounds: int, tokens: int, prompt, **values):
    with load(settings) as engine:
        taken = {kind: Taken([], []) for kind in ("none", *kinds)}
        # Each kind keeps an engine's measurements only while it is not changed: one engine for each.
        engines = {"none": engine}
        try:
            for kind in kinds:
                engines[kind] = load(settings)
                engines[kind].use_settings({"draft": kind})
            for turn in range(rounds):
                for kind, one in list(engines.items())[:: 1 if turn % 2 else -1]:
                    ahead, began = processor_seconds(one), perf_counter()
                    chosen = {"seed": turn, "n_predict": tokens, **values}
                    stats = next(
                        event.stats for event in one.stream(prompt(turn), chosen) if isinstance(event, Finished)
                    )
                    count = stats.generated_tokens
                    taken[kind].wall.append((perf_counter() - began) / count)
                    taken[kind].processor.append((processor_seconds(one) - ahead) / count)
                    taken[kind].drafted += stats.drafted_tokens
                    taken[kind].accepted += stats.accepted_tokens
        finally:
            for one in engines.values():
                one.close()
    plain = taken.pop("none")
    with capsys.disabled():
        print(f"\n{name}: without drafts {1 / median(plain.wall):,.1f} tokens/s")
        for kind, one in taken.items():
            pairs = [a / b for a, b in zip(plain.wall, one.wall, strict=True)]
            share = one.accepted / one.drafted if one.drafted else 0.0
            print(
                f"  --draft {kind:5}: {median(pairs):.3f} times as fast (median of {rounds} pairs), "
                f"{sum(plain.processor) / sum(one.processor):.3f} by the processor's time of all answers; "
                f"{one.drafted:,} tokens drafted, {share:.0%} accepted"
            )


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
    ratio = target.stat().st_size / draft.stat().st_size
    settings = LoadSettings(model=target, model_draft=str(draft), threads=1)
    compare(
        capsys, f"a draft {ratio:.1f} times smaller", settings, ["model", "auto"], rounds=8, tokens=200, prompt=words,
        temp=0.0, logit_bias=NEVER_ENDS,
    )  # fmt: skip


def test_a_draft_that_is_always_wrong(models, capsys):
    target, _, stranger = models
    settings = LoadSettings(model=target, model_draft=str(stranger), threads=1)
    compare(
        capsys, "a draft that knows nothing", settings, ["auto"], rounds=8, tokens=200, prompt=words, temp=1.0,
        logit_bias=NEVER_ENDS,
    )  # fmt: skip


def test_the_built_in_model(built_in, capsys):
    compare(
        capsys, "built-in, the text alone", LoadSettings(model=built_in, threads=1), ["ngram", "auto"], rounds=12,
        tokens=200, prompt=lambda turn: [{"role": "user", "content": f"What does temperature do? ({turn})"}], temp=0.8,
        logit_bias=NEVER_ENDS,
    )  # fmt: skip
