"""Converting: logits of every family, rotary positions, adapters, dialects, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import gguf
import numpy as np
import pytest
from conversions import TOKENS, change_json, convert_to, copy_of, llama_logits
from program import PROGRAM
from tiny_checkpoints import FAMILIES, ROPES, expected_logits

from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.gguf_info import read_header
from localknobs.jobs import Advanced, Started, Wrote, drain, remove_leftovers

TOLERANCE = 2e-3


def tensors_of(file):
    """Return a GGUF file's tensors: name to type and bytes."""
    return {tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in gguf.GGUFReader(file).tensors}


# ---- what the model computes ----------------------------------------------------------------


@pytest.mark.parametrize("case", FAMILIES)
def test_the_logits_are_those_of_transformers(case, checkpoint, tmp_path):
    folder = checkpoint(case)
    model = convert_to(tmp_path / "model.gguf", folder)
    found = llama_logits(model, TOKENS, tmp_path / "logits.npy")
    expected = expected_logits(folder, TOKENS)
    assert expected.std() > 0.03  # a model that says nothing would agree with everything
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("scaling", ROPES)
def test_every_scaling_of_rotary_positions(scaling, checkpoint, tmp_path):
    long = {"max_position_embeddings": 1024} if scaling == "longrope" else {}
    folder = checkpoint("llama-tied", rope_scaling=ROPES[scaling], **long)
    model = convert_to(tmp_path / "model.gguf", folder)
    found = llama_logits(model, TOKENS, tmp_path / "logits.npy")
    np.testing.assert_allclose(found, expected_logits(folder, TOKENS), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["llama-tied", "phi3-longrope"])
def test_longrope_takes_its_long_factors_beyond_the_trained_length(case, checkpoint, tmp_path):
    changes = {"rope_scaling": ROPES["longrope"], "max_position_embeddings": 1024} if case == "llama-tied" else {}
    folder = checkpoint(case, **changes)
    tokens = (TOKENS * 12)[:270]  # trained for 256
    found = llama_logits(convert_to(tmp_path / "model.gguf", folder), tokens, tmp_path / "logits.npy")
    np.testing.assert_allclose(found, expected_logits(folder, tokens), rtol=0, atol=TOLERANCE)


def test_what_sees_besides_the_text_model_is_left_out(checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    text = checkpoint("gemma3")
    folder = copy_of(text, tmp_path / "seeing")
    inner = json.loads((folder / "config.json").read_text())
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps({**outer, "text_config": {**inner, "architectures": None}}))
    weights = {f"language_model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["vision_tower.vision_model.embeddings.patch_embedding.weight"] = np.ones((8, 8), np.float32)
    weights["multi_modal_projector.mm_input_projection_weight"] = np.ones((8, 8), np.float32)
    save_file(weights, folder / "model.safetensors")
    alone = convert_to(tmp_path / "alone.gguf", text)
    assert tensors_of(convert_to(tmp_path / "model.gguf", folder)) == tensors_of(alone)


def test_experts_in_mxfp4_keep_every_bit(checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = copy_of(checkpoint("gpt_oss"), tmp_path / "quantized", quantization_config={"quant_method": "mxfp4"})
    weights = load_file(folder / "model.safetensors")
    random = np.random.default_rng(3)
    values = {}
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = weights.pop(name).shape
        weights[f"{name}_blocks"] = random.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
        weights[f"{name}_scales"] = random.integers(118, 130, (experts, rows, columns // 32), np.uint8)
        values[name] = e2m1(weights[f"{name}_blocks"], weights[f"{name}_scales"])
    save_file(weights, folder / "model.safetensors")
    file = convert_to(tmp_path / "model.gguf", folder, outtype="bf16")
    assert read_header(file).metadata["general.file_type"] == 38
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for layer in range(2):
        both = values[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
        down = values[f"model.layers.{layer}.mlp.experts.down_proj"]
        for name, expected in (("gate", both[:, ::2]), ("up", both[:, 1::2]), ("down", down)):
            tensor = found[f"blk.{layer}.ffn_{name}_exps.weight"]
            assert tensor.tensor_type == gguf.GGMLQuantizationType.MXFP4
            np.testing.assert_array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), expected)


def e2m1(blocks, scales):
    """Return the values of MXFP4 by the standard: two in a byte, the lower bits first, times a power of two."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    pairs = np.stack([table[blocks & 15], table[blocks >> 4]], -1).reshape(*blocks.shape[:-1], 32)
    return (pairs * np.exp2(scales.astype(np.float32) - 127)[..., None]).reshape(*blocks.shape[:2], -1)


# ---- the same from another form ---------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "type_name"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_weights_in_16_bits_are_copied_as_they_are(dtype, type_name, checkpoint, tmp_path):
    from safetensors import safe_open

    folder = checkpoint("qwen2", dtype)
    file = convert_to(tmp_path / "model.gguf", folder, outtype="auto")
    found = tensors_of(file)
    assert read_header(file).metadata["general.file_type"] == {"BF16": 32, "F16": 1}[type_name]
    import torch

    with safe_open(folder / "model.safetensors", "pt") as weights:
        stored = weights.get_tensor("model.layers.1.mlp.down_proj.weight").view(torch.uint8).numpy().tobytes()
    assert found["blk.1.ffn_down.weight"] == (gguf.GGMLQuantizationType[type_name], stored)
    assert found["blk.1.attn_q.bias"][0] == gguf.GGMLQuantizationType.F32


def test_shards_give_the_tensors_of_one_file(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    whole = checkpoint("mixtral")
    folder = copy_of(whole, tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(folder, max_shard_size="60KB")
    assert len([*folder.glob("*.safetensors")]) > 3
    one = convert_to(tmp_path / "one.gguf", whole)
    assert tensors_of(convert_to(tmp_path / "many.gguf", folder)) == tensors_of(one)


def test_an_older_configuration_says_the_same(checkpoint, tmp_path):
    folder = checkpoint("llama-tied", rope_scaling=ROPES["yarn"])
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    older = copy_of(
        folder, tmp_path / folder.name, rope_parameters=None, rope_theta=10000.0, rope_scaling=yarn, head_dim=None,
        dtype=None, torch_dtype="float32",
    )  # fmt: skip
    one, other = convert_to(tmp_path / "a.gguf", folder), convert_to(tmp_path / "b.gguf", older)
    assert one.read_bytes() == other.read_bytes()


def test_an_adapter_is_merged_on_the_way(checkpoint, tmp_path):
    from tiny_adapters import save_adapter

    folder = checkpoint("llama")
    adapter = save_adapter(folder, tmp_path / "adapter")
    from localknobs.convert.adapter import LoraChoice
    from localknobs.convert.merge import MergeConfig, merge, plan_merge

    choice = LoraChoice(adapter, 0.5)
    merged = drain(merge(plan_merge(MergeConfig(folder, (choice,), tmp_path / folder.name))))
    one = convert_to(tmp_path / "a.gguf", folder, loras=(choice,))
    other = convert_to(tmp_path / "b.gguf", merged)
    assert tensors_of(one) == tensors_of(other)
    assert tensors_of(one) != tensors_of(convert_to(tmp_path / "c.gguf", folder))


# ---- files that are whole or not there --------------------------------------------------------


@pytest.mark.parametrize("events", [1, 2, 9])
def test_stopped_at_any_moment_the_old_file_stays(events, checkpoint, tmp_path):
    output = tmp_path / "model.gguf"
    output.write_bytes(b"old")
    job = convert(ConvertConfig(checkpoint("qwen2"), output, "f32", check_tokens=False))
    for _ in range(events):
        next(job)
    job.close()
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    assert output.read_bytes() == b"old"


def test_its_events_count_every_byte(checkpoint, tmp_path):
    output = tmp_path / "model.gguf"
    seen = []
    drain(convert(ConvertConfig(checkpoint("qwen2"), output, "f32", check_tokens=False)), seen.append)
    (started,) = [event for event in seen if isinstance(event, Started)]
    assert started.total == output.stat().st_size
    padding = started.total - sum(event.amount for event in seen if isinstance(event, Advanced))
    assert 0 <= padding < 32 * len(read_header(output).tensors)
    assert seen[-1] == Wrote(output)


def test_killed_it_leaves_nothing_after_the_next_start(checkpoint, tmp_path):
    output = tmp_path / "out" / "model.gguf"
    code = (
        "import sys; from pathlib import Path; from localknobs.convert.to_gguf import *\n"
        "job = convert(ConvertConfig(Path(sys.argv[1]), Path(sys.argv[2]), 'f32', check_tokens=False))\n"
        "for _ in range(5): next(job)\n"
        "print('amid', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(checkpoint("qwen2")), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"amid\n"
        assert len([*output.parent.iterdir()]) == 1
        child.send_signal(signal.SIGKILL)
    assert not output.exists()
    assert remove_leftovers(output.parent)
    assert [*output.parent.iterdir()] == []


def test_a_full_disk_leaves_nothing_and_says_so(checkpoint, tmp_path):
    output = tmp_path / "model.gguf"
    done = subprocess.run(
        [PROGRAM, "convert", str(checkpoint("qwen2")), "-o", str(output), "--skip-token-check"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "The disk is full" in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_from_the_command_line_with_the_tokens_proved(checkpoint, tmp_path):
    output = tmp_path / "model.gguf"
    command = [PROGRAM, "convert", str(checkpoint("llama")), "-o", str(output), "--outtype", "q8_0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"file": str(output), "size_bytes": output.stat().st_size}
    header = read_header(output)
    assert header.metadata["tokenizer.ggml.pre"] == "dbrx"
    assert header.metadata["general.file_type"] == 7
    assert {tensor.type_name for tensor in header.tensors} == {"Q8_0", "F32"}


def test_the_present_folder_gets_a_file_named_after_the_source(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copy_of(checkpoint("qwen2"), tmp_path / "My-Model-1B")
    change_json(folder / "config.json", torch_dtype="float32")
    assert convert_to(None, folder).name == "My-Model-1B-F32.gguf"
    assert (tmp_path / "My-Model-1B-F32.gguf").is_file()
