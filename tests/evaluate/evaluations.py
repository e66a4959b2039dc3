"""Shared by the tests of measuring: random models of one parent, and logits of llama.cpp taken apart from our code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from localknobs.engine import LoadSettings
from localknobs.evaluate.config import EvalConfig, Variant
from localknobs.evaluate.run import evaluate, plan_eval
from localknobs.jobs import drain


def variant(path: Path, **settings) -> Variant:
    return Variant(path.stem, LoadSettings(model=path, n_gpu_layers=0, **settings))


def config_of(models, base=None, **fields) -> EvalConfig:
    """Return what is to be measured on one thread, in small chunks."""
    return EvalConfig(
        models=tuple(variant(model) for model in models), base=variant(base) if base else None,
        threads=1, plan_memory=False,
        **{"suites": ("ppl", "kld") if base else ("ppl",), "chunk_tokens": 64, **fields},
    )  # fmt: skip


def measure(models, base=None, on_event=None, **fields):
    """Measure; return the report."""
    return drain(evaluate(plan_eval(config_of(models, base, **fields))), on_event)


def raw_logits(model: Path, text: Path, size: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return llama.cpp's logits of a text's chunks and its tokens, by a process that knows nothing of this program."""
    out = folder / f"{model.stem}.npz"
    script = Path(__file__).with_name("raw_logits.py")
    subprocess.run([sys.executable, str(script), str(model), str(text), str(size), str(out)], check=True)
    found = np.load(out)
    return found["logits"], found["tokens"]
