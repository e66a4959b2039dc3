"""Run as a process of its own: reads chunks, bare and measuring, in turns; prints seconds and memory as JSON.

Arguments: threads, tokens of a chunk, chunks, rounds, mode (ppl, exact, bounded), models (the parent first).
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from localknobs.engine.llama import send_log_to_stderr
from localknobs.evaluate.kept import KeptLogits
from localknobs.evaluate.models import PIECE_BYTES, open_models
from localknobs.evaluate.reading import read_text


class Silent:
    """Stands for the worker: takes orders from here, and says nothing."""

    def __init__(self) -> None:
        self.models, self.enough, self.records = [], threading.Event(), 0

    def say(self, message) -> None:
        self.records += "record" in message


def peak_bytes() -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))


def bare(models, tokens, size) -> None:
    """Compute the same calls with the same wanted logits, and look at none."""
    rows = max(1, PIECE_BYTES // (4 * max(one.model.vocabulary_size for one in models)))
    for begin in range(0, len(tokens), size):
        for one in models:
            one.clear()
            for logits in one.logits(tokens[begin : begin + size], size // 2, rows):
                logits[0, 0]


def main(threads: int, size: int, chunks: int, rounds: int, mode: str, *paths: str) -> None:
    send_log_to_stderr()
    worker = Silent()
    folder = Path(tempfile.mkdtemp())
    random = np.random.default_rng(1)
    text = folder / "text.txt"
    letters = random.integers(33, 126, 8 * size * chunks, np.uint8).tobytes().decode()
    text.write_text(letters, encoding="utf-8")
    settings = [{"model": path, "n_gpu_layers": 0} for path in paths]
    models = [{"number": at, "label": Path(path).stem, "settings": one, "adapters": []} for at, (path, one) in
              enumerate(zip(paths, settings, strict=True))]  # fmt: skip
    open_models(worker, {"models": models, "context": size, "threads": threads, "extra": False})
    tokens = worker.models[0].tokens_of(letters)[: size * chunks]
    bare(worker.models, tokens[:size], size)
    before = peak_bytes()
    order = {
        "text": str(text),
        "chunk": size,
        "first": size // 2,
        "chunks": list(range(chunks)),
        "base": mode == "exact",
    }
    orders = [order]
    if mode == "bounded":
        kept = folder / "kept"
        KeptLogits.create(kept, chunks * (size - 1 - size // 2), worker.models[0].model.vocabulary_size)
        orders = [{**order, "keep": str(kept)}, {**order, "against": str(kept)}]
    plain, measured, plain_cpu, measured_cpu = [], [], [], []
    for _ in range(rounds):
        for one in orders:
            began, cpu = perf_counter(), process_time()
            bare(worker.models, tokens, size)
            plain.append(perf_counter() - began)
            plain_cpu.append(process_time() - cpu)
            began, cpu = perf_counter(), process_time()
            read_text(worker, one)
            measured.append(perf_counter() - began)
            measured_cpu.append(process_time() - cpu)
    assert worker.records == rounds * len(orders) * chunks * len(worker.models)
    print(json.dumps({
        "bare": plain, "measured": measured, "bare_cpu": plain_cpu, "measured_cpu": measured_cpu,
        "extra_bytes": peak_bytes() - before,
    }))  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), *sys.argv[5:])
