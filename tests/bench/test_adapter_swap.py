"""What a change of adapters costs in the middle of a chat: read again, gone back to, and against a new load."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pytest
from made_adapters import write_adapter

from localknobs.engine import LoadSettings, load
from localknobs.engine.client import Engine

pytestmark = pytest.mark.bench
TEXT = "Temperature divides the scores before they become probabilities. " * 50


def answer_s(engine: Engine) -> float:
    """Return the seconds until one more token of a long chat is there."""
    began = perf_counter()
    list(engine.stream(TEXT, {"temp": 0.0, "n_predict": 1}))
    return perf_counter() - began


def test_going_back_to_a_scale_costs_less_than_reading_and_than_loading(
    built_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = write_adapter(tmp_path / "adapter.gguf", built_in, rank=16, strength=0.02)
    settings = LoadSettings(model=built_in, threads=1, n_ctx=1024)
    with load(settings) as engine:
        answer_s(engine)
        engine.use_settings({"lora": (f"{adapter}:1",)})
        read = answer_s(engine)
        swaps = []
        for scale in (0, 1) * 5:
            began = perf_counter()
            engine.use_settings({"lora": (f"{adapter}:{scale}",)})
            swaps.append(perf_counter() - began + answer_s(engine))
            assert engine.stats.reused_tokens == engine.stats.prompt_tokens - 1
        tokens = engine.stats.prompt_tokens
    began = perf_counter()
    with load(LoadSettings(model=built_in, threads=1, n_ctx=1024, lora=(f"{adapter}:0.5",))) as engine:
        reloaded = perf_counter() - began + answer_s(engine)
    back = sorted(swaps)[len(swaps) // 2]
    with capsys.disabled():
        print(
            f"\n{tokens} tokens: a new scale {read * 1000:.0f} ms, all read again; back to a scale that was in use "
            f"{back * 1000:.1f} ms; by a new load {reloaded * 1000:.0f} ms"
        )
    assert back < read / 2 and back < reloaded / 4
