"""When the context is full: who is dropped, between turns and in mid-answer; that nothing crashes or is corrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_helpers import Answer, ask
from random_model import write_random_model

from localknobs.engine import ContextDropped, Message
from localknobs.engine.client import Engine
from localknobs.errors import BadValue, ContextFull, Unsupported

GREEDY = {"temp": 0.0}
CONTEXT = 256


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """Never ends, and its heads are wide enough for a quantized cache."""
    return write_random_model(
        folder / "overflow.gguf", context=CONTEXT, width=128, heads=2, kv_heads=1, never_ends=True, fillers=2000
    )


def drops(answer: Answer) -> list[ContextDropped]:
    return [event for event in answer.events if isinstance(event, ContextDropped)]


def chat(turns: int, system: str = "Be brief.", length: int = 40) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"question {turn} " + "abcdefgh"[turn % 8] * length})
        messages.append({"role": "assistant", "content": f"answer {turn}"})
    return messages[:-1]


def test_by_default_it_stops_and_says_so(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT)
    answer = ask(engine, "Hello", GREEDY)
    assert answer.reason == "context" and answer.stats.context_used == CONTEXT and not drops(answer)
    with pytest.raises(ContextFull, match=r"--context-full"):
        ask(engine, "x" * 400, GREEDY)


@pytest.mark.parametrize("policy", ["sinks", "middle", "attended"])
@pytest.mark.parametrize("way", ["auto", "hole", "reread"])
def test_an_answer_goes_on_past_the_window_in_the_middle_of_it(open_engine, model, policy, way):
    engine = open_engine(model, n_ctx=CONTEXT, context_full=policy, drop_by=way)
    answer = ask(engine, "Hello", {**GREEDY, "n_predict": 3 * CONTEXT})
    assert answer.reason == "length" and answer.stats.generated_tokens == 3 * CONTEXT
    told = drops(answer)
    assert len(told) >= 3 and told == sorted(told, key=lambda event: event.at_token)
    for event in told:
        held = sum(end - begin for begin, end in event.held)
        lost = sum(end - begin for begin, end in event.dropped)
        assert held + lost == event.total and lost == event.dropped_tokens and held < CONTEXT
        assert event.held[0][0] == 0 and event.held[0][1] >= 4, "the first tokens stay"
        assert sorted([*event.held, *event.dropped])[-1][1] == event.total, "the newest tokens stay"
        assert event.policy == policy and str(event.dropped_tokens) in event.text.replace(",", "")
    expected = {"auto": {"shift"}, "hole": {"shift"}, "reread": {"reread"}}[way]  # holes end at the trained length
    assert {event.way for event in told} == expected
    head = {"sinks": 4, "middle": CONTEXT // 2, "attended": 4}[policy]
    assert told[0].held[0][1] >= head


def test_holes_stay_open_within_the_trained_length(open_engine, folder):
    far = write_random_model(folder / "far.gguf", context=4096, never_ends=True, fillers=2000)
    engine = open_engine(far, n_ctx=CONTEXT, context_full="sinks", drop_by="hole")
    answer = ask(engine, "Hello", {**GREEDY, "n_predict": 3 * CONTEXT})
    assert {event.way for event in drops(answer)} == {"hole"} and answer.reason == "length"


def test_shift_and_hole_are_the_same_but_for_rounding(open_engine, folder):
    """The text of a model far from its trained length's end must not depend on how the rest closes up."""
    far = write_random_model(folder / "far.gguf", context=4096, never_ends=True, fillers=2000)
    texts = []
    for way in ("hole", "shift"):
        engine = open_engine(
            far, n_ctx=CONTEXT, context_full="sinks", drop_by=way, cache_type_k="f32", flash_attn="off"
        )
        texts.append(ask(engine, "Hello", {**GREEDY, "n_predict": CONTEXT + 20}).text)
        engine.close()
    assert texts[0][: len(texts[0]) - 5] == texts[1][: len(texts[0]) - 5]


def test_what_was_dropped_needs_no_reading_in_the_next_turn(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="sinks")
    first = ask(engine, "Hello", {**GREEDY, "n_predict": CONTEXT})
    assert drops(first)
    prompt = "Hello" + first.text
    tokens = engine.count_tokens(prompt)
    again = ask(engine, prompt, {**GREEDY, "n_predict": 4})
    # Some bytes of random text are read as other tokens than they were written: then little can be reused.
    assert again.stats.prompt_tokens == tokens and again.stats.context_used <= CONTEXT


def test_a_long_prompt_streams_through_sinks_and_is_continued_without_reading_it_again(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="sinks")
    text = "The quick brown fox jumps over the lazy dog. " * 30
    first = ask(engine, text, {**GREEDY, "n_predict": 1})
    assert first.stats.prompt_tokens > 4 * CONTEXT and len(drops(first)) > 4 and drops(first)[0].at_token == 0
    longer = ask(engine, text + "And then?", {**GREEDY, "n_predict": 1})
    assert longer.stats.prompt_tokens - longer.stats.reused_tokens < 20
    short = ask(engine, "The quick brown fox", {**GREEDY, "n_predict": 4})
    engine.close()
    fresh = open_engine(model, n_ctx=CONTEXT)
    assert short.text == ask(fresh, "The quick brown fox", {**GREEDY, "n_predict": 4}).text, "a short prompt is whole"


def test_the_middle_of_a_long_prompt_is_left_out_unread(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="middle")
    begin, end = "B" * 140, "E" * 110
    answer = ask(engine, begin + "m" * 900 + end, {**GREEDY, "n_predict": 2})
    (told,) = drops(answer)
    assert told.held[0] == (0, CONTEXT // 2) and told.total <= answer.stats.prompt_tokens
    assert answer.stats.context_used < CONTEXT - 20, "there is room for an answer"
    same = open_engine(model, n_ctx=CONTEXT, context_full="middle")
    other = ask(same, begin + "x" * 900 + end, {**GREEDY, "n_predict": 2})
    assert other.text == answer.text, "nobody has read the middle"


def test_oldest_whole_turns_go_and_the_system_prompt_stays(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="turns")
    answer = ask(engine, chat(6), {**GREEDY, "n_predict": 4})
    (told,) = drops(answer)
    assert told.dropped_turns >= 1 and told.at_token == 0
    kept = [chat(6)[0], *chat(6)[1 + 2 * told.dropped_turns :]]
    assert answer.stats.prompt_tokens == engine.count_tokens(kept)
    engine.close()
    fresh = open_engine(model, n_ctx=CONTEXT)
    assert ask(fresh, kept, {**GREEDY, "n_predict": 4}).text == answer.text


def test_a_conversation_that_grows_drops_turns_again_and_again(open_engine, model):
    engine = open_engine(model, n_ctx=2 * CONTEXT, context_full="turns")
    dropped = []
    for turns in range(1, 18):
        answer = ask(engine, chat(turns), {**GREEDY, "n_predict": 4})
        assert answer.reason == "length"
        dropped += [event.dropped_turns for event in drops(answer)]
    assert dropped == sorted(dropped) and dropped[-1] >= 8
    assert len(dropped) < dropped[-1], "several turns go at once"


def test_turns_go_in_the_middle_of_an_answer_until_only_its_own_is_left(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="turns")
    answer = ask(engine, chat(3, length=20), {**GREEDY, "n_predict": 2 * CONTEXT})
    told = drops(answer)
    assert told and told[-1].dropped_turns == 2 and told[-1].at_token > 0
    assert answer.reason == "context", "an answer is never dropped from its own turn"
    with pytest.raises(ContextFull):
        ask(engine, chat(1, length=400), GREEDY)


def test_the_system_prompt_is_kept_beside_the_sinks(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="sinks")
    system = "S" * 60
    answer = ask(engine, chat(2, system), {**GREEDY, "n_predict": 2 * CONTEXT})
    assert all(event.held[0][1] >= 60 for event in drops(answer)) and drops(answer)
    with pytest.raises(ContextFull, match="kept always"):
        ask(engine, chat(3, "S" * 200), GREEDY)


def test_a_window_is_emulated_by_blocks_and_labelled_as_such(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, sliding_window=64)
    answer = ask(engine, "Hello", {**GREEDY, "n_predict": 300})
    assert {event.policy for event in drops(answer)} == {"window"} and answer.stats.context_used <= 4 + 64 + 8
    assert "window" in drops(answer)[0].text


def test_it_is_chosen_between_answers_without_a_new_load(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT)
    assert ask(engine, "Hello", GREEDY).reason == "context"
    for policy in ("sinks", "attended", "middle"):
        engine.use_settings({"context_full": policy})
        answer = ask(engine, "Hello", {**GREEDY, "n_predict": 300})
        assert drops(answer)[0].policy == policy
    engine.use_settings({"context_full": "stop"})
    assert ask(engine, "Hello", GREEDY).reason == "context"


@pytest.mark.parametrize("policy", ["sinks", "attended", "middle"])
def test_with_yarn_the_safe_way_is_taken_and_shift_is_refused(open_engine, model, policy):
    yarn = {"n_ctx": CONTEXT, "rope_scaling": "yarn", "rope_scale": 2.0, "context_full": policy}
    engine = open_engine(model, **yarn)
    answer = ask(engine, "Hello", {**GREEDY, "n_predict": 3 * CONTEXT})
    assert answer.reason == "length" and "shift" not in {event.way for event in drops(answer)}
    assert {"hole", "reread"} == {event.way for event in drops(answer)}, "holes while they are within YaRN's length"
    with pytest.raises(Unsupported, match=r"drop_by.*YaRN"):
        open_engine(model, **yarn, drop_by="shift")


def test_shift_is_refused_where_llama_cpp_would_end_on_it(open_engine, folder):
    """A partial-rotary model with a quantized K: ggml aborts, "not implemented"."""
    partial = write_random_model(
        folder / "partial.gguf", context=CONTEXT, width=128, heads=2, kv_heads=1, never_ends=True, fillers=2000,
        architecture="phi3", rotary=32,
    )  # fmt: skip
    quantized = {"n_ctx": CONTEXT, "cache_type_k": "q8_0", "context_full": "sinks"}
    with pytest.raises(Unsupported, match=r"rotated in part"):
        open_engine(partial, **quantized, drop_by="shift")
    engine = open_engine(partial, **quantized)
    answer = ask(engine, "Hello", {**GREEDY, "n_predict": 2 * CONTEXT})
    assert answer.reason == "length" and {event.way for event in drops(answer)} == {"reread"}


def test_attention_cannot_be_watched_with_quantized_values(open_engine, model):
    with pytest.raises(Unsupported, match="quantized V"):
        open_engine(model, n_ctx=CONTEXT, cache_type_v="q8_0", context_full="attended")


def test_drafts_and_dropping_go_together(open_engine, model):
    plain = open_engine(model, n_ctx=CONTEXT, context_full="sinks", drop_by="reread", cache_type_k="f32")
    wanted = ask(plain, "Hello", {**GREEDY, "n_predict": 2 * CONTEXT})
    plain.close()
    drafting = open_engine(
        model, n_ctx=CONTEXT, context_full="sinks", drop_by="reread", cache_type_k="f32", draft="ngram"
    )
    answer = ask(drafting, "Hello", {**GREEDY, "n_predict": 2 * CONTEXT})
    assert answer.reason == "length" and len(drops(answer)) == len(drops(wanted))
    assert answer.text[:100] == wanted.text[:100]


def test_a_stop_while_a_long_prompt_streams_leaves_a_usable_cache(open_engine, model):
    engine = open_engine(model, n_ctx=CONTEXT, context_full="sinks", n_batch=32)
    text = "The quick brown fox jumps over the lazy dog. " * 40

    def stop(answer: Answer, event: Any) -> None:
        if isinstance(event, ContextDropped):
            engine.stop()

    assert ask(engine, text, GREEDY, each=stop).reason == "stopped"
    assert ask(engine, text, {**GREEDY, "n_predict": 4}).reason == "length"


def test_a_model_with_a_real_window_reads_again_what_left_it(open_engine, folder):
    """Going back further than a sliding window's cache reaches must not answer from what is gone."""
    sliding = write_random_model(
        folder / "sliding.gguf", context=1024, layers=4, never_ends=True, fillers=2000,
        architecture="olmo2", keys={"olmo2.attention.sliding_window": 32},
    )  # fmt: skip

    def answers(**settings: Any) -> tuple[str, str]:
        engine = open_engine(sliding, n_ctx=1024, n_batch=64, n_ubatch=64, **settings)
        ask(engine, "The quick brown fox jumps over the lazy dog. " * 16, {**GREEDY, "n_predict": 4})
        back = ask(engine, "The quick brown fox jumps over the lazy cat", {**GREEDY, "n_predict": 8})
        engine.close()
        fresh = open_engine(sliding, n_ctx=1024, n_batch=64, n_ubatch=64, **settings)
        return back.text, ask(fresh, "The quick brown fox jumps over the lazy cat", {**GREEDY, "n_predict": 8}).text

    for settings in ({}, {"swa_full": "on"}):
        back, fresh = answers(**settings)
        assert back == fresh != ""


def test_a_wrong_value_is_refused_by_name(open_engine, model):
    engine: Engine = open_engine(model, n_ctx=CONTEXT)
    with pytest.raises(BadValue, match="context_full"):
        engine.use_settings({"context_full": "everything"})
