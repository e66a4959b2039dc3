"""Knobs turned while an answer is being written: at which token they take effect, and what they leave alone."""

from __future__ import annotations

from engine_helpers import ask, once
from random_model import byte_tokens

from localknobs.engine import TextArrived

GREEDY = {"temp": 0.0}
ENDLESS = {"seed": 4, "temp": 1.2, "n_predict": 700, "logit_bias": [(token, float("-inf")) for token in range(5)]}


def test_a_change_takes_effect_exactly_where_the_event_says(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    (letter,) = byte_tokens("Q")

    def each(answer, event):
        if isinstance(event, TextArrived) and not answer.changes:
            engine.set_sampler({"logit_bias": [(letter, 1000.0)]})
        if answer.changes and answer.text.endswith("Q" * 50):
            engine.stop()

    answer = ask(engine, "a", GREEDY, each=each)
    change = answer.changes[0]
    assert change.changes == {"logit_bias": ((letter, 1000.0),)}
    assert change.at_token == change.at_character > 0  # a character a token in this model
    before, after = answer.text[: change.at_character], answer.text[change.at_character :]
    assert "Q" not in before and set(after) == {"Q"} and len(after) >= 50


def test_the_event_comes_between_the_text_before_and_after_it(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    (letter,) = byte_tokens("Q")
    bias = {"logit_bias": [(letter, 1000.0)]}
    answer = ask(engine, "a", {**GREEDY, "n_predict": 1000}, each=once(lambda: engine.set_sampler(bias)))
    at = answer.events.index(answer.changes[0])
    assert all("Q" not in event.text for event in answer.events[:at] if isinstance(event, TextArrived))
    assert all(set(event.text) == {"Q"} for event in answer.events[at:] if isinstance(event, TextArrived))


def warmed_up(engine):
    """Read the prompt, so that every further answer reuses the same part of it: the numbers depend on that a little."""
    ask(engine, "x", {"n_predict": 1})
    return engine


def test_a_change_keeps_the_random_numbers_going(random_model, shared_engine):
    engine = warmed_up(shared_engine(random_model))
    alone = ask(engine, "x", ENDLESS)
    # Changes that the chain cannot notice, as DRY, XTC and mirostat are off: only the random numbers could differ.
    for changes in ({"dry_base": 3.0}, {"xtc_threshold": 0.3}, {"mirostat_tau": 4.0}):
        changed = ask(engine, "x", ENDLESS, each=once(lambda changes=changes: engine.set_sampler(changes)))
        assert changed.changes and changed.text == alone.text


def test_every_kind_of_draw_goes_on_through_a_change(random_model, shared_engine):
    engine = warmed_up(shared_engine(random_model))
    for kind in (
        {"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.2}, {"xtc_probability": 0.5, "xtc_threshold": 0.01},
        {"repeat_penalty": 1.3}, {"dry_multiplier": 1.0},
    ):  # fmt: skip
        values = {**ENDLESS, **kind}
        alone = ask(engine, "x", values)
        touched = ask(engine, "x", values, each=once(lambda: engine.set_sampler({"dynatemp_exponent": 2.0})))
        assert touched.changes and touched.text == alone.text, kind


def test_a_sampler_switched_on_has_seen_the_prompt_and_the_answer(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    penalty = {"presence_penalty": 10.0, "frequency_penalty": 10.0, "repeat_last_n": 200}

    def each(answer, event):
        if len(answer.text) > 200 and not answer.changes:
            engine.set_sampler(penalty)

    answer = ask(engine, "a", {**GREEDY, "n_predict": 1000}, each=each)
    at = answer.changes[0].at_character
    # The alphabet is what the model wants to write; all of it is in the window and so much less likely.
    assert not set(answer.text[at : at + 30]) & set("abcdefghijklmnopqrstuvwxyz")


def test_only_what_differs_is_told_and_several_changes_are_taken_together(endless_model, shared_engine):
    engine = shared_engine(endless_model)

    def turn():
        engine.set_sampler({"temp": 0.0, "top_k": 40})  # as they are: nothing to tell

    answer = ask(engine, "a", {**GREEDY, "n_predict": 1000}, each=once(turn))
    assert answer.changes == []


def test_stop_strings_and_the_limit_can_be_changed(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    answer = ask(engine, "a", GREEDY, each=once(lambda: engine.set_sampler({"stop": ["mno"]})))
    assert answer.reason == "stop" and answer.text.endswith("jkl")
    assert len(answer.text) - answer.changes[0].at_character <= 26 + len("mno")

    answer = ask(engine, "a", GREEDY, each=once(lambda: engine.set_sampler({"n_predict": 1})))
    assert answer.reason == "length"  # lowered below what is written: it ends with the next token
    assert answer.stats.generated_tokens == answer.changes[0].at_token + 1

    values = {**GREEDY, "stop": ["zab"]}
    answer = ask(engine, "Z", {**values, "n_predict": 10})
    assert answer.reason == "length"


def test_stop_strings_of_the_answer_can_be_taken_away(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    (letter,) = byte_tokens("Q")
    values = {**GREEDY, "stop": ["Q"], "n_predict": 1000}

    def turn():
        engine.set_sampler({"stop": [], "logit_bias": [(letter, 1000.0)]})

    answer = ask(engine, "a", values, each=once(turn))
    assert answer.reason == "length" and answer.text.endswith("QQQ")


def test_a_change_that_is_wrong_for_this_model_is_a_note_and_the_answer_goes_on(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    answer = ask(
        engine, "a", {**GREEDY, "n_predict": 1000}, each=once(lambda: engine.set_sampler({"logit_bias": [(9999, 1.0)]}))
    )
    assert answer.reason == "length" and answer.changes == []
    assert any("9999" in note for note in answer.notes)
    assert set(answer.text) <= set("abcdefghijklmnopqrstuvwxyz")


def test_what_counts_from_the_next_answer_on_does_not_touch_this_one(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    values = {**GREEDY, "seed": 3, "n_predict": 1000}

    def turn():
        engine.set_sampler({"seed": 9, "grammar": 'root ::= "1"'})

    answer = ask(engine, "a", values, each=once(turn))
    assert answer.changes == [] and answer.notes == []
    assert answer.reason == "length" and answer.stats.seed == 3


def test_changes_work_while_a_grammar_holds(random_model, shared_engine):
    engine = shared_engine(random_model)
    values = {**ENDLESS, "grammar": "root ::= [a-c]+", "n_predict": 1000}
    (letter,) = byte_tokens("b")
    answer = ask(engine, "x", values, each=once(lambda: engine.set_sampler({"logit_bias": [(letter, 1000.0)]})))
    at = answer.changes[0].at_character
    assert set(answer.text[:at]) <= set("abc") and set(answer.text[at:]) == {"b"}
