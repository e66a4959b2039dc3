"""How much of llama.cpp's own speed the engine gives to its user.

Both sides use one thread and the same positions in the context, and take turns: the machine's moods hit both.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from random_model import write_random_model

from localknobs.engine import Finished, LoadSettings, TextArrived, load

pytestmark = pytest.mark.bench
BARE_LOOP = Path(__file__).with_name("bare_loop.py")


class BareLoop:
    """Decodes tokens and nothing else, in a child process."""

    def __init__(self, model: Path, context: int, extra: bool) -> None:
        command = [sys.executable, str(BARE_LOOP), str(model), "1", str(context), "extra" if extra else "plain"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, prompt: int, count: int) -> float:
        self.process.stdin.write(f"{prompt} {count}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def engine_seconds(engine, count: int) -> tuple[float, int]:
    """Return the seconds from the first to the last of `count` tokens, as the reader of the events sees them."""
    first = 0.0
    # The seed makes each answer as long and as dear as the last; the end tokens are barred.
    bias = tuple((token, float("-inf")) for token in range(5)) + tuple((token, float("-inf")) for token in (3, 4))
    for event in engine.stream("Tell me", {"seed": 7, "n_predict": count, "logit_bias": bias}):
        if isinstance(event, TextArrived) and not first:
            first = perf_counter()
            skipped = event.generated_tokens
        elif isinstance(event, Finished):
            assert event.stats.generated_tokens == count, event
            return (perf_counter() - first) / (count - skipped), event.stats.prompt_tokens
    raise AssertionError


def ratio(model: Path, *, count: int, rounds: int, capsys: pytest.CaptureFixture[str]) -> float:
    with load(LoadSettings(model=model, threads=1, n_ctx=1024)) as engine:
        extra = not any("extra CPU buffers" in note for note in engine.info.notes)
        bare = BareLoop(model, engine.info.context_size, extra)
        try:
            _, prompt = engine_seconds(engine, count)
            bare.seconds(prompt, count)
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(engine_seconds(engine, count)[0])
                theirs.append(bare.seconds(prompt, count) / count)
        finally:
            bare.close()
    found = median(theirs) / median(ours)
    with capsys.disabled():
        print(
            f"\n{model.name}: bare loop {1 / median(theirs):,.1f} tokens/s, engine {1 / median(ours):,.1f}, "
            f"ratio {found:.3f} (pairs: {', '.join(f'{b / a:.3f}' for a, b in zip(ours, theirs, strict=True))})"
        )
    return found


def test_built_in_model(built_in, capsys):
    ratio(built_in, count=400, rounds=15, capsys=capsys)


def test_a_model_of_0_3_billion_parameters(tmp_path, capsys):
    model = write_random_model(
        tmp_path / "random-0.3b-q8_0.gguf", layers=24, width=1024, heads=16, kv_heads=8, feed_forward=2816,
        fillers=32_000 - 261, context=1024, kind="Q8_0",
    )  # fmt: skip
    ratio(model, count=48, rounds=9, capsys=capsys)
