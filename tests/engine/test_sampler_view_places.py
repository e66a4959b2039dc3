"""Which token the sampler view looks at: samplers that learn, other values, older tokens, all in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import sampler_reference as reference
from engine_helpers import ask, once
from random_model import END, TURN_END, write_random_model
from views import OFF, PROMPT, SIZE, TOKENS, raw_scores, same

from localknobs.engine import Looked
from localknobs.engine.controls import Plan
from localknobs.errors import BadValue, LocalknobsError

# ---- samplers that learn


def views_of(engine, values, count=12):
    ask(engine, PROMPT, {**OFF, **values, "n_predict": count, "logit_bias": [(END, -np.inf), (TURN_END, -np.inf)]})
    return [engine.look(at=at, top=SIZE, values={"logit_bias": []}) for at in range(count)]


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_aims_as_it_did_at_every_past_token(viewed, version):
    tau, eta = 2.5, 0.4
    mu = 2 * tau
    barred = [(END, -np.inf), (TURN_END, -np.inf)]
    for view in views_of(viewed, {"mirostat": version, "mirostat_tau": tau, "mirostat_eta": eta}):
        state = reference.start(raw_scores(view))
        cut = reference.mirostat(state, mu, SIZE) if version == 1 else reference.mirostat_2(state, mu)
        same(view, "mirostat", cut.probabilities, cut.count, state.probabilities)
        # The answer itself was drawn with the end barred.
        state = reference.logit_bias(state, barred)
        cut = reference.mirostat(state, mu, SIZE) if version == 1 else reference.mirostat_2(state, mu)
        mu -= eta * (-np.log2(cut.probabilities[view.drawn]) - tau)


def test_adaptive_p_remembers_what_it_chose(viewed):
    target, decay = 0.05, 0.8
    total, weight = target / (1 - decay), 1 / (1 - decay)
    for view in views_of(viewed, {"adaptive_target": target, "adaptive_decay": decay}):
        state = reference.start(raw_scores(view))
        aim = min(1.0, max(0.0, 2 * target - total / weight))
        same(view, "adaptive_p", reference.adaptive_p(state, aim).probabilities)
        own = reference.logit_bias(state, [(END, -np.inf), (TURN_END, -np.inf)]).probabilities[view.drawn]
        total, weight = own + decay * total, 1 + decay * weight


def test_penalties_at_a_past_token_count_what_stood_before_it(viewed):
    values = {"repeat_penalty": 1.9, "repeat_last_n": 500}
    views = views_of(viewed, values)
    history = list(TOKENS)
    for view in views:
        state = reference.start(raw_scores(view))
        same(view, "penalties", reference.penalties(state, history, 500, 1.9, 0, 0).probabilities)
        history.append(view.drawn)


# ---- the place looked at


def test_the_values_that_were_in_force_count_and_others_can_be_tried(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    answer = ask(
        engine, "a", {**OFF, "temp": 0.0, "n_predict": 2000},
        each=once(lambda: engine.set_sampler({"temp": 1.0, "top_k": 3})),
    )  # fmt: skip
    at = answer.changes[0].at_token
    before, since = engine.look(at=at - 1), engine.look(at=at)
    assert before.stages[-1].after == 1 and since.stages[-1].after == 3
    assert engine.look(at=at, values={"top_k": 7}).stages[3].after == 7
    assert engine.look(at=at).stages[3].after == 3  # nothing stayed of the trial


def test_the_token_after_a_stopped_answer_can_be_looked_at_and_the_answer_goes_on_the_same(viewed):
    values = {**OFF, "temp": 0.0, "n_predict": 5}
    longer = ask(viewed, PROMPT, {**values, "n_predict": 6})
    tokens = viewed.written_tokens()
    ask(viewed, PROMPT, values)
    view = viewed.look()
    assert view.place == 5 and view.drawn is None
    assert max(view.candidates, key=lambda one: one.after).token == tokens[5]
    assert viewed.look(at=4).drawn == tokens[4]
    assert ask(viewed, PROMPT, {**values, "n_predict": 6}).text == longer.text


def test_the_token_after_the_end_is_none(alphabet_model, open_engine):
    engine = open_engine(alphabet_model)
    ask(engine, "x", {"temp": 0.0})
    view = engine.look()
    assert view.drawn == END and view.place == 2
    assert next(one for one in view.candidates if one.token == END).ends


def test_a_look_during_an_answer_comes_with_its_events(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    numbers = []
    answer = ask(
        engine, "a", {"temp": 0.0, "n_predict": 1000},
        each=once(lambda: numbers.extend(engine.ask_look(values={"top_k": at}) for at in (3, 4))),
    )  # fmt: skip
    looked = [event for event in answer.events if isinstance(event, Looked)]
    assert [event.number for event in looked] == numbers and len(answer.text) == 1000
    for event, kept in zip(looked, (3, 4), strict=True):
        assert event.view.drawn is None and event.view.stages[3].after == kept


def test_a_look_that_comes_too_late_disturbs_nobody(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    ask(engine, "a", {"temp": 0.0, "n_predict": 3})
    engine.ask_look()
    assert engine.count_tokens("abc") == 4
    engine.ask_look()
    assert engine.look(at=1, values={"top_k": 2}).stages[3].after == 2
    assert ask(engine, "a", {"temp": 0.0, "n_predict": 3}).text == "bcd"


def test_what_cannot_be_looked_at_is_said(viewed_model, open_engine):
    engine = open_engine(viewed_model)
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
