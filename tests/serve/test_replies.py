"""What a client gets: whole and as a stream, with every knob, the form it asks for, and the counts."""

from __future__ import annotations

import json
import math

import pytest
from served import Served

MESSAGES = [{"role": "user", "content": "What does temperature do?"}]


def text_of(events: list[dict]) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])


def test_a_chat_has_openais_form(server: Served):
    reply = server.chat(seed=1).json()
    assert reply["object"] == "chat.completion" and reply["id"].startswith("chatcmpl-") and reply["model"] == "tiny"
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"].startswith("Temperature")
    assert choice["finish_reason"] == "stop" and choice["index"] == 0
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20
    assert reply["timings"]["seed"] == 1 and "notes" not in reply


def test_a_stream_brings_the_same_answer_in_pieces(server: Served):
    whole = server.chat().json()
    asked = {"messages": MESSAGES, "stream_options": {"include_usage": True}}
    with server.streaming("/v1/chat/completions", **asked) as stream:
        events = list(stream)
    assert text_of(events) == whole["choices"][0]["message"]["content"]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {event["object"] for event in events} == {"chat.completion.chunk"} and len({e["id"] for e in events}) == 1
    assert [e["choices"][0]["finish_reason"] for e in events if e["choices"]][-2:] == [None, "stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_a_stream_has_no_counts_unless_they_are_asked_for(server: Served):
    with server.streaming("/v1/chat/completions", messages=MESSAGES, max_tokens=3) as stream:
        assert not any("usage" in event for event in stream)


def test_a_completion_continues_the_text_as_it_is(server: Served):
    plain = server.post("/v1/completions", prompt="Temperature sets how", max_tokens=3).json()
    assert plain["object"] == "text_completion" and plain["choices"][0]["finish_reason"] == "length"
    assert plain["choices"][0]["text"] and plain["usage"]["completion_tokens"] == 3
    echoed = server.post("/v1/completions", prompt=["Temperature sets how"], max_tokens=3, echo=True).json()
    assert echoed["choices"][0]["text"] == "Temperature sets how" + plain["choices"][0]["text"]
    with server.streaming(prompt="Temperature sets how", max_tokens=3, echo=True) as stream:
        assert "".join(event["choices"][0]["text"] for event in stream) == echoed["choices"][0]["text"]


def test_the_limit_the_stop_texts_and_the_seed_count(server: Served):
    assert server.chat(max_tokens=4).json()["usage"]["completion_tokens"] == 4
    assert server.chat(max_completion_tokens=5).json()["usage"]["completion_tokens"] == 5
    stopped = server.chat(stop=[" random"]).json()["choices"][0]
    assert stopped["message"]["content"].endswith("how") and stopped["finish_reason"] == "stop"
    hot = {"temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 12}
    answers = [server.chat(seed=seed, **hot).json()["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_llama_cpps_request_names_reach_the_samplers(server: Served):
    (token,) = server.post("/tokenize", content="Temperature").json()["tokens"]
    never = server.chat(logit_bias={str(token): -100}, max_tokens=3).json()["choices"][0]["message"]["content"]
    assert not never.startswith("Temperature")
    assert server.chat(logit_bias=[[token, False]], max_tokens=3).json()["choices"][0]["message"]["content"] == never
    grammar = server.chat(grammar='root ::= "yes" | "no"').json()["choices"][0]["message"]["content"]
    assert grammar in ("yes", "no")


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "boolean"}}}},
        {"json_schema": {"enum": [17]}},
    ],
    ids=["object", "schema", "llama.cpp's name"],
)
def test_an_answer_has_the_form_that_is_asked_for(server: Served, form: dict):
    content = json.loads(server.chat("Give JSON", **form, max_tokens=200).json()["choices"][0]["message"]["content"])
    assert isinstance(content, dict | bool) or content == 17


def test_log_probabilities_are_the_models_own_and_make_up_the_text(server: Served):
    choice = server.chat(logprobs=True, top_logprobs=3, max_tokens=8, temperature=0).json()["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == 8
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == choice["message"]["content"]
    for token in tokens:
        likeliest = token["top_logprobs"]
        assert len(likeliest) == 3 and likeliest[0]["token"] == token["token"]  # greedy
        chances = [one["logprob"] for one in likeliest]
        assert chances == sorted(chances, reverse=True) and sum(map(math.exp, chances)) <= 1.0001


def test_log_probabilities_of_a_stream_are_those_of_the_whole_answer(server: Served):
    asked = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1, "max_tokens": 20}
    whole = server.post("/v1/chat/completions", **asked).json()["choices"][0]["logprobs"]["content"]
    with server.streaming("/v1/chat/completions", **asked) as stream:
        pieces = [event["choices"][0].get("logprobs") for event in stream]
    assert [token for piece in pieces if piece for token in piece["content"]] == whole


def test_tokens_of_a_stop_text_are_not_told(server: Served):
    asked = {"prompt": "Temperature sets how", "logprobs": 1}
    whole = server.post("/v1/completions", **asked, max_tokens=8).json()["choices"][0]
    stop, offsets = "".join(whole["logprobs"]["tokens"][3:5]), whole["logprobs"]["text_offset"]
    choice = server.post("/v1/completions", **asked, stop=stop).json()["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["text"] == whole["text"][: offsets[3]]
    assert choice["logprobs"]["tokens"] == whole["logprobs"]["tokens"][:3]
    assert choice["logprobs"]["text_offset"] == offsets[:3] and len(choice["logprobs"]["top_logprobs"][0]) == 1


def test_the_next_turn_reads_only_what_is_new(server: Served):
    first = server.chat("Name a lever.").json()
    said = first["choices"][0]["message"]["content"]
    turns = [
        {"role": "user", "content": "Name a lever."}, {"role": "assistant", "content": said},
        {"role": "user", "content": "And another?"},
    ]  # fmt: skip
    usage = server.post("/v1/chat/completions", messages=turns).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]
    fresh = server.post("/v1/chat/completions", messages=turns, cache_prompt=False).json()["usage"]
    assert fresh["prompt_tokens_details"]["cached_tokens"] == 0


def test_an_assistants_last_message_is_continued(server: Served):
    turns = [*MESSAGES, {"role": "assistant", "content": "Temperature sets how"}]
    content = server.post("/v1/chat/completions", messages=turns).json()["choices"][0]["message"]["content"]
    assert content.startswith(" random")


def test_content_may_come_in_parts_and_developer_is_the_system(server: Served):
    parts = [{"type": "text", "text": "What does "}, {"type": "text", "text": "temperature do?"}]
    in_parts = server.post("/v1/chat/completions", messages=[{"role": "user", "content": parts}]).json()
    assert in_parts["choices"][0]["message"]["content"] == server.chat().json()["choices"][0]["message"]["content"]
    told = [{"role": role, "content": "Be short."} for role in ("system", "developer")]
    counts = [server.post("/v1/chat/completions", messages=[one, *MESSAGES], max_tokens=1).json() for one in told]
    assert counts[0]["usage"]["prompt_tokens"] == counts[1]["usage"]["prompt_tokens"]


def test_fields_that_nobody_knows_are_told(server: Served):
    reply = server.chat(max_tokens=2, temprature=0.1, user="me").json()
    assert reply["notes"] == ["The field 'temprature' is not known here and was ignored. Is it temperature?"]


def test_tokens_and_back(server: Served):
    text = "Grüße 世界 <|im_end|>"
    tokens = server.post("/tokenize", content=text).json()["tokens"]
    assert server.post("/detokenize", tokens=tokens).json() == {"content": text}
    pieces = server.post("/tokenize", content="ü", with_pieces=True, add_special=True).json()["tokens"]
    assert pieces[0]["piece"] == "<|startoftext|>"
    assert bytes(byte for piece in pieces[1:] for byte in _bytes(piece["piece"])).decode() == "ü"
    assert len(server.post("/tokenize", content="<|im_end|>", parse_special=False).json()["tokens"]) > 1


def _bytes(piece: str | list[int]) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def test_models_properties_and_health(server: Served):
    assert server.client.get("/health").json() == {"status": "ok"}
    models = server.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["tiny", "built-in"] and models[0]["meta"]["n_ctx"] == 1024
    for name in ("tiny", "built-in", "", None):
        assert server.chat(model=name, max_tokens=1).status_code == 200
    props = server.client.get("/props").json()
    assert props["default_generation_settings"]["params"]["temp"] == 0 and props["total_slots"] == 1


def test_metrics_count(server: Served):
    before = server.metric("tokens_predicted_total")
    server.chat(max_tokens=7)
    assert server.metric("tokens_predicted_total") == before + 7
    assert server.metric("requests_processing") == 0
