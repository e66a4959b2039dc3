"""A GGUF file in torch computes what transformers makes of the same file, and takes no more memory than the file."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from quantized_base import make_wide_base, quantized, write_config
from shaped_models import Shape, write_shaped_model

from localknobs.convert import torch_gguf
from localknobs.convert.gguf_checkpoint import write_checkpoint_of
from localknobs.convert.torch_gguf import QuantizedEmbedding, QuantizedLinear, load_gguf_model
from localknobs.errors import BadFile, Unsupported
from localknobs.gguf_info import read_header

TOKENS = torch.arange(5, 45)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_wide_base(tmp_path_factory.mktemp("base"))


def by_transformers(file):
    """What transformers itself reads out of a file: every matrix as numbers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "type_name",
    [
        "Q4_K",
        "Q6_K",
        *(pytest.param(name, marks=SLOW) for name in ("F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_K", "Q3_K", "Q2_K")),
    ],
)
def test_it_computes_what_transformers_makes_of_the_file(base, tmp_path, type_name):
    file = quantized(base, type_name, tmp_path)
    model, theirs = load_gguf_model(base, file), by_transformers(file)
    with torch.no_grad():
        assert torch.allclose(model(TOKENS).logits, theirs(TOKENS).logits, atol=1e-4)
    layer = model.model.layers[1].self_attn.q_proj
    assert isinstance(layer, QuantizedLinear) and layer.type_name == type_name
    assert torch.allclose(layer.weight, theirs.model.layers[1].self_attn.q_proj.weight, atol=1e-6), "rows in place"


def test_the_bytes_are_the_files_own(base, tmp_path):
    file = quantized(base, "Q4_K", tmp_path)
    header = read_header(file)
    model = load_gguf_model(base, file)
    held = [layer.blocks for layer in model.modules() if isinstance(layer, QuantizedLinear | QuantizedEmbedding)]
    counted = {blocks.data_ptr(): blocks.numel() for blocks in held}  # embedding and head are one
    matrices = {tensor.name: tensor for tensor in header.tensors if len(tensor.shape) == 2}
    assert sum(counted.values()) == sum(tensor.size_bytes for tensor in matrices.values())
    stored = matrices["blk.0.ffn_down.weight"]
    own = np.fromfile(file, np.uint8, stored.size_bytes, offset=header.data_start + stored.offset)
    assert np.array_equal(model.model.layers[0].mlp.down_proj.blocks.flatten().numpy(), own)


def test_gradients_are_those_of_the_same_numbers(base, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_gguf, "PIECE_VALUES", 5 * 512)  # five rows at once, and a rest
    file = quantized(base, "Q6_K", tmp_path)
    layer = load_gguf_model(base, file).model.layers[0].mlp.down_proj
    ours = torch.randn((2, 3, 512), requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    (layer(ours) ** 2).sum().backward()
    ((theirs @ layer.weight.T) ** 2).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_config_and_tokenizer_come_out_of_the_file(base, tmp_path):
    from transformers import AutoTokenizer

    file = quantized(base, "Q8_0", tmp_path)
    write_checkpoint_of(file, tmp_path / "made")
    theirs, ours = (AutoTokenizer.from_pretrained(folder) for folder in (base, tmp_path / "made"))
    asked = [{"role": "user", "content": "What does top-p do? 12"}]
    rendered = [tokenizer.apply_chat_template(asked, tokenize=False) for tokenizer in (theirs, ours)]
    assert rendered[0] == rendered[1]
    assert ours(rendered[0], add_special_tokens=False).input_ids == theirs(rendered[0]).input_ids
    both = [load_gguf_model(folder, file)(TOKENS).logits for folder in (base, tmp_path / "made")]
    assert torch.allclose(*both, atol=1e-5)


def test_a_file_of_another_shape_or_type_is_refused_by_name(base, tmp_path):
    file = quantized(base, "Q8_0", tmp_path)
    other = make_wide_base(tmp_path / "other", intermediate_size=256)
    with pytest.raises(BadFile, match=r"blk.0.ffn_gate.weight of .* has the shape \(512, 256\)") as raised:
        load_gguf_model(other, file)
    assert "--checkpoint" in raised.value.hint
    more = make_wide_base(tmp_path / "more", num_hidden_layers=3)
    with pytest.raises(BadFile, match=r"no tensor blk.2"):
        load_gguf_model(more, file)
    scaled = write_shaped_model(tmp_path / "y.gguf", Shape(keys={"rope.scaling.type": "yarn"}))
    with pytest.raises(Unsupported, match="rotary positions") as raised:
        write_checkpoint_of(scaled, tmp_path / "none")
    assert "--checkpoint" in raised.value.hint and not (tmp_path / "none").exists()


MEASURE = """
import sys
import torch
from pathlib import Path
from localknobs.convert.torch_gguf import load_gguf_model
import accelerate, transformers.models.llama.modeling_llama
torch.set_num_threads(1)
load_gguf_model(Path(sys.argv[3]), Path(sys.argv[4]))(torch.tensor([[1, 2]]))  # whatever is loaded once
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
before = peak()
model = load_gguf_model(Path(sys.argv[1]), Path(sys.argv[2]))
for parameter in model.model.norm.parameters(): parameter.requires_grad_()
hook = model.model.embed_tokens.register_forward_hook(lambda module, given, out: out.requires_grad_())
model(torch.arange(4)[None]).logits.sum().backward()
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_it_takes_the_memory_of_the_file_and_one_layer(tmp_path):
    numbers = {
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    shape = Shape(layers=16, width=1024, heads=16, kv_heads=4, feed_forward=2816, vocabulary=4096, kind="Q4_K")
    file, small = write_shaped_model(tmp_path / "a.gguf", shape), write_shaped_model(tmp_path / "b.gguf", Shape())
    whole = write_config(tmp_path / "a", **numbers)
    little = write_config(
        tmp_path / "b", hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, head_dim=64, vocab_size=2048, tie_word_embeddings=False,
    )  # fmt: skip
    command = [sys.executable, "-c", MEASURE, *map(str, (whole, file, little, small))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, stored = int(found.stdout), read_header(file).tensor_bytes
    one_layer = 4 * 1024 * (2 * 1024 + 2 * 256 + 3 * 2816)
    assert 0.9 * stored < taken < stored + one_layer, (taken, stored, one_layer)
    assert taken < 0.25 * 4 * read_header(file).parameters, "far from what the numbers take"
