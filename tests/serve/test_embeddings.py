"""Texts as vectors over HTTP: OpenAI's forms, both encodings, what is wrong named, and chats that go on beside it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from served import Served

PATH = "/v1/embeddings"


def vectors(server: Served, given: Any, **fields: Any) -> list[list[float]]:
    reply = server.post(PATH, input=given, **fields)
    assert reply.status_code == 200, reply.text
    return [one["embedding"] for one in reply.json()["data"]]


def test_a_text_becomes_a_vector_of_length_1(server: Served):
    reply = server.post(PATH, input="What does temperature do?", model="tiny").json()
    assert reply["object"] == "list" and reply["model"] == "tiny"
    (one,) = reply["data"]
    assert one["object"] == "embedding" and one["index"] == 0
    assert sum(value * value for value in one["embedding"]) == pytest.approx(1, abs=1e-5)
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 3
    assert "mean of its last hidden states" in reply["notes"][0], "a chat model is told apart from one made for it"


def test_a_list_has_a_vector_each_and_tokens_are_texts_too(server: Served):
    texts = ["Temperature", "Once upon a time"]
    both = vectors(server, texts)
    assert both[0] == pytest.approx(vectors(server, texts[0])[0], abs=1e-6) and both[0] != both[1]
    tokens = server.post("/tokenize", content=texts[0], add_special=True).json()["tokens"]
    assert vectors(server, tokens)[0] == pytest.approx(both[0], abs=1e-6)
    assert vectors(server, [tokens, tokens])[1] == pytest.approx(both[0], abs=1e-6)


def test_base64_holds_the_same_numbers(server: Served):
    (plain,) = vectors(server, "Temperature")
    (encoded,) = vectors(server, "Temperature", encoding_format="base64")
    data = base64.b64decode(encoded)  # type: ignore[arg-type]
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(plain, abs=1e-6)


def test_a_chat_after_a_vector_is_what_it_was(server: Served):
    before = server.chat().json()["choices"][0]["message"]["content"]
    vectors(server, "Something else")
    assert server.chat().json()["choices"][0]["message"]["content"] == before


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", [5, "b"]]}, "input[1]"),
        ({"input": ""}, "input[0]"),
        ({"input": [10**6]}, "input[0]"),
        ({"input": [[-1]]}, "input[0]"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 64}, "dimensions"),
        ({"input": "a", "model": "other"}, "model"),
    ],
)
def test_what_is_wrong_is_named(server: Served, body: dict[str, Any], param: str):
    reply = server.post(PATH, **body)
    assert reply.status_code in (400, 404) and reply.json()["error"]["param"] == param


def test_too_long_a_text_is_an_error_with_both_numbers(server: Served):
    error = server.post(PATH, input=["a", "word " * 3000]).json()["error"]
    assert error["code"] == "context_length_exceeded" and error["param"] == "input[1]"
    assert error["n_prompt_tokens"] > error["n_ctx"] == 1024
