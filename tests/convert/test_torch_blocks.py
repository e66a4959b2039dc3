"""Torch reads ggml's blocks to the same numbers as gguf.quants, bit by bit, and as ggml itself."""

import gguf
import numpy as np
import pytest
import torch

from localknobs.convert.ggml import FLOAT_TYPES, TYPE_NUMBERS, quantize_rows, row_bytes, to_floats
from localknobs.convert.torch_blocks import READABLE, block_shape, check_readable, dequantize, values_of
from localknobs.errors import Unsupported

ROWS, COLUMNS = 24, 768


def stored(type_name):
    values = np.random.default_rng(7).standard_normal((ROWS, COLUMNS)).astype(np.float32) * 0.05
    values[3, :32] = 0.0  # a block without any scale
    out = np.empty(ROWS * row_bytes(type_name, COLUMNS), np.uint8)
    if type_name in FLOAT_TYPES:
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_name]).view(np.uint8).reshape(-1)
    assert quantize_rows(type_name, values, out, None)
    return out


@pytest.mark.parametrize("type_name", READABLE)
def test_the_numbers_are_those_of_gguf_and_of_ggml(type_name):
    data = stored(type_name)
    blocks = torch.from_numpy(data).reshape(-1, block_shape(type_name)[1])
    found = dequantize(type_name, blocks).reshape(-1).numpy()
    kind = gguf.GGMLQuantizationType(TYPE_NUMBERS[type_name])
    view = {"F32": np.float32, "F16": np.float16}.get(type_name, np.uint8)
    assert np.array_equal(found, gguf.quants.dequantize(data.view(view).reshape(ROWS, -1), kind).reshape(-1))
    own = np.empty(ROWS * COLUMNS, np.float32)
    to_floats(type_name, data, own)
    assert np.array_equal(values_of(type_name, blocks).reshape(-1).numpy(), own)
    # ggml's compiler joins a product and a sum into one rounding, so types with an offset may differ by one.
    assert np.allclose(found, own, rtol=0, atol=2e-7)


def test_any_bytes_are_read_as_gguf_reads_them():
    data = np.random.default_rng(3).integers(0, 256, (64, 144), dtype=np.uint8)
    data[:, 1] &= 0x3F  # scales that are finite
    data[:, 3] &= 0x3F
    found = dequantize("Q4_K", torch.from_numpy(data))
    assert np.array_equal(found.numpy(), gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_K))


def test_a_type_that_cannot_be_read_is_refused_by_name():
    check_readable("IQ4_XS", on_processor=True, where="blk.0.attn_q.weight")
    with pytest.raises(Unsupported, match="blk.0.attn_q.weight is of the type IQ4_XS") as raised:
        check_readable("IQ4_XS", on_processor=False, where="blk.0.attn_q.weight")
    assert "Q4_K" in raised.value.hint
    with pytest.raises(Unsupported, match="I32"):
        check_readable("I32", on_processor=True, where="x")
