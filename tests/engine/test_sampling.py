"""Every sampler against llama.cpp's own common chain, token by token; grammars and biases by their effect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from engine_helpers import ask
from random_model import END, FIRST_BYTE, byte_tokens, write_random_model

from localknobs.errors import BadValue
from localknobs.knobs.sampling import SAMPLER_ORDER, SAMPLING

PROMPT = [1, *byte_tokens("what was said, and said, and said")]
MINUS_INFINITY = float("-inf")
GREEDY_3 = {"temp": 0.0, "n_predict": 3}


@pytest.fixture(scope="module")
def draw(folder):
    """Return `draw(values)`: the engine's tokens and the reference's."""
    model = write_random_model(folder / "sampled.gguf", fillers=700, context=1024, seed=5)
    script = Path(__file__).with_name("chain_reference.py")
    child = subprocess.Popen([sys.executable, str(script), str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def answer(values, count=60, prompt=PROMPT):
        request = {"values": {"seed": 11, **values}, "prompt": prompt, "count": count}
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        reply = json.loads(child.stdout.readline())
        return reply["ours"], reply["reference"]

    yield answer
    child.stdin.close()
    child.wait()
    child.stdout.close()


OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}
CASES = {
    "the defaults": {},
    "everything off": OFF,
    "temperature": {**OFF, "temp": 1.7},
    "low temperature": {**OFF, "temp": 0.2},
    "temperature 0": {"temp": 0.0},
    "temperature 0, not in the chain": {"temp": 0.0, "samplers": ["top_k", "min_p"]},
    "temperature 0 with a dynamic range": {"temp": 0.0, "dynatemp_range": 0.8},
    "top_k": {**OFF, "top_k": 5},
    "top_k 1": {**OFF, "top_k": 1},
    "top_p": {**OFF, "top_p": 0.5},
    "top_p 0": {**OFF, "top_p": 0.0},
    "min_p": {**OFF, "min_p": 0.2},
    "min_p 1": {**OFF, "min_p": 1.0},
    "typ_p": {**OFF, "typ_p": 0.4},
    "top_n_sigma": {**OFF, "top_n_sigma": 1.0},
    "top_n_sigma 0": {**OFF, "top_n_sigma": 0.0},
    "xtc": {**OFF, "xtc_probability": 0.8, "xtc_threshold": 0.01},
    "xtc above one half": {**OFF, "xtc_probability": 1.0, "xtc_threshold": 0.6},
    "dynamic temperature": {**OFF, "dynatemp_range": 0.9, "dynatemp_exponent": 1.5},
    "repeat penalty": {**OFF, "repeat_penalty": 1.8},
    "frequency and presence": {**OFF, "frequency_penalty": 1.2, "presence_penalty": -0.7, "repeat_last_n": 20},
    "penalties without a window": {**OFF, "repeat_penalty": 1.8, "repeat_last_n": 0},
    "dry": {**OFF, "dry_multiplier": 2.0, "dry_allowed_length": 1, "dry_penalty_last_n": 200},
    "dry with own breakers": {**OFF, "dry_multiplier": 2.0, "dry_sequence_breakers": ["said", "é"]},
    "dry without breakers": {**OFF, "dry_multiplier": 2.0, "dry_sequence_breakers": []},
    "mirostat 1": {"mirostat": 1, "mirostat_tau": 3.0},
    "mirostat 2": {"mirostat": 2, "mirostat_eta": 0.3},
    "mirostat 1, tau 0": {"mirostat": 1, "mirostat_tau": 0.0},
    "mirostat 2, temperature 0": {"mirostat": 2, "temp": 0.0},
    "adaptive_p": {"adaptive_target": 0.3, "samplers": [*SAMPLER_ORDER, "adaptive_p"]},
    "adaptive_p without a target": {"samplers": [*SAMPLER_ORDER, "adaptive_p"]},
    "logit bias": {**OFF, "logit_bias": [[FIRST_BYTE + 65, 4.0], [FIRST_BYTE + 66, MINUS_INFINITY]]},
    "temperature first": {"temp": 2.0, "top_p": 0.6, "samplers": ["temperature", "top_p"]},
    "temperature last": {"temp": 2.0, "top_p": 0.6, "samplers": ["top_p", "temperature"]},
    "no samplers": {"samplers": []},
    # Few enough candidates that none of them is barred: there typical-p is better here than llama.cpp's (chain.py).
    "everything at once": {
        "temp": 1.3, "top_k": 40, "top_p": 0.97, "min_p": 0.01, "typ_p": 0.98, "top_n_sigma": 3.0,
        "xtc_probability": 0.3, "xtc_threshold": 0.05, "dynatemp_range": 0.4, "repeat_penalty": 1.1,
        "frequency_penalty": 0.2, "presence_penalty": 0.1, "dry_multiplier": 0.8,
    },
}  # fmt: skip


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_the_chain_draws_what_llama_cpps_common_chain_draws(draw, values):
    ours, reference = draw(values)
    assert ours == reference


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_the_same_seed_and_values_draw_the_same(draw, values):
    assert draw(values, 20)[0] == draw(values, 20)[0]


def test_each_sampler_changes_what_is_drawn(draw):
    plain = draw(OFF)[0]
    for name in (
        "temperature", "top_k", "top_p", "min_p", "typ_p", "top_n_sigma", "xtc", "dynamic temperature",
        "repeat penalty", "frequency and presence", "dry", "logit bias",
    ):  # fmt: skip
        assert draw(CASES[name])[0] != plain, name
    for name in ("mirostat 1", "mirostat 2", "adaptive_p"):
        assert draw(CASES[name])[0] != draw({})[0], name


def test_the_order_of_the_chain_matters(draw):
    assert draw(CASES["temperature first"])[0] != draw(CASES["temperature last"])[0]


def test_penalties_count_the_prompt(draw):
    values = {**OFF, "presence_penalty": 10.0, "repeat_last_n": 10_000, "temp": 0.0}
    prompt = [1, *byte_tokens("abc")]
    drawn = draw(values, 40, prompt)[0]
    assert len(set(drawn)) == 40 and not set(drawn) & set(prompt)


def test_a_target_switches_adaptive_p_on_by_itself(draw):
    named = {"adaptive_target": 0.3, "samplers": [*SAMPLER_ORDER, "adaptive_p"]}
    assert draw({"adaptive_target": 0.3})[0] == draw(named)[0]


def test_defaults_are_those_of_llama_cpp_or_the_row_says_why():
    # common_params_sampling and common_params of common/common.h, libllama 0.5.0.
    theirs = {
        "temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typ_p": 1.0, "top_n_sigma": -1.0,
        "xtc_probability": 0.0, "xtc_threshold": 0.1, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "mirostat": 0,
        "mirostat_tau": 5.0, "mirostat_eta": 0.1, "adaptive_target": -1.0, "adaptive_decay": 0.9,
        "repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "repeat_last_n": 64,
        "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": 64,
        "dry_sequence_breakers": ("\n", ":", '"', "*"), "seed": -1, "n_predict": -1, "logit_bias": (), "grammar": "",
        "samplers": ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"),
        "stop": (),
    }  # fmt: skip
    assert {row.name for row in SAMPLING} == set(theirs)
    for row in SAMPLING:
        assert row.default == theirs[row.name] or row.default_reason, row.name


# ---- grammar


def test_a_grammar_is_obeyed(random_model, shared_engine):
    engine = shared_engine(random_model)
    grammar = 'root ::= ("yes" | "no") " " [0-9]{3} "é😀"'
    for seed in range(5):
        answer = ask(engine, "x", {"grammar": grammar, "seed": seed, "temp": 2.0})
        word, rest = answer.text.split(" ")
        assert word in ("yes", "no") and rest[:3].isdigit() and rest[3:] == "é😀", answer.text
        assert answer.reason == "end"


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= (", 'other ::= "a"', "root ::= missing", 'root ::= "a"{999999999}', "\x00", "é",
        "root ::= root", 'root ::= "\ud800', 'root ::= [a', 'root ::= "a\x00"', "{}",
    ],
)  # fmt: skip
def test_a_broken_grammar_is_one_clear_error_and_the_engine_lives_on(random_model, shared_engine, grammar):
    engine = shared_engine(random_model)
    worker = engine._worker
    with pytest.raises(BadValue, match="grammar"):
        ask(engine, "x", {"grammar": grammar})
    assert ask(engine, "x", GREEDY_3).stats.generated_tokens == 3
    assert engine._worker is worker


def test_a_grammar_that_nothing_satisfies_ends_the_answer_with_a_note(random_model, shared_engine):
    engine = shared_engine(random_model)
    worker = engine._worker
    barred = [(token, MINUS_INFINITY) for token in byte_tokens("b")]
    for values, text in (
        ({"grammar": 'root ::= "ab"', "logit_bias": barred}, "a"),
        ({"grammar": "root ::= <[99999999]>"}, ""),  # a token this model does not have
    ):
        answer = ask(engine, "x", values)
        assert answer.text == text and answer.reason == "end"
        assert any("grammar" in note for note in answer.notes)
    assert ask(engine, "x", GREEDY_3).stats.generated_tokens == 3
    assert engine._worker is worker


def test_a_grammar_without_end_stops_at_the_limit(random_model, shared_engine):
    answer = ask(shared_engine(random_model), "x", {"grammar": 'root ::= "ab" root', "n_predict": 50})
    assert answer.reason in ("length", "end") and set(answer.text) <= {"a", "b"}


# ---- logit bias


def test_a_bias_can_force_and_bar_tokens(random_model, shared_engine):
    engine = shared_engine(random_model)
    (letter,) = byte_tokens("Q")
    for bias in (100.0, float("inf")):
        assert ask(engine, "x", {"logit_bias": [(letter, bias)], "n_predict": 20}).text == "Q" * 20
    everything_else = [(token, MINUS_INFINITY) for token in range(261) if token != letter]
    assert ask(engine, "x", {"logit_bias": everything_else, "n_predict": 20}).text == "Q" * 20


def test_barring_the_end_token_keeps_the_answer_going(alphabet_model, shared_engine):
    engine = shared_engine(alphabet_model)
    assert ask(engine, "y", {"temp": 0.0}).text == "z"
    answer = ask(engine, "y", {"temp": 0.0, "logit_bias": [(END, MINUS_INFINITY)], "n_predict": 30})
    assert answer.text[:1] == "z" and answer.stats.generated_tokens == 30


def test_barring_every_token_does_not_kill_the_engine(random_model, shared_engine):
    engine = shared_engine(random_model)
    worker = engine._worker
    ask(engine, "x", {"logit_bias": [(token, MINUS_INFINITY) for token in range(261)], "n_predict": 5})
    assert ask(engine, "x", GREEDY_3).stats.generated_tokens == 3
    assert engine._worker is worker


def test_a_bias_on_a_token_beyond_the_vocabulary_is_refused_by_name(random_model, shared_engine):
    engine = shared_engine(random_model)
    with pytest.raises(BadValue, match=r"261.*261 tokens"):
        ask(engine, "x", {"logit_bias": [(261, 1.0)]})
    assert ask(engine, "x", GREEDY_3).stats.generated_tokens == 3
