"""What is wrong with a request is said in OpenAI's form, with the field, and the server lives on."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from served import Served

USER = [{"role": "user", "content": "Hi"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        (CHAT, {}, "messages", "at least one message"),
        (CHAT, {"messages": []}, "messages", "at least one message"),
        (CHAT, {"messages": ["Hi"]}, "messages[0]", "role and a content"),
        (CHAT, {"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "developer"),
        (CHAT, {"messages": [{"role": ["user"], "content": "Hi"}]}, "messages[0].role", "developer"),
        (CHAT, {"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "a text"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]", "pictures"),
        (CHAT, {"messages": USER, "temperature": "hot"}, "temperature", "0 to 5"),
        (CHAT, {"messages": USER, "temp": True}, "temp", "0 to 5"),
        (CHAT, {"messages": USER, "top_p": 2}, "top_p", "0 to 1"),
        (CHAT, {"messages": USER, "top_k": 1.5}, "top_k", "0 to"),
        (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens", "1 to"),
        (CHAT, {"messages": USER, "max_tokens": 5, "n_predict": 6}, "n_predict", "another value"),
        (CHAT, {"messages": USER, "stop": [1]}, "stop", "text"),
        (CHAT, {"messages": USER, "seed": "x"}, "seed", "0 to"),
        (CHAT, {"messages": USER, "samplers": ["top_q"]}, "samplers", "names out of"),
        (CHAT, {"messages": USER, "logit_bias": {"word": 1}}, "logit_bias", "/tokenize"),
        (CHAT, {"messages": USER, "logit_bias": 3}, "logit_bias", "TOKEN"),
        (CHAT, {"messages": USER, "stream": "yes"}, "stream", "true or false"),
        (CHAT, {"messages": USER, "stream_options": 1}, "stream_options", "object"),
        (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs", "needs `logprobs`"),
        (CHAT, {"messages": USER, "n": 2}, "n", "One answer"),
        (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, "tools", "not supported"),
        (CHAT, {"messages": [*USER, {"role": "tool", "content": "7"}]}, "messages[1].role", "with a JSON schema"),
        (CHAT, {"messages": [*USER, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls", "Tools are"),
        (CHAT, {"messages": USER, "response_format": "json"}, "response_format", "json_object"),
        (CHAT, {"messages": USER, "response_format": {"type": "json_schema"}}, "response_format", "JSON schema"),
        (CHAT, {"messages": USER, "json_schema": {}, "grammar": 'root ::= "a"'}, "json_schema", "both"),
        (CHAT, {"messages": USER, "json_schema": {"type": "nope"}}, None, "cannot be made into a grammar"),
        (CHAT, {"messages": USER, "json_schema": {"$ref": "https://example.com"}}, None, "refers to"),
        (CHAT, {"messages": USER, "json_schema": {"type": "array", "maxItems": 10**9}}, None, "At most 512"),
        (CHAT, {"messages": USER, "json_schema": {"type": "string", "pattern": "^a{9999999}$"}}, None, "At most 512"),
        (CHAT, {"messages": USER, "grammar": "nonsense"}, None, "cannot be parsed"),
        (CHAT, {"messages": USER, "logit_bias": {"99999": 1}}, None, "99999"),
        (CHAT, {"messages": USER, "model": 7}, "model", "a text"),
        (TEXT, {}, "prompt", "missing"),
        (TEXT, {"prompt": ["a", "b"]}, "prompt", "one text"),
        (TEXT, {"prompt": [1, 2]}, "prompt", "one text"),
        (TEXT, {"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
        (TEXT, {"prompt": "a", "logprobs": "two"}, "logprobs", "0 to 20"),
        (TEXT, {"prompt": "a", "echo": 1}, "echo", "true or false"),
        ("/tokenize", {"content": 1}, "content", "a text"),
        ("/detokenize", {"tokens": ["a"]}, "tokens", "whole numbers"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "no token -1"),
        ("/detokenize", {"tokens": [2**70]}, "tokens", "no token"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(server: Served, path: str, body: dict[str, Any], param: str | None, says: str):
    reply = server.client.post(path, json=body)
    error = reply.json()["error"]
    assert reply.status_code == 400, error
    assert error["type"] == "invalid_request_error" and error["param"] == param and says in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000])
def test_what_is_no_json_object_is_refused(server: Served, body: bytes):
    reply = server.client.post(CHAT, content=body)
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("number", ["1e400", "NaN", "-Infinity", "9" * 400, "9" * 5000])
def test_numbers_that_are_none_are_refused(server: Served, number: str):
    reply = server.client.post(TEXT, content=f'{{"prompt": "a", "temperature": {number}, "max_tokens": 1}}')
    assert reply.status_code == 400, reply.text


def test_half_a_character_does_no_harm(server: Served):
    reply = server.client.post(TEXT, content=rb'{"prompt": "a \ud800 b", "echo": true, "max_tokens": 1}')
    assert reply.status_code == 200 and reply.json()["choices"][0]["text"].startswith("a ? b")


def test_too_large_a_body_is_refused_before_it_is_read(server: Served):
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_too_large_a_body_in_chunks_is_refused(server: Served):
    def chunks():
        for _ in range(40):
            yield b" " * 2**20

    reply = server.client.post(TEXT, content=chunks())
    assert reply.status_code == 413 and "16 MiB" in reply.json()["error"]["message"]


def test_what_is_no_http_is_refused(server: Served):
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


def test_an_unknown_model_names_the_one_that_is_served(server: Served):
    reply = server.chat(model="gpt-4o")
    assert reply.status_code == 404
    assert (
        reply.json()["error"]["code"] == "model_not_found" and "tiny and built-in" in reply.json()["error"]["message"]
    )


def test_unknown_paths_and_methods(server: Served):
    lost = server.client.get("/v1/rerank")
    assert lost.status_code == 404 and "/v1/chat/completions" in lost.json()["error"]["message"]
    wrong = server.client.get(CHAT)
    assert wrong.status_code == 405 and "POST" in wrong.json()["error"]["message"]


def test_too_long_a_prompt_is_an_error_with_both_numbers(server: Served):
    for asked in ({"stream": False}, {"stream": True}):
        reply = server.post(TEXT, prompt="word " * 3000, **asked)
        error = reply.json()["error"]
        assert reply.status_code == 400 and error["code"] == "context_length_exceeded"
        assert error["n_prompt_tokens"] > error["n_ctx"] == 1024 and "1,024" in error["message"]
    assert server.chat().status_code == 200


def test_no_error_shows_a_traceback(server: Served):
    assert "Traceback" not in server.said and "Unexpected" not in server.said
