"""Whole files, byte by byte, against llama.cpp's own converter. Needs its source: LOCALKNOBS_LLAMA_CPP=FOLDER.

FOLDER is `vendor/llama.cpp` of the source package of llama-cpp-python. Run with: pytest -m slow tests/convert
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from conversions import change_json, convert_to, copy_of
from tiny_checkpoints import FAMILIES, LLAMA3_CUTS, ROPES

from localknobs.convert.known_tokenizers import FINGERPRINT_DIGITS, NAME_OF_FINGERPRINT
from localknobs.convert.metadata import Sheet
from localknobs.convert.own_tokenizer import own_encoder
from localknobs.convert.pretokenizer import FINGERPRINT_TEXT, fingerprint_of
from localknobs.convert.vocabulary import prove, read_vocabulary
from localknobs.gguf_info import read_header

SOURCE = os.environ.get("LOCALKNOBS_LLAMA_CPP", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(SOURCE, "conversion").is_dir(), reason="LOCALKNOBS_LLAMA_CPP names no source"),
]

PRE_TOKENIZER = "dbrx"
"""What the tiny tokenizers' rules are called here."""
TYPES = {"float32": ("f32", "f16", "bf16", "q8_0", "auto"), "bfloat16": ("auto", "f32"), "float16": ("auto", "f32")}
FAILS_UPSTREAM = {"stablelm-norms"}
"""llama.cpp's converter loses the norms of heads it has collected, and stops."""
CARD = (
    "---\nlicense: apache-2.0\nbase_model:\n- someone/Some-Base-1B\ndatasets: [someone/texts]\n"
    "tags: [chat, tiny]\nlanguage:\n- en\n- no\n---\n# A model\n"
)


@pytest.fixture(autouse=True)
def source_named(monkeypatch):
    """Give the variable back that the fixtures of all tests may clear."""
    monkeypatch.setenv("LOCALKNOBS_LLAMA_CPP", SOURCE)


def compare(folders, tmp_path):
    """Convert folders both ways, each into the types given; every pair of files must be the same."""
    jobs = [
        {"folder": str(folder), "outtype": outtype, "pre": PRE_TOKENIZER,
         "out": str(tmp_path / f"{folder.parent.name}-{folder.name}-{outtype}.reference.gguf")}
        for folder, outtypes in folders for outtype in outtypes
    ]  # fmt: skip
    script = Path(__file__).with_name("upstream_reference.py")
    done = subprocess.run(
        [sys.executable, str(script), SOURCE, json.dumps(jobs)], capture_output=True, text=True, check=True
    )
    for job in jobs:
        reference = Path(job["out"])
        assert reference.is_file(), done.stderr[-3000:]
        own = convert_to(reference.with_suffix(".own.gguf"), Path(job["folder"]), outtype=job["outtype"])
        if own.read_bytes() != reference.read_bytes():
            assert keys_of(own) == keys_of(reference), job
            assert tensors_of(own) == tensors_of(reference), job
            pytest.fail(f"{job} differs in padding or order only")


def keys_of(file):
    """Return a file's keys in order."""
    return [(name, field.contents()) for name, field in gguf.GGUFReader(file).fields.items()]


def tensors_of(file):
    """Return a file's tensors in order."""
    return [(tensor.name, tensor.tensor_type, tensor.data.tobytes()) for tensor in gguf.GGUFReader(file).tensors]


@pytest.mark.parametrize("case", sorted(set(FAMILIES) - FAILS_UPSTREAM))
def test_every_family_in_every_type(case, checkpoint, tmp_path):
    compare([(checkpoint(case, dtype), types) for dtype, types in TYPES.items()], tmp_path)


@pytest.mark.parametrize("scaling", sorted(set(ROPES) - {"longrope"}))
def test_every_scaling(scaling, checkpoint, tmp_path):
    folders = [checkpoint(case, rope_scaling=ROPES[scaling]) for case in ("llama-tied", "llama")]
    larger = checkpoint("llama-tied", rope_scaling={**ROPES[scaling], "rope_theta": 500000.0}, head_dim=128)
    compare([(folder, ("f32",)) for folder in (*folders, larger)], tmp_path)


def test_a_card_advice_templates_and_older_configurations(checkpoint, tmp_path):
    whole = copy_of(checkpoint("llama"), tmp_path / "Tiny-Model-1B-Instruct-v1.5")
    (whole / "README.md").write_text(CARD)
    (whole / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "top_k": 20}))
    change_json(
        whole / "tokenizer_config.json", add_prefix_space=False, add_bos_token=True,
        chat_template=[{"name": "default", "template": "a"}, {"name": "tool use", "template": "b"}],
    )  # fmt: skip
    older = copy_of(
        checkpoint("qwen3"), tmp_path / "older", rope_parameters=None, rope_theta=5000000.0, num_key_value_heads=2,
        rope_scaling={"type": "linear", "factor": 2.0},
    )  # fmt: skip
    small = copy_of(checkpoint("llama", vocab_size=49152), tmp_path / "small")
    compare([(folder, ("bf16",)) for folder in (whole, older, small)], tmp_path)


def test_mxfp4(checkpoint, tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = copy_of(checkpoint("gpt_oss"), tmp_path / "quantized", quantization_config={"quant_method": "mxfp4"})
    weights = load_file(folder / "model.safetensors")
    random = np.random.default_rng(3)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = weights.pop(name).shape
        weights[f"{name}_blocks"] = random.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
        weights[f"{name}_scales"] = random.integers(118, 130, (experts, rows, columns // 32), np.uint8)
    save_file(weights, folder / "model.safetensors")
    compare([(folder, ("bf16", "q8_0"))], tmp_path)


def test_the_known_fingerprints_are_those_of_llama_cpp():
    import re

    text = (Path(SOURCE) / "conversion" / "base.py").read_text(encoding="utf-8")
    theirs = {}
    for fingerprint, name in re.findall(r'chkhsh == "([0-9a-f]{64})".*?res = "([^"]+)"', text, re.DOTALL):
        theirs[fingerprint[:FINGERPRINT_DIGITS]] = name  # the last one counts
    assert theirs == NAME_OF_FINGERPRINT


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN_BYTES = {**BYTES, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
REAL: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "gpt-2": ([BYTES], {}),
    "starcoder": ([DIGITS, BYTES], {}),
    "refact": ([DIGITS, BYTES], {}),
    "command-r": ([DIGITS, BYTES], {"normalizer": {"type": "NFC"}, "begins": True}),
    "llama-bpe": ([LLAMA3_CUTS, PLAIN_BYTES], {"ignore_merges": True, "begins": True}),
    "qwen2": ([LLAMA3_CUTS.replace("{1,3}", ""), PLAIN_BYTES], {"normalizer": {"type": "NFC"}}),
    "deepseek-coder": (
        ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGITS, PLAIN_BYTES], {"begins": True},
    ),
}  # fmt: skip
"""Vocabularies of real models that llama.cpp's source has, and how their tokenizers cut."""


@pytest.mark.parametrize("name", REAL)
def test_a_real_vocabulary_is_proved_and_known(name, tmp_path):
    cuts, more = REAL[name]
    fields = gguf.GGUFReader(Path(SOURCE) / "models" / f"ggml-vocab-{name}.gguf").fields
    texts, kinds, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges"))
    steps = [{"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
             if isinstance(cut, str) else cut for cut in cuts]  # fmt: skip
    first = int(fields["tokenizer.ggml.bos_token_id"].contents())
    begin = {"SpecialToken": {"id": texts[first], "type_id": 0}}
    around = {
        "type": "TemplateProcessing", "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {texts[first]: {"id": texts[first], "ids": [first], "tokens": [texts[first]]}},
    }  # fmt: skip
    added = [
        {"id": at, "content": texts[at], "special": kind == 3, "normalized": kind == 4,
         "single_word": False, "lstrip": False, "rstrip": False}
        for at, kind in enumerate(kinds) if kind in (3, 4)
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "fuse_unk": False,
        "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": more.get("ignore_merges", False),
        "vocab": {text: at for at, text in enumerate(texts) if kinds[at] != 5},
        "merges": [merge.split(" ") for merge in merges],
    }  # fmt: skip
    tokenizer = {
        "version": "1.0", "added_tokens": added, "normalizer": more.get("normalizer"), "decoder": BYTES, "model": model,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": around if more.get("begins") else None,
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = read_vocabulary(tmp_path, len(texts), "bpe")
    assert found.texts == list(texts)
    proved = prove(found, Sheet("llama"), ({}, {}), ())
    assert proved.names == [name]  # settled by the fingerprint, which is that of the model's own tokenizer
    _, wrapped = own_encoder(tmp_path / "tokenizer.json")
    assert NAME_OF_FINGERPRINT[fingerprint_of(wrapped(FINGERPRINT_TEXT))[:FINGERPRINT_DIGITS]] == name


def test_another_architecture_is_converted_by_it(tmp_path):
    from tiny_checkpoints import make_checkpoint

    FAMILIES["gemma"] = ("gemma", {"head_dim": 16, "tie_word_embeddings": True})
    try:
        folder = make_checkpoint(tmp_path / "gemma", "gemma")
    finally:
        del FAMILIES["gemma"]
    header = read_header(convert_to(tmp_path / "model.gguf", folder, name="A name"))
    assert header.metadata["general.architecture"] == "gemma"
    assert header.metadata["general.name"] == "A name"
    assert {file.name for file in tmp_path.iterdir()} == {"gemma", "model.gguf"}
