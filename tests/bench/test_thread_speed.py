"""Automatic threads against each fixed count on this machine, quiet and with another program taking a core.

All loads take turns within one run. A ratio under 1 means that automatic was slower than the best fixed count.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from random_model import write_random_model

from localknobs.engine import Finished, LoadSettings, load
from localknobs.engine.client import Engine
from localknobs.engine.threads import candidates
from localknobs.hardware import logical_cores

pytestmark = pytest.mark.bench
BARRED = tuple((token, float("-inf")) for token in range(5))  # the end tokens: every answer is as long


@contextlib.contextmanager
def another_program() -> Iterator[None]:
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


def tokens_per_s(engine: Engine, count: int) -> float:
    for event in engine.stream("Tell me", {"seed": 3, "n_predict": count, "logit_bias": BARRED}):
        if isinstance(event, Finished):
            return event.stats.tokens_per_s
    raise AssertionError


def compare(model: Path, count: int, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        engines = {
            threads: stack.enter_context(load(LoadSettings(model=model, n_ctx=1024, threads=threads)))
            for threads in (0, *candidates(logical_cores()))
        }
        for name, beside in (("quiet", contextlib.nullcontext()), ("another program takes a core", another_program())):
            speeds: dict[int, list[float]] = {threads: [] for threads in engines}
            with beside:
                for _ in range(rounds):
                    for threads, engine in engines.items():
                        speeds[threads].append(tokens_per_s(engine, count))
            middle = {threads: median(found) for threads, found in speeds.items()}
            best = max(speed for threads, speed in middle.items() if threads)
            fixed = ", ".join(f"{threads}: {speed:,.0f}" for threads, speed in middle.items() if threads)
            with capsys.disabled():
                print(
                    f"\n{model.name}, {name}: automatic {middle[0]:,.0f} tokens/s, fixed {fixed}; "
                    f"automatic / best fixed = {middle[0] / best:.3f}"
                )


def test_built_in_model(built_in, capsys):
    compare(built_in, 400, 9, capsys)


def test_a_model_of_0_1_billion_parameters(tmp_path, capsys):
    model = write_random_model(
        tmp_path / "random-0.1b-q8_0.gguf", layers=12, width=768, heads=12, kv_heads=6, feed_forward=2048,
        fillers=16_000, context=1024, kind="Q8_0",
    )  # fmt: skip
    compare(model, 100, 7, capsys)
