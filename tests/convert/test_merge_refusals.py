"""Merging refused: adapters that do not fit, by the names of their modules, and values that are no numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from merging import ALL, KINDS, merge_to
from safetensors.torch import load_file, save_file
from tiny_adapters import (
    save_adapter,
    save_gpt2,
    save_llama,
)

from localknobs.convert.adapter import LoraChoice, parse_lora
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotEnough, NotFound, Unsupported

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def refused(base: Path, adapter: Path, tmp_path: Path, kind: type[LocalknobsError], *words: str) -> None:
    """Expect that planning refuses, with these words, and that nothing is written."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind) as caught:
        merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    for word in words:
        assert word in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_base_with_fewer_layers(llama, tmp_path):
    other = save_llama(tmp_path / "other", num_hidden_layers=3)
    adapter = save_adapter(other, tmp_path / "adapter", r=4, target_modules=["q_proj", "v_proj"])
    refused(llama, adapter, tmp_path, BadValue, "the base has no model.layers.2.self_attn.q_proj", str(other))


def test_a_base_of_other_widths(llama, tmp_path):
    other = save_llama(tmp_path / "other", intermediate_size=112)
    adapter = save_adapter(other, tmp_path / "adapter", r=4, target_modules=["down_proj"])
    refused(llama, adapter, tmp_path, BadValue, "model.layers.0.mlp.down_proj.weight", "(64, 96)", "(64, 112)")


def test_a_base_of_another_kind(llama, tmp_path):
    gpt2 = save_gpt2(tmp_path / "gpt2")
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, target_modules=ALL)
    refused(gpt2, adapter, tmp_path, BadValue, "does not fit", "and 11 more of its modules")


def edited_adapter(llama: Path, tmp_path: Path, edit) -> Path:
    """Return an adapter whose weights were changed by `edit`."""
    adapter = save_adapter(llama, tmp_path / "adapter", r=4, target_modules=["q_proj"])
    weights = load_file(adapter / "adapter_model.safetensors")
    edit(weights)
    save_file(weights, adapter / "adapter_model.safetensors")
    return adapter


Q = "base_model.model.model.layers.1.self_attn.q_proj"


def test_a_factor_that_is_missing(llama, tmp_path):
    adapter = edited_adapter(llama, tmp_path, lambda weights: weights.pop(f"{Q}.lora_B.weight"))
    refused(llama, adapter, tmp_path, BadFile, "model.layers.1.self_attn.q_proj the factor B is missing")


def test_a_rank_that_the_config_does_not_say(llama, tmp_path):
    adapter = edited_adapter(llama, tmp_path, lambda weights: weights.update({f"{Q}.lora_A.weight": torch.ones(5, 64)}))
    refused(llama, adapter, tmp_path, BadFile, "layers.1.self_attn.q_proj has rank 4", "(5, 64)")


def test_a_tensor_of_no_known_kind(llama, tmp_path):
    adapter = edited_adapter(llama, tmp_path, lambda weights: weights.update({f"{Q}.lora_C.weight": torch.ones(5)}))
    refused(llama, adapter, tmp_path, Unsupported, "lora_C")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number(llama, tmp_path, value):
    adapter = edited_adapter(llama, tmp_path, lambda weights: weights[f"{Q}.lora_B.weight"].fill_(value))
    refused(llama, adapter, tmp_path, BadFile, f"{Q}.lora_B.weight", "adapter_model.safetensors", str(value))


def test_an_adapter_that_overflows(llama, tmp_path):
    def enlarge(weights):
        weights[f"{Q}.lora_A.weight"].fill_(1e30)
        weights[f"{Q}.lora_B.weight"].fill_(1e30)

    adapter = edited_adapter(llama, tmp_path, enlarge)
    refused(llama, adapter, tmp_path, BadFile, "model.layers.1.self_attn.q_proj.weight has values that are infinite")


def test_a_result_too_large_for_its_type(llama, tmp_path):
    adapter = edited_adapter(llama, tmp_path, lambda weights: weights[f"{Q}.lora_B.weight"].fill_(1e8))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadFile, match=r"layers.1.self_attn.q_proj.weight has the value .* too large for F16"):
        merge_to(llama, [(adapter, 1.0)], tmp_path / "merged", out_type="f16")
    assert sorted(tmp_path.iterdir()) == before


def test_two_adapters_that_replace_the_same(llama, tmp_path):
    adapters = [
        (save_adapter(llama, tmp_path / f"adapter{at}", seed=at, **KINDS["whole modules"]), 1.0) for at in range(2)
    ]
    with pytest.raises(BadValue, match="both train"):
        merge_to(llama, adapters, tmp_path / "merged")


def test_a_quantized_base(llama, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    refused(base, adapter, tmp_path, Unsupported, "is quantized")


def test_an_output_that_exists(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    refused(llama, adapter, tmp_path, BadValue, "exists already")
    refused(llama, tmp_path / "none", tmp_path, NotFound, "There is no adapter")
    refused(llama, llama, tmp_path, NotFound, "has no adapter_config.json")


@pytest.mark.parametrize(
    ("text", "path", "scale"), [("a", "a", 1.0), ("a:0.5", "a", 0.5), ("a:-1", "a", -1.0), ("a:b", "a:b", 1.0)]
)
def test_how_an_adapter_is_named(text, path, scale):
    assert parse_lora(text) == LoraChoice(Path(path), scale)


def test_a_scale_that_is_not_finite():
    with pytest.raises(BadValue, match="cannot be inf"):
        parse_lora("a:inf")


def test_too_little_disk_is_said_before(llama, tmp_path, monkeypatch):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    refused(llama, adapter, tmp_path, NotEnough, "will be written", "1,000 B free")
