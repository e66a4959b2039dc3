"""A GGUF file of every family computes in torch what its checkpoint computes: rows, shifts and biases in place."""

import numpy as np
import pytest
import torch
from conversions import convert_to
from tiny_checkpoints import FAMILIES, expected_logits

from localknobs.convert.outline import outline_of
from localknobs.convert.torch_gguf import load_gguf_model
from localknobs.errors import Unsupported
from localknobs.gguf_info import read_header

TOKENS = [1, 5, 9, 44, 120, 7, 61, 300, 12, 3]
MIXTURES = {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"}
STACKED = {"stablelm-norms"}  # the norms of all heads are one tensor in the file


@pytest.mark.parametrize("case", sorted(set(FAMILIES) - MIXTURES - STACKED))
def test_the_logits_are_those_of_the_checkpoint(case, checkpoint, tmp_path):
    folder = checkpoint(case)
    file = convert_to(tmp_path / "model.gguf", folder, outtype="f32")
    with torch.no_grad():
        found = load_gguf_model(folder, file)(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(found, expected_logits(folder, TOKENS), rtol=0, atol=1e-4)
    names = {name for name in outline_of([read_header(file)]).names() if ".layers.0." in name}
    assert any("_proj" in name for name in names), "what can get an adapter is told from the header alone"


@pytest.mark.parametrize("case", sorted(MIXTURES | STACKED))
def test_what_the_file_holds_together_is_refused_by_name(case, checkpoint, tmp_path):
    folder = checkpoint(case)
    file = convert_to(tmp_path / "model.gguf", folder)
    with pytest.raises(Unsupported) as raised:
        load_gguf_model(folder, file)
    assert "--method lora" in raised.value.hint
