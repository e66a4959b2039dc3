"""How fast a model reads and writes here, over threads, batches, offload and cache types; remembered for `fit`."""

from __future__ import annotations

from localknobs.bench.config import BenchConfig, Case, CaseResult, cases
from localknobs.bench.record import speed_record
from localknobs.bench.run import bench

__all__ = ["BenchConfig", "Case", "CaseResult", "bench", "cases", "speed_record"]
