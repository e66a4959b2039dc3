"""Merging: peft's own result, bit for bit; what peft's merge gets wrong; refusals by name; whole folders or none."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from program import PROGRAM
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

from localknobs.convert.adapter import LoraChoice, open_adapter, parse_lora
from localknobs.convert.checkpoint import open_checkpoint
from localknobs.convert.merge import MergeConfig, MergedSource, merge, open_source, plan_merge
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotEnough, NotFound, Unsupported
from localknobs.jobs import Noted, Wrote, drain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = save_llama(tmp_path_factory.mktemp("base") / "llama")
    save_tokenizer(folder)
    return folder


def merge_to(base: Path, adapters: list[tuple[Path, float]], output: Path, **settings) -> Path:
    loras = tuple(LoraChoice(path, scale) for path, scale in adapters)
    return drain(merge(plan_merge(MergeConfig(base, loras, output, **settings))))


def assert_same_weights(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Compare every weight, bit for bit."""
    source = open_checkpoint(folder)
    assert set(source.names()) == set(expected)
    for name in source.names():
        values = expected[name]
        assert source.info(name).shape == tuple(values.shape)
        assert bytes(source.raw(name)) == values.contiguous().view(torch.uint8).numpy().tobytes(), name


KINDS = {
    "lora": dict(r=4, lora_alpha=7, target_modules=["q_proj", "v_proj"]),
    "all layers": dict(r=8, lora_alpha=16, target_modules=ALL),
    "rslora": dict(r=6, lora_alpha=9, use_rslora=True, target_modules=ALL),
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=ALL),
    "dora and rslora": dict(r=5, lora_alpha=8, use_dora=True, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "patterns": dict(
        r=4, lora_alpha=8, target_modules=ALL,
        rank_pattern={"q_proj": 2, r"model\.layers\.1\.mlp\.down_proj": 9},
        alpha_pattern={"layers.0.self_attn.v_proj": 3, "up_proj": 32},
    ),
    "patterns and rslora": dict(
        r=4, lora_alpha=8, target_modules=ALL, use_rslora=True, rank_pattern={"q_proj": 3}, alpha_pattern={"k_proj": 5}
    ),
    "whole modules": dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]),
    "whole norm": dict(r=4, target_modules=["q_proj"], modules_to_save=["input_layernorm"]),
    "embeddings": dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"]),
    "embeddings by dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=["embed_tokens", "v_proj"]),
    "head": dict(r=4, lora_alpha=8, target_modules=["lm_head", "v_proj"]),
    "tokens": dict(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 250, 3]}),
}  # fmt: skip


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


def open_both(folder: Path, expected: dict[str, torch.Tensor]):
    source = open_checkpoint(folder)
    return [(name, source.read(name)) for name in source.names() if name in expected]


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


# ---- tied embeddings ---------------------------------------------------------------------------


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


# ---- kinds that only peft knows ----------------------------------------------------------------


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


# ---- refusals ----------------------------------------------------------------------------------


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


# ---- whole or not there ------------------------------------------------------------------------


@pytest.mark.parametrize("events", [1, 2, 5, 12])
def test_stopped_at_any_moment_nothing_is_left(llama, tmp_path, events):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["all layers"])
    before = sorted(tmp_path.iterdir())
    job = merge(plan_merge(MergeConfig(llama, (LoraChoice(adapter),), tmp_path / "merged")))
    for _ in range(events):
        next(job)
    assert sorted(tmp_path.iterdir()) != before
    job.close()
    assert sorted(tmp_path.iterdir()) == before


FULL_DISK = """
import resource, sys
from localknobs.cli.main import run
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(run(sys.argv[1:]))
"""


def test_a_full_disk_leaves_nothing_and_a_clear_line(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    before = sorted(tmp_path.iterdir())
    words = ["merge", llama, "--lora", adapter, "-o", tmp_path / "merged"]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *words], capture_output=True, text=True)
    assert done.returncode == 3
    assert f"The disk is full: {tmp_path / 'merged'} could not be written" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from localknobs.convert.adapter import LoraChoice
from localknobs.convert.merge import MergeConfig, merge, plan_merge
base, adapter, output = map(Path, sys.argv[1:])
job = merge(plan_merge(MergeConfig(base, (LoraChoice(adapter),), output)))
for _ in range(6):
    next(job)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_leaves_no_model_and_the_next_start_cleans_up(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    subprocess.run([sys.executable, "-c", KILLED, llama, adapter, tmp_path / "merged"])
    assert not (tmp_path / "merged").exists()
    assert list(tmp_path.glob(".merged.*.partial"))
    merge_to(llama, [(adapter, 1.0)], tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


def test_too_little_disk_is_said_before(llama, tmp_path, monkeypatch):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    refused(llama, adapter, tmp_path, NotEnough, "will be written", "1,000 B free")


# ---- the folder --------------------------------------------------------------------------------


def test_large_models_are_written_in_shards(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["all layers"])
    folder = merge_to(llama, [(adapter, 1.0)], tmp_path / "merged", shard_bytes=60_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    assert {path.name for path in shards} == set(index["weight_map"].values())
    expected = merged_by_peft(llama, [(adapter, 1.0)])
    assert index["metadata"]["total_size"] == sum(4 * value.numel() for value in expected.values())
    assert_same_weights(folder, expected)
    for name, value in load(folder).state_dict().items():
        assert torch.equal(value, expected[name])


def test_the_vocabulary_comes_along_and_a_record(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    (llama / "generation_config.json").write_text('{"temperature": 0.5}')
    folder = merge_to(llama, [(adapter, 0.5)], tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (llama / name).read_bytes()
    record = json.loads((folder / "merge.json").read_text())
    assert record["base"] == "llama"
    assert record["adapters"][0]["scale"] == 0.5
    assert str(tmp_path) not in (folder / "merge.json").read_text()


def test_an_adapters_own_vocabulary_goes_first_and_a_chat_template_is_not_lost(llama, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ messages }}"}))
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS["lora"])
    shutil.copy(llama / "tokenizer.json", adapter)
    (adapter / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<pad>"}))
    folder = merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["eos_token"] == "<pad>"
    assert written["chat_template"] == "{{ messages }}"


def test_events_end_with_the_folder(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    events = list(merge(plan_merge(MergeConfig(llama, (LoraChoice(adapter),), tmp_path / "merged"))))
    assert events[-1] == Wrote(tmp_path / "merged")
    assert not [event for event in events if isinstance(event, Noted)]


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


@pytest.mark.parametrize(
    ("text", "path", "scale"), [("a", "a", 1.0), ("a:0.5", "a", 0.5), ("a:-1", "a", -1.0), ("a:b", "a:b", 1.0)]
)
def test_how_an_adapter_is_named(text, path, scale):
    assert parse_lora(text) == LoraChoice(Path(path), scale)


def test_a_scale_that_is_not_finite():
    with pytest.raises(BadValue, match="cannot be inf"):
        parse_lora("a:inf")


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


def test_the_verb(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    words = [
        PROGRAM,
        "merge",
        llama,
        "--lora",
        f"{adapter}:0.5",
        "--outtype",
        "bf16",
        "-o",
        tmp_path / "merged",
        "--json",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "merged")
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr == f"localknobs: {tmp_path / 'merged'} exists already. Name another folder with -o.\n"
