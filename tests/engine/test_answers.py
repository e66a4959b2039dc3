"""Whole answers by real worker processes: what is read, written, counted, and why it ends."""

from __future__ import annotations

import pytest
from engine_helpers import ask, once, reference_tokenizer, user
from random_model import END, TURN_END, byte_tokens, write_scripted_model

from localknobs.engine import PromptRead, TextArrived
from localknobs.errors import BadValue, ContextFull, LocalknobsError, NotFound

GREEDY = {"temp": 0.0}


# ---- reading the prompt


def test_the_same_question_twice_reads_one_token_and_gives_the_same_answer(built_in, open_engine):
    engine = open_engine(built_in)
    first = ask(engine, user("What is top-k?"), {**GREEDY, "n_predict": 24})
    again = ask(engine, user("What is top-k?"), {**GREEDY, "n_predict": 24})
    assert first.text and again.text == first.text
    assert first.stats.reused_tokens == 0
    assert again.stats.reused_tokens == again.stats.prompt_tokens - 1


def test_a_next_turn_reads_only_what_is_new_and_answers_as_without_reuse(built_in, shared_engine, open_engine):
    engine, fresh = shared_engine(built_in), open_engine(built_in)
    values = {**GREEDY, "n_predict": 24}
    turns = user("What is temperature?")
    first = ask(engine, turns, values)
    turns += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And top-p?"}]
    second = ask(engine, turns, values)
    # Everything up to where the answer ended was read before; how a text is cut into tokens may differ by one.
    assert second.stats.reused_tokens >= first.stats.prompt_tokens
    assert second.stats.reused_tokens < second.stats.prompt_tokens == engine.count_tokens(turns)
    without = ask(fresh, turns, values)
    assert without.stats.reused_tokens == 0 and without.text == second.text


def test_a_changed_early_message_is_read_again_from_there(built_in, shared_engine, open_engine):
    engine, fresh = shared_engine(built_in), open_engine(built_in)
    values = {**GREEDY, "n_predict": 16}
    ask(engine, user("What is temperature in this program?"), values)
    changed = ask(engine, user("What is a pass key in this program?"), values)
    assert 0 < changed.stats.reused_tokens < changed.stats.prompt_tokens - 5
    assert changed.text == ask(fresh, user("What is a pass key in this program?"), values).text


def test_token_counts_are_those_of_llama_cpps_own_tokenizer(built_in, shared_engine):
    engine, tokenize = shared_engine(built_in), reference_tokenizer(built_in)
    for text in ("Hello", "Zwölf Boxkämpfer", "日本語 😀", " leading and  double  spaces\n\n", "x" * 500):
        turns = user(text)
        rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        begin = tokenize(rendered, special=True)
        assert engine.count_tokens(turns) == len(begin) + 1  # the begin token
        assert ask(engine, turns, {"n_predict": 1}).stats.prompt_tokens == len(begin) + 1


def test_an_empty_text_is_a_prompt_of_the_begin_token(random_model, shared_engine):
    engine = shared_engine(random_model)
    assert engine.count_tokens("") == 1
    assert ask(engine, "", {"n_predict": 3}).stats.prompt_tokens == 1


def test_reading_a_long_prompt_tells_how_far_it_is(random_model, open_engine):
    engine = open_engine(random_model)
    answer = ask(engine, "x" * 1500, {"n_predict": 1})
    read = [event for event in answer.events if isinstance(event, PromptRead)]
    assert len(read) > 1 and read[-1].done == read[-1].total == answer.stats.prompt_tokens == 1501
    assert [event.done for event in read] == sorted({event.done for event in read})


def test_a_prompt_that_does_not_fit_is_refused_whole_and_the_engine_goes_on(alphabet_model, shared_engine):
    engine = shared_engine(alphabet_model, n_ctx=256)
    size = engine.info.context_size
    with pytest.raises(ContextFull) as caught:
        ask(engine, "a" * size)
    assert caught.value.available_tokens == size and caught.value.needed_tokens > size
    assert ask(engine, "m").text == "nopqrstuvwxyz"


def test_the_longest_prompt_that_fits_is_answered(alphabet_model, shared_engine):
    engine = shared_engine(alphabet_model, n_ctx=256)
    answer = ask(engine, "a" * (engine.info.context_size - 2), GREEDY)  # and the begin token
    assert answer.text == "bc" and answer.reason == "context"


# ---- writing


def test_end_tokens_end_the_answer_and_are_not_shown(folder, open_engine):
    for name, end in (("end", END), ("turn", TURN_END)):
        model = write_scripted_model(folder / f"ends-by-{name}.gguf", [*byte_tokens("abc"), end])
        answer = ask(open_engine(model), "a", GREEDY)
        assert (answer.text, answer.reason, answer.stats.generated_tokens) == ("bc", "end", 2)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_limit_of_tokens_is_exact(alphabet_model, shared_engine, count):
    answer = ask(shared_engine(alphabet_model), "a", {**GREEDY, "n_predict": count})
    assert answer.text == "bcdefgh"[:count] and answer.reason == "length"
    assert answer.stats.generated_tokens == count


def test_a_full_context_ends_the_answer_and_says_so(endless_model, shared_engine):
    engine = shared_engine(endless_model, n_ctx=256)
    answer = ask(engine, "a", GREEDY)
    assert answer.reason == "context"
    assert answer.stats.context_used == answer.stats.context_size == engine.info.context_size
    assert answer.stats.generated_tokens == engine.info.context_size - answer.stats.prompt_tokens + 1
    assert len(answer.text) == answer.stats.generated_tokens


def test_counts_in_the_events_are_those_of_the_end(endless_model, shared_engine):
    answer = ask(shared_engine(endless_model), "a", {**GREEDY, "n_predict": 1000})
    texts = [event for event in answer.events if isinstance(event, TextArrived)]
    assert texts[-1].generated_tokens == answer.stats.generated_tokens == len(answer.text) == 1000
    written = 0
    for event in texts:
        written += len(event.text)
        assert event.generated_tokens == written
    assert answer.stats.context_used == answer.stats.prompt_tokens + 999  # the last token is not decoded
    assert 0 < answer.stats.time_to_first_token_s and 0 < answer.stats.tokens_per_s


def test_characters_split_across_tokens_arrive_whole(folder, open_engine):
    text = "aé€😀z"
    engine = open_engine(write_scripted_model(folder / "utf8.gguf", [*byte_tokens("A" + text), END]))
    answer = ask(engine, "A", GREEDY)
    assert answer.text == text and answer.stats.generated_tokens == len(text.encode())
    assert ask(engine, "A", {**GREEDY, "n_predict": 8}).text == "aé€\ufffd"  # two of the four bytes of the last


def test_bytes_that_are_no_text_are_marked_and_not_lost(folder, open_engine):
    engine = open_engine(write_scripted_model(folder / "bytes.gguf", [*byte_tokens(b"A\xff\x80b\xe2c"), END]))
    assert ask(engine, "A", GREEDY).text == "\ufffd\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("stops", "text"),
    [(("fgh",), "bcde"), (("z",), "bcdefghijklmnopqrstuvwxy"), (("mno", "jk", "xyz"), "bcdefghi"), (("b",), "")],
)
def test_stop_strings_end_the_answer_and_are_not_shown(alphabet_model, shared_engine, stops, text):
    answer = ask(shared_engine(alphabet_model), "a", {**GREEDY, "stop": stops})
    assert (answer.text, answer.reason) == (text, "stop")


def test_a_stop_string_can_begin_inside_a_token(folder, open_engine):
    model = write_scripted_model(
        folder / "inside.gguf", [*byte_tokens("A"), 261, 262, *byte_tokens("z"), END], fillers=("one tw", "o three")
    )
    answer = ask(open_engine(model), "A", {**GREEDY, "stop": ("wo thr",)})
    assert (answer.text, answer.reason) == ("one t", "stop")


def test_text_held_back_for_a_stop_string_comes_when_the_answer_ends(alphabet_model, shared_engine):
    answer = ask(shared_engine(alphabet_model), "v", {**GREEDY, "stop": ("yz!",)})
    assert (answer.text, answer.reason) == ("wxyz", "end")


def test_an_answer_can_be_continued(built_in, shared_engine):
    engine = shared_engine(built_in)
    question = user("What is temperature?")
    whole = ask(engine, question, {**GREEDY, "n_predict": 12})
    begun = ask(engine, question, {**GREEDY, "n_predict": 5})
    turns = [*question, {"role": "assistant", "content": begun.text}]
    rest = ask(engine, turns, {**GREEDY, "n_predict": 7}, continue_last=True)
    assert begun.text + rest.text == whole.text
    assert rest.stats.prompt_tokens == begun.stats.prompt_tokens + 5


def test_continuing_reads_the_turn_as_open_and_a_new_turn_does_not(random_model, shared_engine):
    engine = shared_engine(random_model)
    turns = [*user("Hi"), {"role": "assistant", "content": "Yes"}]
    open_turn = engine.count_tokens(user("Hi")) + len("Yes")
    assert ask(engine, turns, {"n_predict": 1}, continue_last=True).stats.prompt_tokens == open_turn
    assert ask(engine, turns, {"n_predict": 1}).stats.prompt_tokens > open_turn


# ---- the seed


def test_a_seed_repeats_an_answer_and_zero_is_a_seed_like_any_other(random_model, shared_engine):
    engine = shared_engine(random_model)
    texts = {}
    for seed in (0, 1, 4_294_967_294):
        values = {"temp": 1.5, "seed": seed, "n_predict": 40}
        first, second = ask(engine, "x", values), ask(engine, "x", values)
        assert first.text == second.text and first.stats.seed == second.stats.seed == seed
        texts[seed] = first.text
    assert len(set(texts.values())) == 3


def test_without_a_seed_a_new_one_is_drawn_told_and_repeats_the_answer(random_model, shared_engine):
    engine = shared_engine(random_model)
    first, second = (ask(engine, "x", {"temp": 1.5, "n_predict": 40}) for _ in range(2))
    assert first.stats.seed >= 0 and first.stats.seed != second.stats.seed and first.text != second.text
    repeated = ask(engine, "x", {"temp": 1.5, "n_predict": 40, "seed": first.stats.seed})
    assert repeated.text == first.text


# ---- wrong calls


def test_a_wrong_knob_is_refused_before_anything_is_sent(random_model, shared_engine):
    engine = shared_engine(random_model)
    with pytest.raises(BadValue, match="0 to 5"):
        engine.stream("x", {"temp": 9})
    with pytest.raises(NotFound):
        engine.stream("x", {"temprature": 1})
    with pytest.raises(BadValue):
        engine.set_sampler({"top_p": 2})


def test_two_answers_at_once_are_refused_and_the_first_goes_on(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    first = engine.stream("a", {**GREEDY, "n_predict": 2000})
    next(first)
    with pytest.raises(LocalknobsError, match="already"):
        next(engine.stream("b"))
    with pytest.raises(LocalknobsError, match="already"):
        engine.count_tokens("b")
    assert sum(len(event.text) for event in first if isinstance(event, TextArrived)) == 2000


# ---- stopping


def test_stop_ends_the_answer_and_keeps_what_was_written(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    answer = ask(engine, "a", GREEDY, each=once(engine.stop))
    assert answer.reason == "stopped" and 0 < answer.stats.generated_tokens < 60_000
    assert len(answer.text) == answer.stats.generated_tokens
    assert ask(engine, "a", {**GREEDY, "n_predict": 3}).text == "bcd"


def test_a_stop_between_answers_is_not_kept_for_the_next(alphabet_model, shared_engine):
    engine = shared_engine(alphabet_model)
    ask(engine, "x", GREEDY)
    engine.stop()
    engine.set_sampler({"n_predict": 1})
    answer = ask(engine, "w", GREEDY)
    assert (answer.text, answer.reason, answer.changes) == ("xyz", "end", [])


def test_a_stop_right_behind_the_question_is_never_lost(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    for _ in range(20):
        stream = engine.stream("a", GREEDY)
        send = engine._worker.send

        def send_both(message, send=send):
            send(message)
            send({"do": "stop"})  # before the worker can have begun

        engine._worker.send = send_both
        last = list(stream)[-1]
        engine._worker.send = send
        assert last.reason == "stopped"


def test_a_long_prompt_can_be_stopped_and_the_next_answer_is_right(folder, open_engine):
    from random_model import write_random_model

    model = write_random_model(
        folder / "slow.gguf", layers=4, width=512, heads=8, kv_heads=4, feed_forward=2048, context=8192
    )
    engine, fresh = open_engine(model), open_engine(model)
    prompt = "stopwhilethisisread" * 300
    answer = ask(engine, prompt, {**GREEDY, "n_predict": 4}, each=lambda a, event: engine.stop())
    assert answer.reason == "stopped" and answer.text == ""
    read = [event.done for event in answer.events if isinstance(event, PromptRead)]
    assert read and read[-1] < len(prompt)
    values = {**GREEDY, "n_predict": 12}
    after = ask(engine, prompt[:800], values)
    assert after.stats.reused_tokens > 0
    assert after.text == ask(fresh, prompt[:800], values).text


def test_closing_the_generator_early_stops_the_answer_and_the_next_is_right(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    for events in range(4):
        stream = engine.stream("a", GREEDY)
        for _ in range(events):
            next(stream)
        stream.close()
        answer = ask(engine, "a", {**GREEDY, "n_predict": 5})
        assert answer.text == "bcdef"


def test_a_fixed_thread_count_can_be_set_and_is_told(alphabet_model, open_engine):
    engine = open_engine(alphabet_model, threads=0)
    engine.use_settings({"threads": 1})
    assert ask(engine, "x", GREEDY).stats.threads == 1
    assert engine.settings.threads == 1
