"""The sampler view against a plain numpy re-computation, for every sampler; its bounds; branches."""

from __future__ import annotations

import numpy as np
import pytest
import sampler_reference as reference
from engine_helpers import ask, once
from random_model import END, FIRST_BYTE, TURN_END, byte_tokens, write_random_model

from localknobs.engine import LoadSettings, Looked, TokensScored, load
from localknobs.engine.controls import Plan
from localknobs.errors import BadValue, LocalknobsError
from localknobs.knobs.sampling import SAMPLER_ORDER

PROMPT = "what was said, and said, and said"
TOKENS = [1, *byte_tokens(PROMPT)]
FILLERS = 700
SIZE = 261 + FILLERS
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0, "seed": 5}
READ = Plan(write=False)


@pytest.fixture(scope="module")
def model(folder):
    return write_random_model(folder / "viewed.gguf", fillers=FILLERS, context=1024, seed=5)


@pytest.fixture
def engine(model, open_engine):
    return open_engine(model)


def read(engine, values=None, prompt=PROMPT):
    """Read a prompt without writing, so that its next token can be looked at."""
    list(engine.stream(prompt, {**OFF, **(values or {})}, plan=READ))


def raw_scores(view, size=SIZE) -> np.ndarray:
    assert len(view.candidates) == size
    scores = np.empty(size)
    scores[[one.token for one in view.candidates]] = [one.score for one in view.candidates]
    return scores


def after(view, stage: int) -> np.ndarray:
    """Return the view's probabilities before the first stage (0) or after the stage of that number."""
    found = np.empty(len(view.candidates))
    found[[one.token for one in view.candidates]] = [one.probabilities[stage] for one in view.candidates]
    return found


def same(view, name: str, wanted: np.ndarray, count: int | None = None, before: np.ndarray | None = None) -> None:
    """Compare a stage's numbers with a distribution."""
    at = next(at for at, stage in enumerate(view.stages) if stage.name == name)
    stage = view.stages[at]
    np.testing.assert_allclose(after(view, at + 1), wanted, atol=2e-6, rtol=2e-4)
    before = after(view, at) if before is None else before
    assert stage.moved == pytest.approx(np.abs(wanted - before).sum() / 2, abs=1e-5)
    assert stage.removed == pytest.approx(before[wanted == 0].sum(), abs=1e-5)
    if count is not None:
        assert stage.after == count
    assert stage.active


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


def test_typical_p_is_not_confused_by_a_barred_token(engine):
    # llama.cpp's own makes no number of the surprise of a token that cannot come, and then keeps whatever comes first.
    bias = [(FIRST_BYTE + 66, -np.inf)]
    read(engine, {"typ_p": 0.5, "logit_bias": bias})
    view = engine.look(top=SIZE)
    state = reference.logit_bias(reference.start(raw_scores(view)), bias)
    typical = reference.typ_p(state, 0.5)
    same(view, "typ_p", typical.probabilities, typical.count, state.probabilities)


@pytest.mark.parametrize(("values", "compute"), CASES.values(), ids=CASES.keys())
def test_each_sampler_by_itself(engine, values, compute, request):
    name = request.node.callspec.id.split()[0]
    read(engine, values)
    view = engine.look(top=SIZE)
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


@pytest.fixture(scope="module")
def wide_engine(wide_model):
    with load(LoadSettings(model=wide_model, threads=1)) as engine:
        yield engine


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


def test_a_whole_chain_stage_by_stage(engine):
    values = {
        "temp": 1.3, "top_k": 300, "top_p": 0.9, "min_p": 0.05, "typ_p": 0.95, "xtc_probability": 1.0,
        "xtc_threshold": 0.02, "repeat_penalty": 1.4, "dry_multiplier": 0.8, "dry_sequence_breakers": ["\n"],
        "logit_bias": [(FIRST_BYTE + 65, 4.0)],
    }  # fmt: skip
    read(engine, values)
    view = engine.look(top=SIZE)
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


def test_the_order_of_the_chain_is_the_knobs(engine):
    order = ["temperature", "min_p", "penalties"]
    read(engine, {"temp": 2.0, "min_p": 0.3, "samplers": order})
    view = engine.look(top=SIZE)
    assert [stage.name for stage in view.stages] == order
    warm = reference.temperature(reference.start(raw_scores(view)), 2.0)
    same(view, "min_p", reference.min_p(warm, 0.3).probabilities)
    turned = engine.look(top=SIZE, values={"samplers": ["min_p", "temperature"]})
    cold = reference.min_p(reference.start(raw_scores(view)), 0.3)
    same(turned, "temperature", reference.temperature(cold, 2.0).probabilities)
    assert turned.stages[0].after < view.stages[1].after


def test_chance_is_averaged_and_so_is_what_comes_after_it(engine):
    read(engine, {"xtc_probability": 0.3, "xtc_threshold": 0.01, "temp": 0.7})
    view = engine.look(top=SIZE)
    state = reference.start(raw_scores(view))
    struck = reference.xtc_strikes(state, 0.01)
    same(view, "xtc", 0.3 * struck.probabilities + 0.7 * state.probabilities)
    mixed = [reference.temperature(one, 0.7).probabilities for one in (struck, state)]
    same(view, "temperature", 0.3 * mixed[0] + 0.7 * mixed[1])
    stage = next(stage for stage in view.stages if stage.name == "xtc")
    assert stage.chance == pytest.approx(0.3) and stage.after == SIZE


@pytest.mark.parametrize("place", [0, 3])
def test_a_grammar_is_asked_after_the_draw(engine, place):
    letters = byte_tokens("abc")
    values = {"grammar": "root ::= [a-c]+", "temp": 1.5, "n_predict": 4, "logit_bias": [(letters[1], 3.0)]}
    bars_the_end = [(END, -np.inf), (TURN_END, -np.inf)]
    ask(engine, PROMPT, {**OFF, **values, "logit_bias": [*values["logit_bias"], *bars_the_end]})
    view = engine.look(at=place, top=SIZE, values={"logit_bias": values["logit_bias"]})
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


def test_the_last_probabilities_are_those_with_which_tokens_are_drawn(engine):
    letters = "abcdefgh"
    values = {**OFF, "grammar": f'root ::= "a" [{letters}]', "xtc_probability": 0.5, "xtc_threshold": 0.02,
              "n_predict": 2, "temp": 0.8, "logit_bias": [(token, 4.0) for token in byte_tokens(letters)]}  # fmt: skip
    # The second token: at the first one, as in llama.cpp, XTC and the draw take the same random number.
    list(engine.stream(PROMPT, values, plan=Plan(beginning=tuple(byte_tokens("a")), write=False)))
    wanted = {one.text: one.after for one in engine.look(top=30).candidates if one.after > 0}
    assert sum(wanted.values()) == pytest.approx(1, abs=1e-4) and set(wanted) == set(letters)
    count = 1500
    drawn = [ask(engine, PROMPT, {**values, "seed": seed}).text[1] for seed in range(count)]
    distance = sum(abs(drawn.count(letter) / count - wanted.get(letter, 0)) for letter in letters) / 2
    assert distance < 0.05, (distance, wanted)


# ---- samplers that learn


def views_of(engine, values, count=12):
    ask(engine, PROMPT, {**OFF, **values, "n_predict": count, "logit_bias": [(END, -np.inf), (TURN_END, -np.inf)]})
    return [engine.look(at=at, top=SIZE, values={"logit_bias": []}) for at in range(count)]


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_aims_as_it_did_at_every_past_token(engine, version):
    tau, eta = 2.5, 0.4
    mu = 2 * tau
    barred = [(END, -np.inf), (TURN_END, -np.inf)]
    for view in views_of(engine, {"mirostat": version, "mirostat_tau": tau, "mirostat_eta": eta}):
        state = reference.start(raw_scores(view))
        cut = reference.mirostat(state, mu, SIZE) if version == 1 else reference.mirostat_2(state, mu)
        same(view, "mirostat", cut.probabilities, cut.count, state.probabilities)
        # The answer itself was drawn with the end barred.
        state = reference.logit_bias(state, barred)
        cut = reference.mirostat(state, mu, SIZE) if version == 1 else reference.mirostat_2(state, mu)
        mu -= eta * (-np.log2(cut.probabilities[view.drawn]) - tau)


def test_adaptive_p_remembers_what_it_chose(engine):
    target, decay = 0.05, 0.8
    total, weight = target / (1 - decay), 1 / (1 - decay)
    for view in views_of(engine, {"adaptive_target": target, "adaptive_decay": decay}):
        state = reference.start(raw_scores(view))
        aim = min(1.0, max(0.0, 2 * target - total / weight))
        same(view, "adaptive_p", reference.adaptive_p(state, aim).probabilities)
        own = reference.logit_bias(state, [(END, -np.inf), (TURN_END, -np.inf)]).probabilities[view.drawn]
        total, weight = own + decay * total, 1 + decay * weight


def test_penalties_at_a_past_token_count_what_stood_before_it(engine):
    values = {"repeat_penalty": 1.9, "repeat_last_n": 500}
    views = views_of(engine, values)
    history = list(TOKENS)
    for view in views:
        state = reference.start(raw_scores(view))
        same(view, "penalties", reference.penalties(state, history, 500, 1.9, 0, 0).probabilities)
        history.append(view.drawn)


# ---- the place looked at


def test_the_values_that_were_in_force_count_and_others_can_be_tried(endless_model, open_engine):
    engine = open_engine(endless_model)
    answer = ask(
        engine, "a", {**OFF, "temp": 0.0, "n_predict": 2000},
        each=once(lambda: engine.set_sampler({"temp": 1.0, "top_k": 3})),
    )  # fmt: skip
    at = answer.changes[0].at_token
    before, since = engine.look(at=at - 1), engine.look(at=at)
    assert before.stages[-1].after == 1 and since.stages[-1].after == 3
    assert engine.look(at=at, values={"top_k": 7}).stages[3].after == 7
    assert engine.look(at=at).stages[3].after == 3  # nothing stayed of the trial


def test_the_token_after_a_stopped_answer_can_be_looked_at_and_the_answer_goes_on_the_same(engine):
    values = {**OFF, "temp": 0.0, "n_predict": 5}
    longer = ask(engine, PROMPT, {**values, "n_predict": 6})
    tokens = engine.written_tokens()
    ask(engine, PROMPT, values)
    view = engine.look()
    assert view.place == 5 and view.drawn is None
    assert max(view.candidates, key=lambda one: one.after).token == tokens[5]
    assert engine.look(at=4).drawn == tokens[4]
    assert ask(engine, PROMPT, {**values, "n_predict": 6}).text == longer.text


def test_the_token_after_the_end_is_none(alphabet_model, open_engine):
    engine = open_engine(alphabet_model)
    ask(engine, "x", {"temp": 0.0})
    view = engine.look()
    assert view.drawn == END and view.place == 2
    assert next(one for one in view.candidates if one.token == END).ends


def test_a_look_during_an_answer_comes_with_its_events(endless_model, open_engine):
    engine = open_engine(endless_model)
    numbers = []
    answer = ask(
        engine, "a", {"temp": 0.0, "n_predict": 3000},
        each=once(lambda: numbers.extend(engine.ask_look(values={"top_k": at}) for at in (3, 4))),
    )  # fmt: skip
    looked = [event for event in answer.events if isinstance(event, Looked)]
    assert [event.number for event in looked] == numbers and len(answer.text) == 3000
    for event, kept in zip(looked, (3, 4), strict=True):
        assert event.view.drawn is None and event.view.stages[3].after == kept


def test_a_look_that_comes_too_late_disturbs_nobody(endless_model, open_engine):
    engine = open_engine(endless_model)
    ask(engine, "a", {"temp": 0.0, "n_predict": 3})
    engine.ask_look()
    assert engine.count_tokens("abc") == 4
    engine.ask_look()
    assert engine.look(at=1, values={"top_k": 2}).stages[3].after == 2
    assert ask(engine, "a", {"temp": 0.0, "n_predict": 3}).text == "bcd"


def test_what_cannot_be_looked_at_is_said(engine):
    with pytest.raises(LocalknobsError, match="no answer"):
        engine.look()
    ask(engine, PROMPT, {**OFF, "n_predict": 3})
    with pytest.raises(LocalknobsError, match="no token 9"):
        engine.look(at=9)
    with pytest.raises(LocalknobsError, match=f"token {SIZE}"):
        engine.look(values={"logit_bias": [(SIZE, 1.0)]})
    with pytest.raises(BadValue):
        engine.look(values={"temp": -3})
    assert engine.look(at=2).place == 2


# ---- bounded memory


def test_of_older_tokens_the_likeliest_stay_when_somebody_looks(folder, open_engine):
    # A vocabulary so large that few whole rows have room.
    fillers = 200_000
    engine = open_engine(write_random_model(folder / "wide.gguf", fillers=fillers, width=32, layers=1, never_ends=True))
    rows = (64 << 20) // (4 * (fillers + 261))
    count = rows + 12
    values = {**OFF, "top_k": 20, "n_predict": count, "temp": 0.3}
    ask(engine, "x", values)
    with pytest.raises(LocalknobsError, match="not kept"):
        engine.look(at=3)
    assert engine.look(at=12).exact

    ask(engine, "x", values, plan=Plan(score=True))
    short, exact = engine.look(at=3), engine.look(at=12)
    assert not short.exact and 0 < short.seen <= 1 and exact.exact
    assert short.places == (0, count)
    assert short.stages[3].before == 256 and short.stages[3].after == 20
    assert short.drawn in {one.token for one in short.candidates if one.after > 0}
    scores = engine.token_scores().scores
    assert scores[3][1] == pytest.approx(short.confidence, abs=1e-5)
    assert len(scores) == count and all(confidence > 0 for _, confidence, _ in scores)


# ---- branches


def test_a_branch_begins_with_its_tokens_and_goes_on_from_there(endless_model, open_engine):
    engine = open_engine(endless_model)
    ask(engine, "a", {"temp": 0.0, "n_predict": 9})
    (letter,) = byte_tokens("s")
    beginning = (*engine.written_tokens()[:3], letter)
    branch = ask(engine, "a", {"temp": 0.0, "n_predict": 4}, plan=Plan(beginning=beginning))
    assert branch.text == "bcdstuvw" and branch.stats.generated_tokens == 4
    assert engine.written_tokens() == tuple(byte_tokens("bcdstuvw"))
    # What both share can still be looked at, also the place where they part.
    parting = engine.look(at=3)
    assert parting.drawn == letter and engine.look(at=0).drawn == byte_tokens("b")[0]
    assert max(parting.candidates, key=lambda one: one.before).text == "e"
    assert parting.places == (0, 8)


def test_a_branch_equals_the_same_text_given_as_a_prompt(engine):
    ask(engine, PROMPT, {**OFF, "n_predict": 6})
    beginning = (*engine.written_tokens()[:4], FIRST_BYTE + 65)
    values = {**OFF, "temp": 0.0, "n_predict": 8, "repeat_penalty": 1.5}
    branch = ask(engine, PROMPT, values, plan=Plan(beginning=beginning, fresh=True, piece=4))
    drawn = engine.written_tokens()[len(beginning) :]
    again = ask(engine, PROMPT, values, plan=Plan(beginning=engine.written_tokens()[:8], fresh=True, piece=4))
    assert len(drawn) == 8 and engine.written_tokens()[8 : len(beginning) + 8] == (*beginning, *drawn)[8:]
    assert again.text.startswith(branch.text)


def test_a_branch_may_end_at_once(endless_model, open_engine):
    engine = open_engine(endless_model)
    branch = ask(engine, "a", {"temp": 0.0}, plan=Plan(beginning=(*byte_tokens("bc"), END)))
    assert branch.text == "bc" and branch.reason == "end"
    assert ask(engine, "a", {"temp": 0.0, "stop": ["cd"]}, plan=Plan(beginning=tuple(byte_tokens("bcd")))).text == "b"


def test_a_branch_obeys_the_grammar_or_is_refused(engine):
    letters = byte_tokens("abc")
    values = {**OFF, "grammar": 'root ::= "ab" [x-z]+', "n_predict": 3}
    branch = ask(engine, PROMPT, values, plan=Plan(beginning=tuple(letters[:2])))
    assert branch.text.startswith("ab") and set(branch.text[2:]) <= set("xyz")
    worker = engine._worker
    with pytest.raises(BadValue, match="begin like this"):
        ask(engine, PROMPT, values, plan=Plan(beginning=tuple(letters)))
    with pytest.raises(BadValue, match=str(SIZE)):
        ask(engine, PROMPT, OFF, plan=Plan(beginning=(SIZE,)))
    assert engine._worker is worker and ask(engine, PROMPT, {**OFF, "n_predict": 2}).stats.generated_tokens == 2


# ---- how sure the model was


def test_scores_come_with_the_text_only_when_asked_for(engine):
    values = {**OFF, "n_predict": 40}
    plain = ask(engine, PROMPT, values)
    assert not any(isinstance(event, TokensScored) for event in plain.events)
    scored = ask(engine, PROMPT, values, plan=Plan(score=True))
    assert scored.text == plain.text
    together = [one for event in scored.events if isinstance(event, TokensScored) for one in event.scores]
    assert tuple(together) == engine.token_scores().scores
    ends = [end for end, _, _ in together]
    assert len(together) == len(engine.written_tokens()) and ends == sorted(ends) and ends[-1] == len(scored.text)
    for at in (0, 7, len(together) - 1):
        view = engine.look(at=at)
        assert together[at][1] == pytest.approx(view.confidence, abs=1e-5)
        assert together[at][2] == pytest.approx(view.entropy, abs=1e-3)


def test_tokens_of_a_branch_that_nobody_drew_have_no_score(engine):
    answer = ask(engine, "other", {**OFF, "n_predict": 3}, plan=Plan(beginning=(70, 71), score=True))
    scores = [one for event in answer.events if isinstance(event, TokensScored) for one in event.scores]
    assert [confidence < 0 for _, confidence, _ in scores] == [True, True, False, False, False]
