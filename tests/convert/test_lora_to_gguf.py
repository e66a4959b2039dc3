"""Adapters as GGUF files: beside their base, llama.cpp computes what the merged model computes; refusals by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from program import PROGRAM
from safetensors.torch import load_file, save_file
from tiny_adapters import save_adapter
from tiny_checkpoints import make_checkpoint

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.lora_to_gguf import LoraConfig, convert_lora, plan_lora
from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound, Unsupported
from localknobs.gguf_info import read_header
from localknobs.gguf_info.base_mark import BASE_MARK, norms_mark
from localknobs.jobs import drain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
PATTERNS = dict(r=4, lora_alpha=6, rank_pattern={"q_proj": 3, "down_proj": 7}, alpha_pattern={"k_proj": 11})
TOKENS = list(range(5, 29))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base") / "llama", "llama")


def to_gguf(base: Path, output: Path, *adapters: Path) -> Path:
    loras = tuple(map(LoraChoice, adapters))
    return drain(convert(ConvertConfig(base, output, "f32", loras, check_tokens=False)))


def adapter_to_gguf(adapter: Path, base: Path | None, output: Path, out_type: str = "f32") -> Path:
    return drain(convert_lora(plan_lora(LoraConfig(adapter, base, output, out_type))))


def logits(model: Path, adapter: Path | None = None) -> np.ndarray:
    """Return llama.cpp's logits, with an adapter at scale 1."""
    out = model.with_suffix(".npy")
    script = str(Path(__file__).with_name("llama_logits.py"))
    words = [sys.executable, script, str(model), json.dumps(TOKENS), str(out), *([str(adapter)] if adapter else [])]
    subprocess.run(words, check=True)
    return np.load(out)


def assert_computes_the_merged_model(base: Path, adapter: Path, tmp_path: Path) -> Path:
    """Compare the adapter beside its base with the merged model, and see that it changes something."""
    plain = to_gguf(base, tmp_path / "plain.gguf")
    merged = logits(to_gguf(base, tmp_path / "merged.gguf", adapter))
    file = adapter_to_gguf(adapter, base, tmp_path / "adapter.gguf")
    assert np.abs(logits(plain) - merged).max() > 0.05
    np.testing.assert_allclose(logits(plain, file), merged, atol=5e-4)
    assert read_header(file).text(BASE_MARK) == norms_mark(read_header(plain)) != "", "it would be refused on its base"
    return file


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("llama", dict(r=4, lora_alpha=7, target_modules=ALL)),
        ("llama", dict(use_rslora=True, target_modules=ALL, **PATTERNS)),
        ("llama", dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "lm_head", "q_proj"])),
        ("llama-tied", dict(target_modules=ATTENTION, **PATTERNS)),
        ("qwen2", dict(r=4, lora_alpha=8, target_modules=ALL)),
        ("gemma2", dict(r=4, lora_alpha=8, target_modules=ALL)),
        ("phi3", dict(r=4, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
        ("granite", dict(r=4, lora_alpha=8, target_modules=ALL)),
    ],
)
def test_beside_its_base_it_computes_the_merged_model(tmp_path, case, settings):
    base = make_checkpoint(tmp_path / "base", case)
    adapter = save_adapter(base, tmp_path / "adapter", **settings)
    file = assert_computes_the_merged_model(base, adapter, tmp_path)
    header = read_header(file)
    assert header.metadata["general.type"] == "adapter"
    assert header.metadata["adapter.lora.alpha"] == 0


def save_expert_adapter(base: Path, folder: Path, experts: int) -> Path:
    """Save an adapter of attention and single experts, as peft named them before experts were stacked."""
    random = torch.Generator().manual_seed(3)
    weights = {}
    shapes = {name: tuple(value.shape) for name, value in load_file(base / "model.safetensors").items()}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        expert = int(module.split(".experts.")[1].split(".")[0]) if ".experts." in module else -1
        if len(shape) == 2 and expert < experts and (expert >= 0 or module.endswith("q_proj")):
            rank = 2 if module.endswith(".w1") else 3
            weights[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, shape[1], generator=random) * 0.2
            weights[f"base_model.model.{module}.lora_B.weight"] = torch.randn(shape[0], rank, generator=random) * 0.2
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"], "rank_pattern": {"w1": 2}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_experts_are_stacked(tmp_path):
    base = make_checkpoint(tmp_path / "base", "mixtral")
    adapter = save_expert_adapter(base, tmp_path / "adapter", experts=4)
    assert_computes_the_merged_model(base, adapter, tmp_path)


def test_experts_alone_are_refused(tmp_path):
    base = make_checkpoint(tmp_path / "base", "mixtral")
    adapter = save_expert_adapter(base, tmp_path / "adapter", experts=2)
    refused(Unsupported, adapter, base, tmp_path, "experts.0.w1.weight without its like", "localknobs merge")


def test_the_scale_of_a_module_is_in_its_factors(llama, tmp_path):
    adapter = save_adapter(
        llama, tmp_path / "adapter", use_rslora=True, target_modules=["v_proj", "down_proj"], **PATTERNS
    )
    tensors = {
        tensor.name: tensor.data for tensor in GGUFReader(adapter_to_gguf(adapter, llama, tmp_path / "a.gguf")).tensors
    }
    stored = load_file(adapter / "adapter_model.safetensors")
    for module, new, rank in (("self_attn.v_proj", "attn_v", 4), ("mlp.down_proj", "ffn_down", 7)):
        name = f"base_model.model.model.layers.1.{module}"
        assert np.array_equal(tensors[f"blk.1.{new}.weight.lora_a"], stored[f"{name}.lora_A.weight"].numpy())
        expected = stored[f"{name}.lora_B.weight"].numpy() * np.float32(6 / rank**0.5)
        assert np.array_equal(tensors[f"blk.1.{new}.weight.lora_b"], expected)


@pytest.mark.parametrize("out_type", ["f16", "bf16"])
def test_smaller_types(llama, tmp_path, out_type):
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=ALL)
    file = adapter_to_gguf(adapter, llama, tmp_path / "adapter.gguf", out_type)
    assert {tensor.type_name for tensor in read_header(file).tensors} == {out_type.upper()}
    plain = to_gguf(llama, tmp_path / "plain.gguf")
    merged = logits(to_gguf(llama, tmp_path / "merged.gguf", adapter))
    np.testing.assert_allclose(logits(plain, file), merged, atol=0.05)


def test_the_bases_config_is_enough(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=[*ALL, "embed_tokens"])
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(llama / "config.json", bare)
    whole, alone = tmp_path / "whole.gguf", tmp_path / "alone.gguf"
    adapter_to_gguf(adapter, None, whole)  # the adapter says where its base is
    adapter_to_gguf(adapter, bare, alone)
    ours, theirs = ({tensor.name: tensor.data for tensor in GGUFReader(file).tensors} for file in (whole, alone))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


# ---- what it cannot hold -----------------------------------------------------------------------


def refused(kind: type[LocalknobsError], adapter: Path, base: Path | None, tmp_path: Path, *words: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind) as caught:
        adapter_to_gguf(adapter, base, tmp_path / "adapter.gguf")
    for word in words:
        assert word in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(use_dora=True, target_modules=["q_proj"]), ["DoRA"]),
        (dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), ["lm_head.weight as a whole"]),
        (dict(target_modules=["q_proj"], trainable_token_indices=[3]), ["model.embed_tokens as a whole"]),
        (dict(target_modules=["q_proj"], bias="all"), [".bias as a whole"]),
        (dict(target_modules=["q_proj"], lora_bias=True), ["biases"]),
    ],
)
def test_more_than_pairs(llama, tmp_path, settings, words):
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, **settings)
    refused(Unsupported, adapter, llama, tmp_path, *words, "localknobs merge")


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_one_tensor_for_embeddings_and_head(tmp_path, module):
    base = make_checkpoint(tmp_path / "base", "llama-tied")
    adapter = save_adapter(base, tmp_path / "adapter", r=4, target_modules=[module, "q_proj"])
    refused(Unsupported, adapter, base, tmp_path, module, "one tensor for embeddings and head")


def test_another_base(llama, tmp_path):
    other = make_checkpoint(tmp_path / "other", "llama", intermediate_size=128)
    adapter = save_adapter(other, tmp_path / "adapter", r=4, target_modules=ALL)
    refused(BadValue, adapter, llama, tmp_path, "model.layers.0.mlp.down_proj.weight", "(64, 96)", "(64, 128)")
    refused(NotFound, adapter, tmp_path, tmp_path, "has no config.json", "--base")


def test_a_value_that_is_no_number_leaves_no_file(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    weights[name][3, 1] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors")
    refused(BadFile, adapter, llama, tmp_path, name, "adapter_model.safetensors", "nan")


def test_the_verb(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    words = [PROGRAM, "convert", adapter, "--base", llama, "-o", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "adapter-F32.gguf"))
    assert read_header(tmp_path / "adapter-F32.gguf").metadata["adapter.type"] == "lora"
    wrong = subprocess.run([*words, "--outtype", "q8_0"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "An adapter cannot be of the type q8_0. One of: f32, f16, bf16." in wrong.stderr
