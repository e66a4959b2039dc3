"""`convert --check org/name`: configuration and tokenizer come from the hub, the weights stay there."""

from __future__ import annotations

import json

import pytest
from loopback_hub import LoopbackHub, Repo
from tiny_checkpoints import VOCABULARY_SIZE, write_tokenizer

from localknobs.convert.preflight import check
from localknobs.errors import HubFailure, NotFound, Offline

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY_SIZE, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16", "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    write_tokenizer(made, "bytes")
    (made / "config.json").write_text(json.dumps(CONFIG))
    files = {file.name: file.read_bytes() for file in made.iterdir()}
    with LoopbackHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.repos["maker/raw"] = Repo({**files, "model.safetensors": b"w" * 10_000}, tags=("safetensors",))
        yield hub


def test_a_check_fetches_all_but_the_weights(hub):
    found = check("maker/raw")
    assert (found.family, found.layers, found.context_tokens, found.proved) == ("llama", 2, 256, True)
    fetched = {one.path.split("?")[0].rpartition("/")[2] for one in hub.asked if "/resolve/" in one.path}
    assert fetched == {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert found.folder.name == hub.repos["maker/raw"].commit
    asked = len(hub.asked)
    assert check("https://huggingface.co/maker/raw").layers == 2
    assert len(hub.asked) == asked + 1, "the files are here now: only the commit is asked for"


def test_what_cannot_be_checked_is_said(hub, monkeypatch):
    hub.repos["maker/gguf"] = Repo({"a.gguf": b"x"})
    hub.repos["maker/gated"] = Repo({"config.json": b"{}", "model.safetensors": b"w"}, gated=True)
    with pytest.raises(NotFound, match="There is no maker/none"):
        check("maker/none")
    with pytest.raises(NotFound, match="holds no checkpoint"):
        check("maker/gguf")
    with pytest.raises(HubFailure, match="is gated"):
        check("maker/gated")
    with pytest.raises(NotFound, match="no folder nowhere"):
        check("nowhere")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    with pytest.raises(Offline, match="TRANSFORMERS_OFFLINE is set"):
        check("maker/raw")
