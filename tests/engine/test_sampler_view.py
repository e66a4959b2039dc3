"""The sampler view against a plain numpy re-computation, for every sampler and for chains of them."""

from __future__ import annotations

import numpy as np
import pytest
import sampler_reference as reference
from engine_helpers import ask
from random_model import END, FIRST_BYTE, TURN_END, byte_tokens, write_random_model
from views import OFF, PROMPT, READ, SIZE, TOKENS, after, raw_scores, read, same

from localknobs.engine.controls import Plan
from localknobs.knobs.sampling import SAMPLER_ORDER

CASES = {
    "logit_bias": (
        {"logit_bias": [(FIRST_BYTE + 65, 4.0), (FIRST_BYTE + 66, -np.inf)]},
        lambda s: reference.logit_bias(s, [(FIRST_BYTE + 65, 4.0), (FIRST_BYTE + 66, -np.inf)]),
    ),
    "penalties": (
        {"repeat_penalty": 1.8, "frequency_penalty": 0.6, "presence_penalty": -0.3, "repeat_last_n": 20},
        lambda s: reference.penalties(s, TOKENS, 20, 1.8, 0.6, -0.3),
    ),
    "dry": (
        {"dry_multiplier": 2.0, "dry_allowed_length": 1, "dry_penalty_last_n": 200, "dry_sequence_breakers": ["\n"]},
        lambda s: reference.dry(s, TOKENS, 2.0, 1.75, 1, 200, set(byte_tokens("\n"))),
    ),
    "dry with a breaker": (
        {"dry_multiplier": 0.5, "dry_base": 1.2, "dry_allowed_length": 1, "dry_sequence_breakers": ["a"]},
        lambda s: reference.dry(s, TOKENS, 0.5, 1.2, 1, 64, set(byte_tokens("a"))),
    ),
    "top_n_sigma": ({"top_n_sigma": 1.3}, lambda s: reference.top_n_sigma(s, 1.3)),
    "top_k": ({"top_k": 25}, lambda s: reference.top_k(s, 25)),
    "typ_p": ({"typ_p": 0.4}, lambda s: reference.typ_p(s, 0.4)),
    "top_p": ({"top_p": 0.6}, lambda s: reference.top_p(s, 0.6)),
    "min_p": ({"min_p": 0.15}, lambda s: reference.min_p(s, 0.15)),
    "xtc": ({"xtc_probability": 1.0, "xtc_threshold": 0.01}, lambda s: reference.xtc_strikes(s, 0.01)),
    "temperature": ({"temp": 1.7}, lambda s: reference.temperature(s, 1.7)),
    "temperature 0": ({"temp": 0.0}, lambda s: reference.temperature(s, 0.0)),
    "temperature dynamic": (
        {"temp": 0.9, "dynatemp_range": 0.7, "dynatemp_exponent": 1.5},
        lambda s: reference.dynamic_temperature(s, 0.9, 0.7, 1.5),
    ),
    "mirostat": ({"mirostat": 1, "mirostat_tau": 3.0}, lambda s: reference.mirostat(s, 6.0, SIZE)),
    "mirostat 2": ({"mirostat": 2, "mirostat_tau": 2.5}, lambda s: reference.mirostat_2(s, 5.0)),
    "adaptive_p": ({"adaptive_target": 0.03}, lambda s: reference.adaptive_p(s, 0.03)),
}  # fmt: skip


def test_typical_p_is_not_confused_by_a_barred_token(viewed):
    # llama.cpp's own makes no number of the surprise of a token that cannot come, and then keeps whatever comes first.
    bias = [(FIRST_BYTE + 66, -np.inf)]
    read(viewed, {"typ_p": 0.5, "logit_bias": bias})
    view = viewed.look(top=SIZE)
    state = reference.logit_bias(reference.start(raw_scores(view)), bias)
    typical = reference.typ_p(state, 0.5)
    same(view, "typ_p", typical.probabilities, typical.count, state.probabilities)


@pytest.mark.parametrize(("values", "compute"), CASES.values(), ids=CASES.keys())
def test_each_sampler_by_itself(viewed, values, compute, request):
    name = request.node.callspec.id.split()[0]
    read(viewed, values)
    view = viewed.look(top=SIZE)
    state = reference.start(raw_scores(view))
    own = state.probabilities
    np.testing.assert_allclose(after(view, 0), own, atol=1e-7, rtol=1e-4)
    assert view.exact and view.seen == 1 and view.place == 0 and view.drawn is None
    assert view.entropy == pytest.approx(-(own * np.log2(own)).sum(), abs=1e-3)
    assert view.confidence == pytest.approx(own.max(), abs=1e-6)
    changed = compute(state)
    assert np.abs(changed.probabilities - own).max() > 1e-4, "the case shows nothing"
    same(view, name, changed.probabilities, changed.count, own)


# Beyond 4,096 candidates a list is sorted before llama.cpp sees it, and two samplers are computed here.
WIDE = 6000
WIDE_SIZE = 261 + WIDE
DRAGGED = {
    **CASES,
    "dry by strength": (
        {"dry_multiplier": 1.3, "dry_base": 3.1, "dry_allowed_length": 2, "dry_sequence_breakers": [":"]},
        lambda s: reference.dry(s, TOKENS, 1.3, 3.1, 2, 64, set(byte_tokens(":"))),
    ),
    "dry of everything": (
        {"dry_multiplier": 0.7, "dry_base": 1.0, "dry_allowed_length": 0, "dry_sequence_breakers": ["x"]},
        lambda s: reference.dry(s, TOKENS, 0.7, 1.0, 0, 64, set(byte_tokens("x"))),
    ),
    "top_k of very many": ({"top_k": 5000}, lambda s: reference.top_k(s, 5000)),
    "typ_p of nearly all": ({"typ_p": 0.97}, lambda s: reference.typ_p(s, 0.97)),
    "mirostat": ({"mirostat": 1, "mirostat_tau": 3.0}, lambda s: reference.mirostat(s, 6.0, WIDE_SIZE)),
}


@pytest.fixture(scope="module")
def wide_model(folder):
    return write_random_model(folder / "many.gguf", fillers=WIDE, context=1024, seed=5, sharpness=3.0)


@pytest.fixture
def wide_engine(wide_model, shared_engine):
    return shared_engine(wide_model)


@pytest.mark.parametrize(("values", "compute"), DRAGGED.values(), ids=DRAGGED.keys())
def test_each_sampler_over_a_long_list_while_its_slider_is_dragged(wide_engine, values, compute, request):
    name = request.node.callspec.id.split()[0]
    read(wide_engine)
    view = wide_engine.look(top=WIDE_SIZE)  # the first look sorts nothing
    state = reference.start(raw_scores(view, WIDE_SIZE))
    changed = compute(state)
    for knob, value in values.items():  # one after the other, as sliders are
        wide_engine.look(values={knob: value})
    view = wide_engine.look(top=WIDE_SIZE, values=values)
    same(view, name, changed.probabilities, changed.count, state.probabilities)


def test_a_long_chain_over_a_long_list(wide_engine):
    values = {
        "logit_bias": [(FIRST_BYTE + 65, -np.inf)], "repeat_penalty": 1.9, "dry_multiplier": 3.0,
        "dry_allowed_length": 1, "dry_sequence_breakers": ["x"], "typ_p": 0.9, "top_p": 0.95, "xtc_probability": 1.0,
        "xtc_threshold": 0.001, "temp": 0.8, "dynatemp_range": 0.5,
    }  # fmt: skip
    read(wide_engine)
    wide_engine.look()
    view = wide_engine.look(top=WIDE_SIZE, values=values)
    state = reference.start(raw_scores(view, WIDE_SIZE))
    steps = {
        "logit_bias": lambda s: reference.logit_bias(s, values["logit_bias"]),
        "penalties": lambda s: reference.penalties(s, TOKENS, 64, 1.9, 0, 0),
        "dry": lambda s: reference.dry(s, TOKENS, 3.0, 1.75, 1, 64, set(byte_tokens("x"))),
        "typ_p": lambda s: reference.typ_p(s, 0.9), "top_p": lambda s: reference.top_p(s, 0.95),
        "xtc": lambda s: reference.xtc_strikes(s, 0.001),
        "temperature": lambda s: reference.dynamic_temperature(s, 0.8, 0.5, 1.0),
    }  # fmt: skip
    for stage in view.stages:
        if stage.name in steps:
            before, state = state.probabilities, steps[stage.name](state)
            same(view, stage.name, state.probabilities, state.count, before)


def test_a_grammar_over_a_long_list_is_the_same_after_a_drag(wide_engine):
    values = {**OFF, "grammar": "root ::= [a-c]+", "top_p": 0.9}
    list(wide_engine.stream(PROMPT, values, plan=READ))
    fresh = wide_engine.look(top=WIDE_SIZE)
    for top_p in (0.5, 0.7, 0.9):
        dragged = wide_engine.look(top=WIDE_SIZE, values={"top_p": top_p})
    for stage, (a, b) in enumerate(zip(fresh.stages, dragged.stages, strict=True), 1):
        np.testing.assert_allclose(after(dragged, stage), after(fresh, stage), atol=2e-6, rtol=2e-4)
        assert (a.name, a.before, a.after) == (b.name, b.before, b.after)
    assert {one.text for one in dragged.candidates if one.after > 0} == set("abc")


def test_a_whole_chain_stage_by_stage(viewed):
    values = {
        "temp": 1.3, "top_k": 300, "top_p": 0.9, "min_p": 0.05, "typ_p": 0.95, "xtc_probability": 1.0,
        "xtc_threshold": 0.02, "repeat_penalty": 1.4, "dry_multiplier": 0.8, "dry_sequence_breakers": ["\n"],
        "logit_bias": [(FIRST_BYTE + 65, 4.0)],
    }  # fmt: skip
    read(viewed, values)
    view = viewed.look(top=SIZE)
    state = reference.start(raw_scores(view))
    steps = {
        "logit_bias": lambda s: reference.logit_bias(s, values["logit_bias"]),
        "penalties": lambda s: reference.penalties(s, TOKENS, 64, 1.4, 0, 0),
        "dry": lambda s: reference.dry(s, TOKENS, 0.8, 1.75, 2, 64, set(byte_tokens("\n"))),
        "top_k": lambda s: reference.top_k(s, 300), "typ_p": lambda s: reference.typ_p(s, 0.95),
        "top_p": lambda s: reference.top_p(s, 0.9), "min_p": lambda s: reference.min_p(s, 0.05),
        "xtc": lambda s: reference.xtc_strikes(s, 0.02), "temperature": lambda s: reference.temperature(s, 1.3),
    }  # fmt: skip
    assert [stage.name for stage in view.stages] == ["logit_bias", *SAMPLER_ORDER]
    for stage in view.stages:
        if stage.name in steps:
            before, state = state.probabilities, steps[stage.name](state)
            same(view, stage.name, state.probabilities, state.count, before)
        else:
            assert not stage.active and stage.before == stage.after and stage.moved == 0


def test_the_order_of_the_chain_is_the_knobs(viewed):
    order = ["temperature", "min_p", "penalties"]
    read(viewed, {"temp": 2.0, "min_p": 0.3, "samplers": order})
    view = viewed.look(top=SIZE)
    assert [stage.name for stage in view.stages] == order
    warm = reference.temperature(reference.start(raw_scores(view)), 2.0)
    same(view, "min_p", reference.min_p(warm, 0.3).probabilities)
    turned = viewed.look(top=SIZE, values={"samplers": ["min_p", "temperature"]})
    cold = reference.min_p(reference.start(raw_scores(view)), 0.3)
    same(turned, "temperature", reference.temperature(cold, 2.0).probabilities)
    assert turned.stages[0].after < view.stages[1].after


def test_chance_is_averaged_and_so_is_what_comes_after_it(viewed):
    read(viewed, {"xtc_probability": 0.3, "xtc_threshold": 0.01, "temp": 0.7})
    view = viewed.look(top=SIZE)
    state = reference.start(raw_scores(view))
    struck = reference.xtc_strikes(state, 0.01)
    same(view, "xtc", 0.3 * struck.probabilities + 0.7 * state.probabilities)
    mixed = [reference.temperature(one, 0.7).probabilities for one in (struck, state)]
    same(view, "temperature", 0.3 * mixed[0] + 0.7 * mixed[1])
    stage = next(stage for stage in view.stages if stage.name == "xtc")
    assert stage.chance == pytest.approx(0.3) and stage.after == SIZE


@pytest.mark.parametrize("place", [0, 3])
def test_a_grammar_is_asked_after_the_draw(viewed, place):
    letters = byte_tokens("abc")
    values = {"grammar": "root ::= [a-c]+", "temp": 1.5, "n_predict": 4, "logit_bias": [(letters[1], 3.0)]}
    bars_the_end = [(END, -np.inf), (TURN_END, -np.inf)]
    ask(viewed, PROMPT, {**OFF, **values, "logit_bias": [*values["logit_bias"], *bars_the_end]})
    view = viewed.look(at=place, top=SIZE, values={"logit_bias": values["logit_bias"]})
    allowed = np.zeros(SIZE, bool)
    allowed[letters + ([END, TURN_END] if place else [])] = True
    scores = raw_scores(view)

    def chain(scores):
        biased = reference.logit_bias(reference.start(scores), values["logit_bias"])
        return reference.temperature(biased, 1.5).probabilities

    free = chain(scores)
    again = chain(np.where(allowed, scores, -np.inf))
    same(view, "grammar", np.where(allowed, free, 0) + free[~allowed].sum() * again, int(allowed.sum()), free)
    assert view.stages[-1].name == "grammar"


def test_the_last_probabilities_are_those_with_which_tokens_are_drawn(viewed):
    letters = "abcdefgh"
    values = {**OFF, "grammar": f'root ::= "a" [{letters}]', "xtc_probability": 0.5, "xtc_threshold": 0.02,
              "n_predict": 2, "temp": 0.8, "logit_bias": [(token, 4.0) for token in byte_tokens(letters)]}  # fmt: skip
    # The second token: at the first one, as in llama.cpp, XTC and the draw take the same random number.
    list(viewed.stream(PROMPT, values, plan=Plan(beginning=tuple(byte_tokens("a")), write=False)))
    wanted = {one.text: one.after for one in viewed.look(top=30).candidates if one.after > 0}
    assert sum(wanted.values()) == pytest.approx(1, abs=1e-4) and set(wanted) == set(letters)
    count = 1500
    drawn = [ask(viewed, PROMPT, {**values, "seed": seed}).text[1] for seed in range(count)]
    distance = sum(abs(drawn.count(letter) / count - wanted.get(letter, 0)) for letter in letters) / 2
    assert distance < 0.05, (distance, wanted)
