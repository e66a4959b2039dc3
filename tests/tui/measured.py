"""A report, plans and curves with fixed numbers, for pictures of the Measure and the Tune screen."""

from __future__ import annotations

import json
from typing import Any

from localknobs.evaluate.results import (
    ModelResult,
    NeedleCell,
    NeedleResult,
    PositionBucket,
    Report,
    Share,
    TextUsed,
)
from localknobs.evaluate.statistics import Divergence, Estimate
from localknobs.tui.child_job import JobEnded

MIB = 2**20
COMMAND = "localknobs eval some-Q8_0 some-Q4_K_M some-Q4_0 --base some-F16 --suite ppl,kld,needle,position"
NONE = Estimate(0.0, 0.0, 0.0, 0.0)


def _share(right: int, count: int) -> Share:
    return Share(right, count, right / count, 0.4, 0.9)


def _divergence(mean: float) -> Divergence:
    same = Estimate(1 - mean, 0.001, 0.0, 1.0)
    values = {
        "tokens": 4335, "mean": Estimate(mean, mean / 50, mean * 0.9, mean * 1.1), "median": mean / 2,
        "percentile_90": mean * 2, "percentile_95": mean * 3, "percentile_99": mean * 5, "percentile_999": mean * 9,
        "largest": mean * 20, "smallest": 0.0, "same_top": same, "mean_change": NONE, "rms_change": NONE,
        "log_ratio": Estimate(mean, mean / 50, mean * 0.9, mean * 1.1), "p_value": 0.01,
    }  # fmt: skip
    return Divergence(**{name: values.get(name, NONE) for name in Divergence.__dataclass_fields__})


def _model(quant: str, size: int, loss: float) -> ModelResult:
    cells = tuple(
        NeedleCell(length, depth, _share(2 if length == 512 else right, 3), -loss - right / 9)
        for length in (256, 512)
        for depth, right in ((0.0, 3), (0.5, 1), (1.0, 3))
    )
    position = tuple(
        PositionBucket(at * 64 + 1, at * 64 + 65, Estimate(9 - at / 3 + loss, 0.2, 8.0, 10.0), None) for at in range(8)
    )
    return ModelResult(
        f"some-{quant}", f"some-{quant}.gguf", "", quant, 1_000_000_000, size * MIB, 16.0 * size / 2000,
        (size + 120) * MIB, 4096, Estimate(9 + loss, 0.21, 8.0, 10.0), _divergence(loss) if loss else None, "exact",
        0.0, position, (), NeedleResult(_share(14, 18), cells, None), None, None,
    )  # fmt: skip


def report() -> Report:
    """Return a parent with three quants, of which one is beaten by another."""
    models = (
        _model("F16", 2000, 0.0),
        _model("Q8_0", 1060, 0.002),
        _model("Q4_K_M", 640, 0.05),
        _model("Q4_0", 660, 0.09),
    )
    used = TextUsed("localknobs-held-out", "ab" * 32, 20_000, 8704, 512, 17, 17, 4335)
    return Report(COMMAND, "now", "0.3.36", "2026-01-02T03:04:05+00:00", 74.0, 4, 1, "some-F16", models, used, used)


def plan() -> dict[str, Any]:
    """Return what `eval --dry-run --json` would say."""
    suites = [
        {"suite": name, "chosen": name in ("ppl", "kld"), "amount": "34,816 tokens", "seconds": seconds, "trouble": ""}
        for name, seconds in zip(("ppl", "kld", "tasks", "forgetting", "needle", "position", "speed"),
                                 (42.0, 42.0, None, 95.0, 120.0, 61.0, 30.0), strict=True)
    ]  # fmt: skip
    return {"suites": suites, "seconds": 72.0, "notes": []}


def training_plan() -> dict[str, Any]:
    """Return what `finetune --dry-run --json` would say."""
    shown = [["<|user|>\nmake it less random<|end|>\n<|assistant|>\n", False], ["--temp 0.2<|end|>", True]]
    return {
        "learn": 1800, "held_out": 200, "duplicates": 0, "shortest": 12, "longest": 61, "median": 24, "cut": 0,
        "tokens": 45_000, "learned": 16_200, "steps": 340, "seconds": 240.0,
        "price": "lora: it is 420 MiB of memory, of 16 GiB that are free.", "notes": [],
        "recipe": {"reasons": ["rank 16: a small model learns little by less"]}, "shown": shown,
    }  # fmt: skip


def training_curves() -> str:
    """Return the lines of a training that is half on its way."""
    lines: list[dict[str, Any]] = [{"step": 0, "steps": 340, "held_out": 3.1, "general": 2.0}]
    for step in range(1, 171):
        lines.append({"step": step, "loss": 0.4 + 2.6 / (1 + step / 20), "rate": 2e-4 * min(step / 20, 1 - step / 400),
                      "tokens": 1024, "took": 0.5})  # fmt: skip
        if step % 34 == 0:
            lines.append({"step": step, "held_out": 0.6 + 2.5 / (1 + step / 25), "general": 2.0 + step / 1700})
            lines.append({"step": step, "samples": [["make it less random", f"--temp 0.{step // 34}"]]})
    return "".join(f"{json.dumps(line)}\n" for line in lines)


class ToldPlan:
    """Stands for the child process that makes the plan of a measurement or of a training."""

    def __init__(self, arguments: Any, post: Any) -> None:
        told = training_plan() if arguments[0] == "finetune" else plan()
        post(JobEnded(self, 0, json.dumps(told), ""))  # type: ignore[arg-type]

    def kill(self) -> None:
        pass
