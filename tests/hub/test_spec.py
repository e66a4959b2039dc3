"""What people type, and which file they mean by it."""

import pytest

from localknobs.errors import BadValue, NotFound
from localknobs.hub.quants import Part, checkpoint_parts, choose, grouped
from localknobs.hub.spec import Spec, parse_spec
from localknobs.library.names import quant_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", Spec("org/repo")),
        ("org/repo:q4_k_m", Spec("org/repo", quant="Q4_K_M")),
        ("org/repo@q8_0", Spec("org/repo", quant="Q8_0")),
        ("hf.co/org/repo:Q4_K_M", Spec("org/repo", quant="Q4_K_M")),
        ("huggingface.co/org/repo", Spec("org/repo")),
        ("https://huggingface.co/org/repo", Spec("org/repo")),
        ("https://huggingface.co/org/repo/", Spec("org/repo")),
        ("https://hf.co/org/repo:IQ2_XXS", Spec("org/repo", quant="IQ2_XXS")),
        ("https://hf.co/org/repo/tree/dev", Spec("org/repo", revision="dev")),
        ("https://hf.co/org/repo/tree/main/UD-IQ1_S", Spec("org/repo", path="UD-IQ1_S")),
        ("https://hf.co/org/repo/blob/main/a.gguf", Spec("org/repo", path="a.gguf")),
        ("https://hf.co/org/repo/resolve/main/sub/a%20b.gguf?download=true", Spec("org/repo", path="sub/a b.gguf")),
        ("https://hf.co/org/repo/blob/refs%2Fpr%2F3/a.gguf", Spec("org/repo", path="a.gguf", revision="refs/pr/3")),
        ("https://hf.co/org/repo/blob/refs/pr/3/a.gguf", Spec("org/repo", path="a.gguf", revision="refs/pr/3")),
        ("org/repo/sub/file.gguf", Spec("org/repo", path="sub/file.gguf")),
        ("org/repo:file-Q4_K_M.gguf", Spec("org/repo", path="file-Q4_K_M.gguf")),
        (f"org/repo@{'0123456789' * 4}", Spec("org/repo", revision="0123456789" * 4)),
        ("hf://org/repo/a.gguf", Spec("org/repo", path="a.gguf")),
        ("org/repo:safetensors", Spec("org/repo", quant="SAFETENSORS")),
        ("  org/repo.v1-GGUF ", Spec("org/repo.v1-GGUF")),
    ],
)  # fmt: skip
def test_what_is_typed_is_understood(text, expected):
    assert parse_spec(text) == expected


def test_a_revision_given_apart_wins():
    assert parse_spec("https://huggingface.co/org/repo/tree/dev", "v2").revision == "v2"


def test_the_address_of_a_mirror_is_one_of_the_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443/")
    assert parse_spec("https://mirror.example:8443/org/repo/blob/main/a.gguf").path == "a.gguf"
    assert parse_spec("mirror.example:8443/org/repo").repo == "org/repo"


@pytest.mark.parametrize(
    "text",
    ["", "  ", "llama3", "llama3:8b", "https://example.com/org/repo", "https://huggingface.co/", "org/", "/repo",
     "org/../../etc", "org/repo/../../x", "huggingface.co/datasets/org/data", "o rg/repo", "org/re\x1bpo",
     "https://huggingface.co.evil.example/org/repo", "https://huggingface.co@evil.example/org/repo"],
)  # fmt: skip
def test_rubbish_is_refused_with_the_way_out(text):
    with pytest.raises(BadValue) as caught:
        parse_spec(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b.Q5_K_S.gguf", "Q5_K_S"),
        ("model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf", "UD-IQ1_S"),
        ("Q8_0/Big-00001-of-00002.gguf", "Q8_0"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "F16"),
        ("gemma-3-4b-it-BF16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Model-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("Model-Q3_K_XL.gguf", "Q3_K_XL"),
        ("Q-model.gguf", ""),
        ("ggml-model.gguf", ""),
        ("Qwen3-8B.gguf", ""),
    ],
)
def test_a_name_tells_its_quantization(path, label):
    assert quant_in(path) == label


def files(*names_and_sizes):
    return grouped("org/repo", "c" * 40, [Part(name, size, "e") for name, size in names_and_sizes])


MANY = files(("m-Q4_K_M.gguf", 40), ("m-Q8_0.gguf", 80), ("m-F16.gguf", 160), ("mmproj-m-F16.gguf", 5),
             ("big-Q6_K-00002-of-00002.gguf", 60), ("big-Q6_K-00001-of-00002.gguf", 50), ("README.md", 1))  # fmt: skip


def test_shards_are_one_file_and_projectors_stand_apart():
    assert [(file.kind, file.quant, file.size_bytes, len(file.parts)) for file in MANY] == [
        ("model", "Q4_K_M", 40, 1), ("model", "Q8_0", 80, 1), ("model", "Q6_K", 110, 2), ("model", "F16", 160, 1),
        ("projector", "F16", 5, 1),
    ]  # fmt: skip
    assert [part.path for part in choose(MANY, repo="r", quant="Q6_K").parts] == [
        "big-Q6_K-00001-of-00002.gguf", "big-Q6_K-00002-of-00002.gguf",
    ]  # fmt: skip


def test_the_default_is_q4_k_m_and_the_only_model_needs_no_name():
    assert choose(MANY, repo="r").quant == "Q4_K_M"
    assert choose(files(("odd.gguf", 3)), repo="r").path == "odd.gguf"
    assert choose(files(("a-UD-Q4_K_M.gguf", 3), ("a-Q8_0.gguf", 9)), repo="r").quant == "UD-Q4_K_M"
    assert choose(MANY, repo="r", quant="FP16").quant == "F16"


def test_a_file_a_shard_and_a_folder_can_be_named():
    assert choose(MANY, repo="r", path="m-Q8_0.gguf").quant == "Q8_0"
    assert len(choose(MANY, repo="r", path="big-Q6_K-00002-of-00002.gguf").parts) == 2
    inside = files(("UD-IQ1_S/m-UD-IQ1_S.gguf", 9), ("Q8_0/m-Q8_0.gguf", 20))
    assert choose(inside, repo="r", path="UD-IQ1_S").quant == "UD-IQ1_S"


def test_what_is_not_there_is_answered_with_what_is():
    with pytest.raises(NotFound, match="There is no Q5_K_M in org/repo") as caught:
        choose(MANY, repo="org/repo", quant="Q5_K_M")
    assert "Q4_K_M (40 B)" in caught.value.hint and "Q8_0 (80 B)" in caught.value.hint
    with pytest.raises(NotFound, match="the default") as caught:
        choose(files(("a-Q2_K.gguf", 7), ("a-Q8_0.gguf", 9)), repo="org/repo")
    assert "Q2_K (7 B)" in caught.value.hint
    with pytest.raises(NotFound, match="several Q4_K_M") as caught:
        choose(files(("a-Q4_K_M.gguf", 7), ("b-Q4_K_M.gguf", 9)), repo="org/repo")
    assert "a-Q4_K_M.gguf" in caught.value.hint and "b-Q4_K_M.gguf" in caught.value.hint
    with pytest.raises(NotFound, match="no model file other.gguf"):
        choose(MANY, repo="org/repo", path="other.gguf")


def parts(*names):
    return [Part(name, 1, "e") for name in names]


def test_a_checkpoint_is_what_a_conversion_needs():
    everything = parts(
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
        "chat_template.jinja", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "consolidated.safetensors", "pytorch_model.bin", "original/params.json",
        "tf_model.h5", "README.md", "onnx/model.onnx", "vocab.json", "merges.txt", ".gitattributes",
    )  # fmt: skip
    chosen = {part.path for part in checkpoint_parts(everything)}
    left_out = {"consolidated.safetensors", "pytorch_model.bin", "original/params.json", "tf_model.h5",
                "onnx/model.onnx", ".gitattributes"}  # fmt: skip
    assert chosen == {part.path for part in everything} - left_out
    assert {part.path for part in checkpoint_parts(everything, weights=False)} == {
        path for path in chosen if not path.endswith(".safetensors")
    }


def test_old_checkpoints_adapters_and_none():
    assert "pytorch_model.bin" in {part.path for part in checkpoint_parts(parts("config.json", "pytorch_model.bin"))}
    adapter = parts("adapter_config.json", "adapter_model.safetensors")
    assert checkpoint_parts(adapter) == tuple(adapter)
    assert checkpoint_parts(parts("model.safetensors", "README.md")) == ()
    chosen = choose(grouped("o/r", "c", parts("config.json", "model.safetensors")), repo="o/r")
    assert chosen.kind == "checkpoint" and chosen.size_bytes == 2
