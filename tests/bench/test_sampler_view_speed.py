"""How long the sampler view takes to follow a slider over 150,000 tokens: the reader's time, pipe included.

Beside the clock, the processor's time of both processes: a machine that does something else makes the clock's useless.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import pytest
from processor_time import processor_seconds
from random_model import SMALLEST_VOCABULARY, write_random_model

from localknobs.engine import LoadSettings, load
from localknobs.engine.controls import Plan

pytestmark = pytest.mark.bench
VOCABULARY = 150_000
LOOKS = 61
LIMIT_MS = 30
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
ALL = {
    **OFF, "repeat_penalty": 1.2, "dry_multiplier": 0.8, "top_n_sigma": 4.0, "typ_p": 0.98, "top_p": 0.97,
    "min_p": 0.001, "xtc_probability": 0.5, "xtc_threshold": 0.05, "dynatemp_range": 0.3,
}  # fmt: skip
DRAGS = {
    "the defaults, temperature": ({}, "temp", 0.5, 2.0),
    "the defaults, top-k": ({}, "top_k", 20, 400),
    "the defaults, top-p": ({}, "top_p", 0.5, 0.99),
    "no top-k, top-p": ({"top_k": 0}, "top_p", 0.5, 0.99),
    "nothing else, min-p": (OFF, "min_p", 0.01, 0.5),
    "nothing else, temperature": (OFF, "temp", 0.5, 2.0),
    "nothing else, typical-p": (OFF, "typ_p", 0.2, 0.95),
    "nothing else, dynamic temperature": (OFF, "dynatemp_range", 0.1, 1.0),
    "mirostat 2, tau": ({"mirostat": 2}, "mirostat_tau", 2.0, 8.0),
    "nothing else, adaptive-p": (OFF, "adaptive_target", 0.01, 0.5),
    "everything, repeat penalty": (ALL, "repeat_penalty", 1.05, 1.5),
    "everything, DRY": (ALL, "dry_multiplier", 0.2, 1.0),
    "everything, top-p": (ALL, "top_p", 0.5, 0.99),
    "a grammar, top-p": ({"grammar": "root ::= [a-z ]+"}, "top_p", 0.5, 0.99),
}  # fmt: skip
"""Values of the chain, the slider that is dragged, and from where to where."""
CONDITIONS = {"flat": 1.0, "peaked": 6.0}
"""How sure the model is: the scores of random weights spread little, those of a trained model much."""


def both(engine) -> float:
    return processor_seconds() + processor_seconds(engine._worker.process.pid)


@pytest.mark.parametrize("sharpness", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_the_view_follows_a_slider(tmp_path, capsys, sharpness):
    model = write_random_model(
        tmp_path / "wide.gguf", fillers=VOCABULARY - SMALLEST_VOCABULARY, width=64, layers=1, sharpness=sharpness
    )
    slowest = (0.0, "")
    with load(LoadSettings(model=model, threads=1, n_ctx=512)) as engine:
        for name, (values, knob, low, high) in DRAGS.items():
            list(engine.stream("What was said, and said", {"seed": 1, **values}, plan=Plan(write=False)))
            engine.look()  # a grammar is asked once for the whole vocabulary
            times, processor = [], []
            for step in range(LOOKS):
                value = low + (high - low) * step / (LOOKS - 1)
                ahead, began = both(engine), perf_counter()
                view = engine.look(values={knob: int(value) if knob == "top_k" else value})
                times.append((perf_counter() - began) * 1e3)
                processor.append((both(engine) - ahead) * 1e3)
            with capsys.disabled():
                print(
                    f"\n{name}: median {median(times):.1f} ms, best {min(times):.1f}, worst {max(times):.1f}; of the "
                    f"processor median {median(processor):.1f}, worst {max(processor):.1f}; "
                    f"{view.stages[-1].after:,} of {VOCABULARY:,} left",
                    end="",
                )
            slowest = max(slowest, (median(processor), name))
    with capsys.disabled():
        print()
    assert slowest[0] < LIMIT_MS, slowest
