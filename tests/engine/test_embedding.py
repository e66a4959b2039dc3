"""A text as one vector: llama.cpp's own pooling, whatever the text's length; and an engine that chats on after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_model import write_random_model

from localknobs.errors import BadValue, ContextFull, Unsupported

TEXTS = ("Tides follow the moon.", "x", "One long text of many words, " * 20)
GREEDY = {"temp": 0.0, "n_predict": 8}


def raw_vectors(model: Path, pooling: int, tokens: list[list[int]]) -> np.ndarray:
    script = Path(__file__).with_name("raw_vectors.py")
    words = [sys.executable, str(script), str(model), str(pooling), json.dumps(tokens)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("name", "pooling"), [("", 1), ("mean", 1), ("last", 3)], ids=["none named", "mean", "last"])
def test_vectors_are_llama_cpps_own_also_beyond_a_micro_batch(open_engine, tmp_path, name, pooling):
    keys = {"llama.pooling_type": pooling, "tokenizer.ggml.add_eos_token": True} if name else {}
    model = write_random_model(tmp_path / "model.gguf", context=1024, keys=keys)
    engine = open_engine(model, n_ctx=1024, n_batch=64, n_ubatch=32, use_extra_bufts=False)
    assert engine.info.pooling == name
    tokens = [list(engine.tokenize(text, begin=True)) + ([2] if name else []) for text in TEXTS]
    found = [engine.embed(text) for text in TEXTS]
    assert [count for _, count in found] == [len(one) for one in tokens] and len(tokens[-1]) > 512
    vectors = np.array([vector for vector, _ in found])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(vectors, raw_vectors(model, pooling, tokens), atol=2e-3)
    assert np.allclose(engine.embed(tokens[0])[0], vectors[0], atol=1e-6), "tokens are taken as they are"


def test_an_answer_after_a_vector_is_what_it_was(open_engine, built_in):
    engine = open_engine(built_in)

    def answer() -> str:
        return "".join(getattr(event, "text", "") for event in engine.stream("Temperature", GREEDY))

    before = answer()
    first, _ = engine.embed("What does temperature do?")
    assert answer() == before
    assert np.allclose(engine.embed("What does temperature do?")[0], first, atol=1e-6)
    near, far = (engine.embed(text)[0] for text in ("what will temperature do", "Once upon a time there was a fox."))
    assert np.dot(first, near) > np.dot(first, far)


def test_what_has_no_vector_is_refused_and_the_engine_lives(open_engine, tmp_path):
    engine = open_engine(write_random_model(tmp_path / "model.gguf", context=256), n_ctx=256)
    with pytest.raises(BadValue, match="empty text"):
        engine.embed("")
    with pytest.raises(BadValue, match="no token 100000"):
        engine.embed([5, 100_000])
    with pytest.raises(ContextFull) as full:
        engine.embed("a" * 300)
    assert full.value.needed_tokens == 301 and full.value.available_tokens == 256
    assert len(engine.embed("a")[0]) == 64
    ranks = open_engine(write_random_model(tmp_path / "ranks.gguf", keys={"llama.pooling_type": 4}))
    with pytest.raises(Unsupported, match="gives no vectors"):
        ranks.embed("a")
