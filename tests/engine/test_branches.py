"""Answers that begin with given tokens, and how sure the model was of each token."""

from __future__ import annotations

import pytest
from engine_helpers import ask
from random_model import END, FIRST_BYTE, byte_tokens
from views import OFF, PROMPT, SIZE

from localknobs.engine import TokensScored
from localknobs.engine.controls import Plan
from localknobs.errors import BadValue

# ---- branches


def test_a_branch_begins_with_its_tokens_and_goes_on_from_there(endless_model, shared_engine):
    engine = shared_engine(endless_model)
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


def test_a_branch_equals_the_same_text_given_as_a_prompt(viewed):
    ask(viewed, PROMPT, {**OFF, "n_predict": 6})
    beginning = (*viewed.written_tokens()[:4], FIRST_BYTE + 65)
    values = {**OFF, "temp": 0.0, "n_predict": 8, "repeat_penalty": 1.5}
    branch = ask(viewed, PROMPT, values, plan=Plan(beginning=beginning, fresh=True, piece=4))
    drawn = viewed.written_tokens()[len(beginning) :]
    again = ask(viewed, PROMPT, values, plan=Plan(beginning=viewed.written_tokens()[:8], fresh=True, piece=4))
    assert len(drawn) == 8 and viewed.written_tokens()[8 : len(beginning) + 8] == (*beginning, *drawn)[8:]
    assert again.text.startswith(branch.text)


def test_a_branch_may_end_at_once(endless_model, shared_engine):
    engine = shared_engine(endless_model)
    branch = ask(engine, "a", {"temp": 0.0}, plan=Plan(beginning=(*byte_tokens("bc"), END)))
    assert branch.text == "bc" and branch.reason == "end"
    assert ask(engine, "a", {"temp": 0.0, "stop": ["cd"]}, plan=Plan(beginning=tuple(byte_tokens("bcd")))).text == "b"


def test_a_branch_obeys_the_grammar_or_is_refused(viewed):
    letters = byte_tokens("abc")
    values = {**OFF, "grammar": 'root ::= "ab" [x-z]+', "n_predict": 3}
    branch = ask(viewed, PROMPT, values, plan=Plan(beginning=tuple(letters[:2])))
    assert branch.text.startswith("ab") and set(branch.text[2:]) <= set("xyz")
    worker = viewed._worker
    with pytest.raises(BadValue, match="begin like this"):
        ask(viewed, PROMPT, values, plan=Plan(beginning=tuple(letters)))
    with pytest.raises(BadValue, match=str(SIZE)):
        ask(viewed, PROMPT, OFF, plan=Plan(beginning=(SIZE,)))
    assert viewed._worker is worker and ask(viewed, PROMPT, {**OFF, "n_predict": 2}).stats.generated_tokens == 2


# ---- how sure the model was


def test_scores_come_with_the_text_only_when_asked_for(viewed):
    values = {**OFF, "n_predict": 40}
    plain = ask(viewed, PROMPT, values)
    assert not any(isinstance(event, TokensScored) for event in plain.events)
    scored = ask(viewed, PROMPT, values, plan=Plan(score=True))
    assert scored.text == plain.text
    together = [one for event in scored.events if isinstance(event, TokensScored) for one in event.scores]
    assert tuple(together) == viewed.token_scores().scores
    ends = [end for end, _, _ in together]
    assert len(together) == len(viewed.written_tokens()) and ends == sorted(ends) and ends[-1] == len(scored.text)
    for at in (0, 7, len(together) - 1):
        view = viewed.look(at=at)
        assert together[at][1] == pytest.approx(view.confidence, abs=1e-5)
        assert together[at][2] == pytest.approx(view.entropy, abs=1e-3)


def test_tokens_of_a_branch_that_nobody_drew_have_no_score(viewed):
    answer = ask(viewed, "other", {**OFF, "n_predict": 3}, plan=Plan(beginning=(70, 71), score=True))
    scores = [one for event in answer.events if isinstance(event, TokensScored) for one in event.scores]
    assert [confidence < 0 for _, confidence, _ in scores] == [True, True, False, False, False]
