"""How much of the speed of reading a prompt is left when every token is measured, and how much memory that takes.

Bare and measured reading use the same calls, the same wanted logits and the same threads, and take turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from random_model import write_random_model

pytestmark = pytest.mark.bench
SCRIPT = Path(__file__).with_name("reading_speed.py")


def compare(capsys, what: str, *, threads: int, size: int, chunks: int, rounds: int, mode: str, models: list[Path]):
    words = [threads, size, chunks, rounds, mode, *models]
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True)  # fmt: skip
    found = json.loads(done.stdout)
    pairs = [bare / measured for bare, measured in zip(found["bare"], found["measured"], strict=True)]
    tokens = size * chunks * len(models)
    with capsys.disabled():
        print(
            f"\n{what}, {threads} threads: bare {tokens / median(found['bare']):,.0f} tokens/s, measured "
            f"{tokens / median(found['measured']):,.0f}, ratio {median(pairs):.3f} "
            f"({', '.join(f'{pair:.3f}' for pair in pairs)}); extra memory {found['extra_bytes'] / 1e6:,.0f} MB; "
            f"all threads' work: {median(found['measured_cpu']) / median(found['bare_cpu']):.3f} of bare"
        )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", ["ppl", "exact", "bounded"])
def test_built_in_model(built_in, capsys, mode, threads):
    models = [built_in, built_in] if mode == "exact" else [built_in]
    compare(capsys, f"built-in {mode}", threads=threads, size=512, chunks=8, rounds=5, mode=mode, models=models)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of 0.5 billion parameters, of which a vocabulary of 150,000 takes more than half."""
    return write_random_model(
        tmp_path_factory.mktemp("large") / "random-0.5b.gguf", layers=12, width=1024, heads=16, kv_heads=8,
        feed_forward=2816, fillers=150_000 - 261, context=1024, kind="Q8_0",
    )  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", ["ppl", "exact", "bounded"])
def test_a_vocabulary_of_150_000(large, capsys, mode, threads):
    models = [large, large] if mode == "exact" else [large]
    compare(capsys, f"150,000 tokens {mode}", threads=threads, size=512, chunks=2, rounds=2, mode=mode, models=models)
