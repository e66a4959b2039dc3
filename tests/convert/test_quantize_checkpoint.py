"""Quantizing straight from a checkpoint: the very file that converting and then llama.cpp's quantizing gives."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conversions import change_tensors, convert_to
from llama_quantize import reference
from tiny_adapters import save_adapter

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.quant_plan import TypeChoice
from localknobs.convert.quant_types import FILE_TYPE_NUMBERS
from localknobs.convert.quantize import QuantizeConfig, plan_quantize, quantize
from localknobs.errors import BadFile, BadValue, NotFound
from localknobs.gguf_info import read_header
from localknobs.jobs import drain

TYPES = ("Q4_K_M", "Q8_0", "IQ4_NL")


def write(source, folder, *, types=TYPES, **fields):
    """Quantize on one thread; return the files by type."""
    folder.mkdir(exist_ok=True)
    outputs = tuple((name, folder / f"ours-{name}.gguf") for name in types)
    drain(quantize(plan_quantize(QuantizeConfig(source=source, outputs=outputs, threads=1, **fields))))
    assert sorted(folder.iterdir()) == sorted(path for _, path in outputs), "nothing else was written on the way"
    return dict(outputs)


def by_llama_cpp(model, folder, **options):
    """Quantize a converted model with llama.cpp; return the files by type."""
    folder.mkdir(exist_ok=True)
    runs = [{"name": name, "file_type": FILE_TYPE_NUMBERS[name], **options} for name in TYPES]
    assert not reference(model, folder, runs)
    return {name: folder / name for name in TYPES}


@pytest.mark.parametrize("case", ["llama", "llama-tied", "mixtral", "qwen3_moe", "gemma2", "phi3", "gpt_oss"])
def test_of_one_16_bit_type_it_is_the_file_by_way_of_that_type(checkpoint, tmp_path, case):
    folder = checkpoint(case, "bfloat16", hidden_size=256)
    converted = convert_to(tmp_path / "converted.gguf", folder, outtype="auto")
    assert read_header(converted).quant == "BF16"
    ours, theirs = write(folder, tmp_path / "ours"), by_llama_cpp(converted, tmp_path / "theirs")
    for name in TYPES:
        assert ours[name].read_bytes() == theirs[name].read_bytes(), name


def test_of_float32_it_is_the_file_by_way_of_float32(checkpoint, tmp_path):
    folder = checkpoint("qwen2")
    converted = convert_to(tmp_path / "converted.gguf", folder, outtype="f32")
    ours, theirs = write(folder, tmp_path / "ours"), by_llama_cpp(converted, tmp_path / "theirs")
    for name in TYPES:
        assert ours[name].read_bytes() == theirs[name].read_bytes(), name


def test_adapters_are_merged_in_float32_on_the_way(checkpoint, tmp_path):
    base = checkpoint("llama", "bfloat16", hidden_size=256)
    save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj", "down_proj"], r=4)
    loras = (LoraChoice(tmp_path / "adapter", 0.5),)
    converted = convert_to(tmp_path / "converted.gguf", base, outtype="f32", loras=loras)
    ours, theirs = write(base, tmp_path / "ours", loras=loras), by_llama_cpp(converted, tmp_path / "theirs")
    plain = write(base, tmp_path / "plain")
    for name in TYPES:
        assert ours[name].read_bytes() == theirs[name].read_bytes(), name
        assert ours[name].read_bytes() != plain[name].read_bytes(), "the adapter does something"


def test_a_float_type_is_the_conversion_itself(checkpoint, tmp_path):
    folder = checkpoint("llama", "bfloat16", hidden_size=256)
    converted = convert_to(tmp_path / "converted.gguf", folder, outtype="bf16")
    ours = write(folder, tmp_path / "ours", types=("BF16",))["BF16"]
    one, other = read_header(converted), read_header(ours)
    assert {t.name: (t.type_name, t.shape) for t in one.tensors} == {
        t.name: (t.type_name, t.shape) for t in other.tensors
    }
    assert one.metadata == other.metadata
    places = {tensor.name: one.data_start + tensor.offset for tensor in one.tensors}
    data, expected = ours.read_bytes(), converted.read_bytes()
    for tensor in other.tensors:
        at, there = other.data_start + tensor.offset, places[tensor.name]
        assert data[at : at + tensor.size_bytes] == expected[there : there + tensor.size_bytes], tensor.name


def test_the_hole_for_the_types_is_gone_and_one_of_a_killed_process_too(checkpoint, home, tmp_path):
    import subprocess
    import sys

    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    folder = home / "cache" / "plans"
    folder.mkdir(parents=True)
    (folder / f".model.{dead.pid}.partial").touch()
    plan_quantize(QuantizeConfig(source=checkpoint("qwen2"), outputs=(("Q4_0", tmp_path / "a.gguf"),)))
    assert list(folder.iterdir()) == []


def test_kept_types_and_the_plan_are_those_of_a_gguf(checkpoint, tmp_path):
    folder = checkpoint("llama", "bfloat16", hidden_size=256)
    choice = TypeChoice(sensitive_high=True)
    plan = plan_quantize(
        QuantizeConfig(source=folder, outputs=(("Q4_0", tmp_path / "high.gguf"),), choice=choice, threads=1)
    )
    drain(quantize(plan))
    assert (tmp_path / "high.gguf").stat().st_size == plan.files[0].size_bytes
    types = {tensor.name: tensor.type_name for tensor in read_header(tmp_path / "high.gguf").tensors}
    assert types["token_embd.weight"] == "Q8_0" and types["blk.1.attn_q.weight"] == "Q6_K"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named_and_nothing_is_written(checkpoint, tmp_path, value):
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint("qwen2"), folder)

    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return tensors

    change_tensors(folder, spoil)
    out = tmp_path / "out"
    out.mkdir()
    running = quantize(plan_quantize(QuantizeConfig(source=folder, outputs=(("Q4_0", out / "a.gguf"),), threads=1)))
    with pytest.raises(BadFile, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*model\.safetensors"):
        drain(running)
    assert list(out.iterdir()) == []


def test_closed_half_way_nothing_is_left_and_the_checkpoint_is_closed(checkpoint, tmp_path):
    plan = plan_quantize(
        QuantizeConfig(source=checkpoint("qwen2"), outputs=(("Q4_0", tmp_path / "a.gguf"),), threads=1)
    )
    running = quantize(plan)
    for _ in range(4):
        next(running)
    running.close()
    assert list(tmp_path.iterdir()) == []


def test_sources_that_do_not_go_together(checkpoint, tmp_path):
    with pytest.raises(BadValue, match="is a GGUF file"):
        plan_quantize(
            QuantizeConfig(
                source=tmp_path / "model.gguf", outputs=(("Q4_0", tmp_path / "a.gguf"),), loras=(LoraChoice(tmp_path),)
            )
        )
    with pytest.raises(NotFound, match=r"config\.json"):
        plan_quantize(QuantizeConfig(source=tmp_path, outputs=(("Q4_0", tmp_path / "a.gguf"),)))
    folder = checkpoint("qwen2")
    with pytest.raises(BadValue, match="input itself"):
        plan_quantize(QuantizeConfig(source=folder, outputs=(("Q4_0", folder / "model.safetensors"),)))


def test_at_the_command_line_it_lands_in_the_library(checkpoint, home, capsys):
    from localknobs.cli.main import run

    assert run(["quantize", str(checkpoint("qwen2")), "q4_0", "-t", "1"]) == 0
    assert (home / "data" / "models" / "qwen2-Q4_0.gguf").is_file()
    assert "localknobs chat qwen2-Q4_0" in capsys.readouterr().err
