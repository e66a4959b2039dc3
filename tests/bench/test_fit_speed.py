"""How soon a slider has its price: the first one, which starts the child, and the next ones, on models people use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from shaped_models import REAL, write_shaped_model

from localknobs.engine import LoadSettings
from localknobs.fit.cards import GIB, find_cards
from localknobs.fit.formula import computed_bill
from localknobs.fit.machine import FitMachine
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import read_header

pytestmark = pytest.mark.bench
PROCESSOR = FitMachine(64 * GIB, 60 * GIB, 30e9)
MACHINES = {"processor": PROCESSOR, "RTX 4090": replace(PROCESSOR, cards=tuple(find_cards("RTX 4090")), simulated=True)}


def milliseconds(began: float) -> float:
    return 1000 * (perf_counter() - began)


@pytest.mark.parametrize("where", MACHINES)
def test_prices(tmp_path: Path, where: str) -> None:
    machine = MACHINES[where]
    print(
        f"\n{where:20}{'first':>8}{'context':>9}{'cache type':>11}{'layers':>8}{'formula':>9}   milliseconds, medians"
    )
    for name in ("Llama-3.1-8B", "Qwen3-30B-A3B", "gemma-3-12b", "DeepSeek-V2-Lite"):
        header = read_header(write_shaped_model(tmp_path / "model.gguf", REAL[name]))
        settings = LoadSettings(model=header.path, n_ctx=4096)
        with Pricer([header], machine) as pricer:
            began = perf_counter()
            assert pricer.price(settings).method == "planned"
            first = milliseconds(began)
            series = {
                "context": [replace(settings, n_ctx=1024 * step) for step in range(5, 25)],
                "type": [replace(settings, n_ctx=1024 * step, cache_type_k="q8_0") for step in range(5, 25)],
                "layers": [replace(settings, n_gpu_layers=layers) for layers in range(1, 21)],
            }
            times = {}
            for what, wanted in series.items():
                times[what] = []
                for one in wanted:
                    began = perf_counter()
                    pricer.price(one)
                    times[what].append(milliseconds(began))
        formula = []
        for one in series["context"]:
            began = perf_counter()
            computed_bill([header], one, machine)
            formula.append(milliseconds(began))
        print(
            f"{name:20}{first:8.0f}{median(times['context']):9.1f}{median(times['type']):11.1f}"
            f"{median(times['layers']):8.1f}{median(formula):9.2f}   slowest {max(map(max, times.values())):.0f}"
        )
