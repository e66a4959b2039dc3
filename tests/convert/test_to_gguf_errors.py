"""What is refused: checkpoints that are damaged, incomplete or of another kind, tokenizers that llama.cpp misreads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conversions import change_json, change_tensors, convert_to, copy_of
from program import PROGRAM
from tiny_checkpoints import write_tokenizer

from localknobs.convert import upstream
from localknobs.convert.merge import open_source
from localknobs.convert.plan import plan_conversion
from localknobs.convert.preflight import check
from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.errors import BadFile, BadValue, MissingExtra, NotEnough, NotFound, Offline, Unsupported
from localknobs.gguf_info import read_header
from localknobs.jobs import drain

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(checkpoint, tmp_path):
    """Return a copy of a tiny Qwen2, to break."""
    return copy_of(checkpoint("qwen2"), tmp_path / "broken")


def refused(folder, tmp_path, kind=BadFile, **options):
    """Convert what must be refused; return the message, and see that nothing was written."""
    output = tmp_path / "out" / "model.gguf"
    output.parent.mkdir()
    with pytest.raises(kind) as caught:
        convert_to(output, folder, **options)
    assert [*output.parent.iterdir()] == []
    assert caught.value.hint
    return caught.value.message


# ---- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
def test_a_weight_that_is_no_number(value, outtype, folder, tmp_path):
    def spoil(tensors):
        tensors[DOWN][5, 7] = value
        return tensors

    change_tensors(folder, spoil)
    message = refused(folder, tmp_path, outtype=outtype)
    assert DOWN in message
    assert str(folder / "model.safetensors") in message


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1, 0xFFFF])
def test_a_weight_that_is_no_number_where_bytes_are_only_copied(bits, checkpoint, tmp_path):
    broken = copy_of(checkpoint("qwen2", "bfloat16"), tmp_path / "broken")
    data = bytearray((broken / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    first = json.loads(data[8:start])[DOWN]["data_offsets"][0]
    data[start + first + 60 : start + first + 62] = bits.to_bytes(2, "little")
    (broken / "model.safetensors").write_bytes(data)
    assert DOWN in refused(broken, tmp_path, outtype="bf16")


def test_a_value_beyond_f16(folder, tmp_path):
    def spoil(tensors):
        tensors[DOWN][0, 0] = 70000.0
        return tensors

    change_tensors(folder, spoil)
    assert re.search("blk.1.ffn_down.weight .* F16", refused(folder, tmp_path, outtype="f16"))


def test_a_tensor_that_is_missing(folder, tmp_path):
    change_tensors(folder, lambda tensors: {name: value for name, value in tensors.items() if name != DOWN})
    assert "blk.1.ffn_down.weight" in refused(folder, tmp_path)


def test_a_layer_that_is_missing(folder, tmp_path):
    change_json(folder / "config.json", num_hidden_layers=3)
    assert "blk.2." in refused(folder, tmp_path)


def test_a_layer_too_many(folder, tmp_path):
    change_json(folder / "config.json", num_hidden_layers=1)
    assert "model.layers.1." in refused(folder, tmp_path)


def test_a_tensor_that_nobody_knows(folder, tmp_path):
    change_tensors(folder, lambda tensors: {**tensors, "model.layers.0.surprise.weight": np.ones(3, np.float32)})
    assert "model.layers.0.surprise.weight" in refused(folder, tmp_path)


def test_an_expert_that_is_missing(checkpoint, tmp_path):
    broken = copy_of(checkpoint("mixtral"), tmp_path / "broken")
    gone = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    change_tensors(broken, lambda tensors: {name: value for name, value in tensors.items() if name != gone})
    assert "experts.2.w3" in refused(broken, tmp_path)


def test_a_shard_that_is_missing(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert "model-00002-of-00002.safetensors" in refused(folder, tmp_path, NotFound)


# ---- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"])
def test_a_configuration_without_a_needed_number(key, folder, tmp_path):
    change_json(folder / "config.json", **{key: None})
    assert f"config.json has no {key}" in refused(folder, tmp_path)


def test_an_embedding_of_another_size(folder, tmp_path):
    change_json(folder / "config.json", vocab_size=400)
    message = refused(folder, tmp_path)
    assert "model.embed_tokens.weight" in message
    assert "384" in message
    assert "400" in message


def test_a_scaling_that_llama_cpp_does_not_have(folder, tmp_path):
    change_json(folder / "config.json", rope_scaling={"rope_type": "spiral"}, rope_parameters=None)
    assert "spiral" in refused(folder, tmp_path, Unsupported)


def test_a_scaling_that_llama_cpp_does_not_compute_for_the_family(folder, tmp_path):
    change_json(folder / "config.json", rope_scaling={"rope_type": "llama3", "factor": 8.0}, rope_parameters=None)
    assert "qwen2" in refused(folder, tmp_path, Unsupported)


def test_layers_without_rotation_in_another_pattern(checkpoint, tmp_path):
    broken = copy_of(checkpoint("smollm3"), tmp_path / "broken", no_rope_layers=[1, 0, 1, 0, 1])
    assert "rotation" in refused(broken, tmp_path, Unsupported)


def test_norms_on_queries_where_llama_cpp_looks_for_none(checkpoint, tmp_path):
    broken = copy_of(checkpoint("cohere"), tmp_path / "broken", use_qk_norm=True)
    assert "norms on queries" in refused(broken, tmp_path, Unsupported)


# ---- tokenizers ------------------------------------------------------------------------------


def test_a_tokenizer_with_more_tokens_than_the_embedding(folder, tmp_path):
    write_tokenizer(folder, "bytes", 420)
    message = refused(folder, tmp_path)
    assert "tokenizer.json" in message
    assert "384" in message


def test_no_tokenizer(folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer" in refused(folder, tmp_path, NotFound)


def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_shown(folder, tmp_path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    # Known rules, but a step before them that llama.cpp knows nothing of.
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = refused(folder, tmp_path, check_tokens=True)
    assert re.search(r"the tokenizer goes on with '.*, llama\.cpp with '", message)
    assert convert_to(tmp_path / "anyway.gguf", folder).is_file()  # unproved, when the user insists


def test_rules_that_no_list_has_are_tried_on_all_that_llama_cpp_knows(folder, tmp_path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    llama3, last = tokenizer["pre_tokenizer"]["pretokenizers"]
    llama3["pattern"]["Regex"] = llama3["pattern"]["Regex"].replace(r"\p{N}{1,3}", r"(?:\p{N}{1,3})")
    tokenizer["pre_tokenizer"]["pretokenizers"] = [llama3, last]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert check(str(folder)).pre_tokenizer == "llama-bpe"
    # The name is settled while the weights are written; the header gets it, whatever its length.
    file = convert_to(tmp_path / "model.gguf", folder, check_tokens=True)
    with open_source(folder) as source:
        assert file.read_bytes().startswith(plan_conversion(source, "f32").header)
    assert read_header(file).metadata["tokenizer.ggml.pre"] == "llama-bpe"


# ---- other architectures ----------------------------------------------------------------------


@pytest.fixture
def stranger(folder, monkeypatch):
    """Return a checkpoint of an architecture unknown here; llama.cpp's own converter is not on this machine."""
    monkeypatch.delenv(upstream.SOURCE_VARIABLE, raising=False)
    change_json(folder / "config.json", architectures=["GPTNeoXForCausalLM"])
    return folder


def test_another_architecture_is_refused_before_any_weight_is_read(stranger, tmp_path):
    weights = stranger / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: 8 + int.from_bytes(data[:8], "little")] + b"\xff" * (len(data) - 8))  # all NaN
    message = refused(stranger, tmp_path, Unsupported)
    assert "GPTNeoXForCausalLM" in message


def test_the_check_needs_no_weights(stranger):
    (stranger / "model.safetensors").unlink()
    done = subprocess.run([PROGRAM, "convert", "--check", str(stranger)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "GPTNeoXForCausalLM" in done.stderr
    assert "--get-converter" in done.stderr
    change_json(stranger / "config.json", architectures=["Qwen2ForCausalLM"])
    done = subprocess.run([PROGRAM, "convert", "--check", str(stranger)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "qwen2" in done.stdout


def test_quantized_weights_go_to_the_other_converter(folder, tmp_path, monkeypatch):
    monkeypatch.delenv(upstream.SOURCE_VARIABLE, raising=False)
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq"})
    assert "gptq" in refused(folder, tmp_path, Unsupported)


def test_offline_nothing_is_downloaded(stranger, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline, match="HF_HUB_OFFLINE"):
        convert_to(tmp_path / "model.gguf", stranger, get_converter=True)


def test_a_source_package_with_another_checksum_is_not_unpacked(tmp_path, monkeypatch):
    def download(wanted, room):
        (room / "llama_cpp_python.tar.gz").write_bytes(b"something else")
        return room / "llama_cpp_python.tar.gz"

    monkeypatch.setattr(upstream, "_download", download)
    with pytest.raises(BadFile, match="SHA-256"):
        upstream.download_converter(tmp_path / "llama.cpp" / "version")
    assert [*(tmp_path / "llama.cpp").iterdir()] == []


def test_the_other_converter_needs_torch(stranger, tmp_path, monkeypatch):
    source = tmp_path / "llama.cpp"
    source.mkdir()
    (source / upstream.SCRIPT).write_text("")
    monkeypatch.setenv(upstream.SOURCE_VARIABLE, str(source))
    monkeypatch.setattr(upstream.importlib.util, "find_spec", lambda name: None)
    assert "torch" in refused(stranger, tmp_path, MissingExtra)


def test_the_other_converter_is_run_and_its_reason_shown(stranger, tmp_path, monkeypatch):
    source = tmp_path / "llama.cpp"
    source.mkdir()
    monkeypatch.setenv(upstream.SOURCE_VARIABLE, str(source))
    script = source / upstream.SCRIPT
    script.write_text("import sys; print('about to fail', file=sys.stderr); sys.exit('no such tensor')")
    with pytest.raises(Exception, match="no such tensor") as caught:
        convert_to(tmp_path / "model.gguf", stranger)
    assert "about to fail" in caught.value.log_tail
    script.write_text("import sys; open(sys.argv[sys.argv.index('--outfile') + 1], 'w').write(' '.join(sys.argv[1:]))")
    output = convert_to(tmp_path / "model.gguf", stranger, outtype="bf16", name="A name")
    assert output.read_text().endswith("--outtype bf16 --model-name A name")


def test_code_that_comes_with_a_checkpoint_is_never_run(stranger, tmp_path, monkeypatch):
    source = tmp_path / "llama.cpp"
    source.mkdir()
    (source / upstream.SCRIPT).write_text("raise SystemExit(0)")
    monkeypatch.setenv(upstream.SOURCE_VARIABLE, str(source))
    (stranger / "modeling.py").write_text("")
    change_json(stranger / "tokenizer_config.json", auto_map={"AutoTokenizer": "modeling.Tokenizer"})
    assert "tokenizer_config.json" in refused(stranger, tmp_path, Unsupported)


def test_stopping_ends_the_other_converter(stranger, tmp_path, monkeypatch):
    source = tmp_path / "llama.cpp"
    source.mkdir()
    monkeypatch.setenv(upstream.SOURCE_VARIABLE, str(source))
    (source / upstream.SCRIPT).write_text("import sys\nopen(sys.argv[3], 'w').write('half')\nwhile True: pass")
    job = convert(ConvertConfig(stranger, tmp_path / "out" / "model.gguf"))
    events = [next(job) for _ in range(3)]
    job.close()
    assert len(events) == 3
    assert [*(tmp_path / "out").iterdir()] == []


# ---- outputs ---------------------------------------------------------------------------------


def test_an_output_without_the_ending_of_models(folder, tmp_path):
    with pytest.raises(BadValue, match=r"\.gguf"):
        convert_to(tmp_path / "model.bin", folder)


def test_an_output_that_is_the_input(folder, tmp_path):
    weights = folder / "model.safetensors"
    link = tmp_path / "model.gguf"
    link.symlink_to(weights)
    before = weights.read_bytes()
    with pytest.raises(BadValue, match="input itself"):
        convert_to(link, folder)
    assert weights.read_bytes() == before


def test_a_disk_that_is_too_small_is_known_before(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(NotEnough) as caught:
        drain(convert(ConvertConfig(folder, tmp_path / "model.gguf", check_tokens=False)))
    assert caught.value.available_bytes == 1
    assert not (tmp_path / "model.gguf").exists()


def test_an_outtype_that_is_none(folder):
    from localknobs.convert.checkpoint import open_checkpoint

    with pytest.raises(BadValue, match="bf16"):
        plan_conversion(open_checkpoint(folder), "q4_k_m")


# ---- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["gemma2", "cohere"])
def test_a_head_that_llama_cpp_has_no_place_for_is_refused_unless_it_is_the_embedding(case, checkpoint, tmp_path):
    folder = copy_of(checkpoint(case), tmp_path / "model", tie_word_embeddings=False)
    change_tensors(folder, lambda all_: {**all_, "lm_head.weight": all_["model.embed_tokens.weight"].copy()})
    same = convert_to(tmp_path / "same.gguf", folder)
    assert "output.weight" not in {tensor.name for tensor in read_header(same).tensors}
    change_tensors(folder, lambda all_: {**all_, "lm_head.weight": all_["lm_head.weight"] + 0.25})
    with pytest.raises(Unsupported, match=r"lm_head\.weight of .* is another than the embedding"):
        convert_to(tmp_path / "other.gguf", folder)
    change_json(folder / "config.json", tie_word_embeddings=True)  # transformers then takes the embedding, as before
    assert convert_to(tmp_path / "tied.gguf", folder).read_bytes() == same.read_bytes()


@pytest.mark.parametrize("case", ["olmo2", "stablelm", "qwen2_moe"])
def test_a_missing_head_that_llama_cpp_needs_is_refused(case, checkpoint, tmp_path):
    folder = copy_of(checkpoint(case), tmp_path / "model")
    change_tensors(folder, lambda all_: {name: tensor for name, tensor in all_.items() if name != "lm_head.weight"})
    with pytest.raises(BadFile, match=r"has no tensor for output\.weight"):
        convert_to(tmp_path / "model.gguf", folder)
