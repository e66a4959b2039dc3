"""Merging: peft's own result, bit for bit, of every kind of adapter; and what peft's merge gets wrong."""

import json

import numpy as np
import peft
import pytest
import torch
from merging import ALL, KINDS, assert_same_weights, merge_to, open_both
from safetensors.torch import load_file, save_file
from tiny_adapters import (
    VOCABULARY,
    adapted,
    load,
    logits,
    merged_by_peft,
    save_adapter,
    save_gpt2,
    save_llama,
    save_tokenizer,
)

from localknobs.convert.adapter import LoraChoice, open_adapter
from localknobs.convert.checkpoint import open_checkpoint
from localknobs.convert.merge import MergedSource, open_source
from localknobs.errors import BadValue, Unsupported

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_pefts_own_merge_bit_for_bit(llama, tmp_path, kind):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS[kind])
    folder = merge_to(llama, [(adapter, 1.0)], tmp_path / "merged")
    assert_same_weights(folder, merged_by_peft(llama, [(adapter, 1.0)]))


def test_biases_of_adapters_and_trained_biases(tmp_path):
    base = save_llama(tmp_path / "base", attention_bias=True, mlp_bias=True)
    for at, settings in enumerate((dict(lora_bias=True), dict(bias="all"), dict(bias="lora_only"))):
        adapter = save_adapter(base, tmp_path / f"adapter{at}", r=4, lora_alpha=8, target_modules=ALL, **settings)
        folder = merge_to(base, [(adapter, 1.0)], tmp_path / f"merged{at}")
        assert_same_weights(folder, merged_by_peft(base, [(adapter, 1.0)]))


@pytest.mark.parametrize("settings", [dict(), dict(use_dora=True)])
def test_transposed_layers(tmp_path, settings):
    base = save_gpt2(tmp_path / "base")
    adapter = save_adapter(
        base, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True, **settings,
    )  # fmt: skip
    folder = merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    expected = merged_by_peft(base, [(adapter, 1.0)])
    del expected["lm_head.weight"]  # tied: the file does not have it
    assert_same_weights(folder, expected)


@pytest.mark.parametrize("scales", [(0.5,), (-1.25,), (0.7, 0.4), (1.0, 1.0, 0.25)])
def test_scales_and_several_adapters(llama, tmp_path, scales):
    kinds = list(KINDS.values())
    adapters = [
        (save_adapter(llama, tmp_path / f"adapter{at}", seed=at, **kinds[at]), scale) for at, scale in enumerate(scales)
    ]
    folder = merge_to(llama, adapters, tmp_path / "merged")
    assert_same_weights(folder, merged_by_peft(llama, adapters))


def test_several_doras_measure_their_lengths_on_the_base(llama, tmp_path):
    adapters = [
        (save_adapter(llama, tmp_path / f"adapter{at}", seed=at, **KINDS["dora"]), scale)
        for at, scale in enumerate((1.0, 0.5))
    ]
    folder = merge_to(llama, adapters, tmp_path / "merged")
    expected = merged_by_peft(llama, adapters)  # takes the first out again to measure, which costs it some last bits
    for name, values in open_both(folder, expected):
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["all layers", "dora", "embeddings"])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_a_bfloat16_base_is_within_one_unit_in_the_last_place(tmp_path, kind, adapter_dtype):
    base = save_llama(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: value.to(adapter_dtype) for name, value in weights.items()}, adapter / "adapter_model.safetensors")
    folder = merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    precise = merged_by_peft(base, [(adapter, 1.0)], torch.float32)
    theirs = merged_by_peft(base, [(adapter, 1.0)])
    merged = open_checkpoint(folder)
    for name in merged.names():
        assert merged.info(name).dtype == "BF16"
        ours = torch.frombuffer(bytearray(merged.raw(name)), dtype=torch.int16).int()
        assert torch.equal(ours, precise[name].bfloat16().reshape(-1).view(torch.int16).int())  # rounded once
        if "embed" not in name:  # there peft rounds what it adds before it adds it
            difference = (ours - theirs[name].reshape(-1).view(torch.int16).int()).abs()
            assert difference.max() <= 1, name


@pytest.mark.parametrize(
    ("out_type", "dtype"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_types_of_the_result(llama, tmp_path, out_type, dtype):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["all layers"])
    folder = merge_to(llama, [(adapter, 1.0)], tmp_path / "merged", out_type=out_type)
    expected = merged_by_peft(llama, [(adapter, 1.0)])
    assert_same_weights(folder, {name: value.to(dtype) for name, value in expected.items()})
    assert load(folder).dtype == dtype


@pytest.mark.parametrize(
    ("settings", "becomes_untied"),
    [
        (dict(target_modules=["q_proj"]), False),
        (dict(target_modules=["embed_tokens", "q_proj"]), True),
        (dict(target_modules=["lm_head", "q_proj"]), True),
        (dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), True),
        (dict(target_modules=["q_proj"], modules_to_save=["lm_head"]), True),
        (dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]), True),
        (dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True), False),
        (dict(target_modules=["q_proj"], trainable_token_indices=[5, 9]), False),
    ],
)
def test_tied_embeddings_compute_what_was_trained(tmp_path, settings, becomes_untied):
    base = save_llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = save_adapter(base, tmp_path / "adapter", r=4, lora_alpha=8, **settings)
    folder = merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    merged = load(folder)
    assert ("lm_head.weight" in open_checkpoint(folder).names()) == becomes_untied
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is not becomes_untied
    np.testing.assert_allclose(logits(merged), logits(adapted(base, [(adapter, 1.0)])), atol=2e-4)


def test_grown_vocabulary(tmp_path):
    base = save_llama(tmp_path / "base", tie_word_embeddings=True)
    model = load(base)
    model.resize_token_embeddings(VOCABULARY + 8)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    save_tokenizer(tmp_path / "adapter")
    folder = merge_to(base, [(tmp_path / "adapter", 1.0)], tmp_path / "merged")
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == VOCABULARY + 8
    assert "lm_head.weight" not in open_checkpoint(folder).names()
    assert (folder / "tokenizer.json").is_file()
    np.testing.assert_allclose(logits(load(folder)), logits(tuned.eval()), atol=1e-5)


def test_other_kinds_are_merged_by_peft(tmp_path):
    base = save_llama(tmp_path / "base", dtype=torch.bfloat16)
    config = peft.LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapter = save_adapter(base, tmp_path / "adapter", config=config)
    with pytest.raises(BadValue, match="LOHA"), open_source(base, [LoraChoice(adapter)]):
        pass
    with pytest.raises(BadValue, match="scale other than 1"):
        merge_to(base, [(adapter, 0.5)], tmp_path / "merged")
    folder = merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    precise = merged_by_peft(base, [(adapter, 1.0)], torch.float32)
    assert_same_weights(folder, {name: value.bfloat16() for name, value in precise.items()})
    assert not [file for file in folder.iterdir() if file.is_dir()]


def test_prompts_cannot_be_merged(llama, tmp_path):
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    adapter = save_adapter(llama, tmp_path / "adapter", config=config)
    with pytest.raises(Unsupported, match="PROMPT_TUNING: it adds tokens"):
        merge_to(llama, [(adapter, 1.0)], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_source_is_read_without_writing(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["all layers"])
    expected = merged_by_peft(llama, [(adapter, 0.5)])
    with open_source(llama, [LoraChoice(adapter, 0.5)]) as source:
        assert isinstance(source, MergedSource)
        for name in source.names():
            assert np.array_equal(source.read(name), expected[name].numpy())
            assert source.is_changed(name) == (name.split(".")[-2] in ALL)
        name = "model.layers.0.mlp.up_proj.weight"
        part = np.empty(100, np.float32)
        source.read_part(name, 50, part)
        assert np.array_equal(part, expected[name].numpy().reshape(-1)[50:150])


def test_without_torch_the_values_are_the_same_to_a_rounding(llama, tmp_path, monkeypatch):
    from localknobs.convert import lora_math

    monkeypatch.setattr(lora_math, "_torch", lambda: None)
    adapters = [
        (save_adapter(llama, tmp_path / kind, **KINDS[kind]), 0.5) for kind in ("all layers", "embeddings by dora")
    ]
    expected = merged_by_peft(llama, adapters)
    for name, values in open_both(merge_to(llama, adapters, tmp_path / "merged"), expected):
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-6)


def test_old_names_of_tensors(llama, tmp_path):
    def rename(weights):
        for name in [name for name in weights if name.endswith("lora_magnitude_vector")]:
            weights[f"{name}.weight"] = weights.pop(name)

    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["dora"])
    expected = merged_by_peft(llama, [(adapter, 1.0)])
    weights = load_file(adapter / "adapter_model.safetensors")
    rename(weights)
    save_file(weights, adapter / "adapter_model.safetensors")
    assert {pair.magnitude is not None for pair in open_adapter(adapter).pairs} == {True}
    assert_same_weights(merge_to(llama, [(adapter, 1.0)], tmp_path / "merged"), expected)
