"""How long a quantization will take: each of its types is tried on a little noise, on one thread."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from localknobs.convert.ggml import Floats, block_size, quantize_rows, row_bytes
from localknobs.convert.quantize import QuantizePlan
from localknobs.hardware import logical_cores

_COLUMNS, _ROWS = 1024, 32
_OVERHEAD = 1.15
"""What reading, widening and writing add, where they do not wait for the disk (measured: 1.05 to 1.15)."""


def estimated_seconds(plan: QuantizePlan) -> float:
    """Return about how long a plan will take on a machine that does nothing else; takes up to a second itself.

    The code books of the IQ types, which ggml makes once, for IQ1 in 8 seconds, are made here and not counted.
    """
    values: dict[str, int] = {}
    for file in plan.files:
        for tensor in file.tensors:
            if not tensor.is_copied:
                count = tensor.source.rows * tensor.source.columns
                values[tensor.type_name] = values.get(tensor.type_name, 0) + count
    sample = np.random.default_rng(0).standard_normal((_ROWS, _COLUMNS), np.float32)
    seconds = sum(count * _seconds_a_value(name, sample) for name, count in values.items())
    return _OVERHEAD * seconds / (plan.config.threads or logical_cores())


def _seconds_a_value(type_name: str, sample: Floats) -> float:
    assert _COLUMNS % block_size(type_name) == 0
    out = np.empty(_ROWS * row_bytes(type_name, _COLUMNS), np.uint8)
    weights = np.ones(_COLUMNS, np.float32)
    quantize_rows(type_name, sample[:1], out[: out.size // _ROWS], weights)
    times = []
    for _ in range(2):
        began = perf_counter()
        quantize_rows(type_name, sample, out, weights)
        times.append(perf_counter() - began)
    return min(times) / sample.size
