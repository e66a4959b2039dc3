"""Predicted against really allocated, by llama.cpp's own account after a real load; `-s` prints the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shaped_models import SMALL, write_shaped_model

from localknobs.engine import LoadSettings
from localknobs.fit.bill import Bill
from localknobs.fit.formula import computed_bill
from localknobs.fit.machine import FitMachine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import read_headers
from localknobs.paths import built_in_model

MIB = 2**20
MACHINE = FitMachine(64 * 2**30, 60 * 2**30, 30e9)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("built-in", {"n_ctx": 1024}),
    ("built-in", {"n_ctx": 4096, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
    ("llama", {"n_ctx": 512}),
    ("llama", {"n_ctx": 16384, "n_batch": 512, "n_ubatch": 128}),
    ("llama", {"n_ctx": 4096, "flash_attn": "off"}),
    ("llama-tied", {"n_ctx": 8192, "cache_type_k": "q8_0", "cache_type_v": "q4_0", "flash_attn": "on"}),
    ("mixtral", {"n_ctx": 4096, "n_ubatch": 1024}),
    ("qwen3", {"n_ctx": 8192, "cache_type_k": "bf16", "cache_type_v": "bf16"}),
    ("qwen3moe", {"n_ctx": 4096, "n_ubatch": 256}),
    ("gemma2", {"n_ctx": 8192}),
    ("gemma2", {"n_ctx": 8192, "swa_full": "on", "flash_attn": "off"}),
    ("gemma3", {"n_ctx": 16384}),
    ("gemma3", {"n_ctx": 4096, "cache_type_k": "f32", "cache_type_v": "f32"}),
    ("phi3", {"n_ctx": 4096, "cache_type_k": "q5_1"}),
    ("gpt-oss", {"n_ctx": 8192, "n_ubatch": 64}),
    ("gpt-oss", {"n_ctx": 4096, "swa_full": "on"}),
    ("deepseek2", {"n_ctx": 8192}),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shaped")
    files = {name: write_shaped_model(folder / f"{name}.gguf", shape) for name, shape in SMALL.items()}
    return {**files, "built-in": built_in_model()}


def really_allocated(cases: list[tuple[str, dict[str, Any]]], models: dict[str, Path]) -> list[dict[str, int]]:
    lines = "".join(json.dumps({"model": str(models[name]), **knobs}) + "\n" for name, knobs in cases)
    script = Path(__file__).with_name("real_account.py")
    child = subprocess.run([sys.executable, script], input=lines, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()]


def amount(bill: Bill) -> int:
    return bill.weights + bill.cache + bill.compute


def test_the_bill_is_what_llama_cpp_allocates(models: dict[str, Path]) -> None:
    print(f"\n{'model':11}{'settings':66}{'real':>10}{'planned':>10}{'formula':>10}  MiB")
    with Planning() as planning:
        for (name, knobs), real in zip(CASES, really_allocated(CASES, models), strict=True):
            settings = LoadSettings(model=models[name], **knobs)
            headers = read_headers(models[name])
            with Pricer(headers, MACHINE, planning=planning) as pricer:
                bill = pricer.price(settings)
            assert bill.method == "planned", bill.notes
            formula = computed_bill(headers, settings, MACHINE)
            whole = sum(real.values())
            shown = " ".join(f"{key}={value}" for key, value in knobs.items())
            print(
                f"{name:11}{shown:66}{whole / MIB:10.2f}{amount(bill) / MIB:10.2f}{amount(formula) / MIB:10.2f}"
                f"  {amount(bill) / whole - 1:+.2%} {amount(formula) / whole - 1:+.2%}"
            )
            assert abs(amount(bill) - whole) <= max(0.01 * whole, 8 * MIB)
            assert bill.cache == real["cache"]
            assert abs(bill.compute - real["compute"]) <= MIB
            assert abs(amount(formula) - whole) <= 0.05 * whole
            assert formula.cache == real["cache"]
