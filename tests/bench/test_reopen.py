"""A long chat reopened from its parked cache, against reading it again; the built-in model, one thread."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pytest

from localknobs.engine import LoadSettings, load

pytestmark = pytest.mark.bench


def test_reopening_takes_the_time_of_a_file_read(built_in: Path, capsys: pytest.CaptureFixture[str]):
    text = "Temperature divides the scores before they become probabilities. " * 70
    settings = LoadSettings(model=built_in, threads=1, n_ctx=1024, park_cache="disk")
    greedy = {"temp": 0.0, "n_predict": 1}
    with load(settings) as engine:
        began = perf_counter()
        list(engine.stream(text[: 4 * 800], greedy))
        read_s = perf_counter() - began
        tokens = engine.stats.prompt_tokens
        parked = engine.save_cache("chat")
    with load(settings) as engine:
        began = perf_counter()
        restored = engine.restore_cache("chat")
        restore_s = perf_counter() - began
        began = perf_counter()
        list(engine.stream(text[: 4 * 800], greedy))
        answer_s = perf_counter() - began
    assert restored.tokens == parked.tokens
    with capsys.disabled():
        print(
            f"\n{tokens} tokens, {parked.size_bytes / 2**20:.1f} MiB: read in {read_s * 1000:.0f} ms; taken back in "
            f"{restore_s * 1000:.1f} ms and answered in {answer_s * 1000:.1f} ms"
        )
