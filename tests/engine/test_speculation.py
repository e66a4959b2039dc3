"""Speculative decoding: the same distribution, the same text, nothing left behind, and refusals with reasons."""

from __future__ import annotations

import numpy as np
import pytest
from engine_helpers import ask, once, user
from random_model import (
    byte_tokens,
    write_markov_model,
    write_random_model,
    write_recurrent_model,
    write_scripted_model,
)

from localknobs.engine import TextArrived
from localknobs.errors import BadFile, BadValue, NotFound, Unsupported

LETTERS = "abcdefghijkl"
PLAIN = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
NEVER_ENDS = {"logit_bias": [(token, float("-inf")) for token in range(5)]}


def chances(seed: int, evenness: float) -> np.ndarray:
    """Return a random transition matrix; small evenness makes a few followers likely."""
    return np.random.default_rng(seed).dirichlet(np.full(len(LETTERS), evenness), len(LETTERS)) * 0.98 + 0.02 / 12


@pytest.fixture(scope="session")
def markov(folder):
    """A model of known chances, and a draft whose chances differ but whose favourites are often the same."""
    tokens, own = byte_tokens(LETTERS), chances(1, 0.3)
    return (
        write_markov_model(folder / "markov.gguf", tokens, own, context=16_384),
        write_markov_model(folder / "markov-draft.gguf", tokens, 0.7 * own + 0.3 * chances(2, 0.3), context=16_384),
        own,
    )


def surprise(text: str, table: np.ndarray) -> float:
    """Return the chi-square of a text's transitions against their chances, in standard deviations from its mean.

    By Wilson and Hilferty's normal approximation: above 4 has a chance of 3 in 100,000.
    """
    places = np.array([LETTERS.index(letter) for letter in text])
    counts = np.zeros_like(table)
    np.add.at(counts, (places[:-1], places[1:]), 1)
    expected = counts.sum(1, keepdims=True) * table
    # Cells too small for the approximation are taken together, row by row.
    small = expected < 5
    together = np.stack([(counts * small).sum(1), (expected * small).sum(1)])
    cells = np.concatenate([np.stack([counts[~small], expected[~small]]), together[:, together[1] > 0]], axis=1)
    freedom = cells.shape[1] - (counts.sum(1) > 0).sum()
    chi_square = ((cells[0] - cells[1]) ** 2 / cells[1]).sum()
    return float(((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5)


def check_distribution(markov, open_engine, samples: int) -> None:
    model, draft, table = markov
    for settings in (
        {"draft": "ngram", "draft_ngram": 2},
        {"draft": "model", "model_draft": str(draft)},
        {"draft": "auto"},
    ):
        engine = open_engine(model, **settings)
        answer = ask(engine, "a", {**PLAIN, "seed": sum(map(ord, settings["draft"])), "n_predict": samples})
        assert answer.stats.generated_tokens == len(answer.text) == samples
        by = f"{answer.stats.accepted_tokens} of {answer.stats.drafted_tokens}"
        print(f"{settings['draft']}: {samples} samples, {by} accepted, {surprise('a' + answer.text, table):+.2f} sigma")
        assert surprise("a" + answer.text, table) < 4
        assert surprise("a" + answer.text, chances(2, 0.3)) > 20  # the test would see another distribution
        if settings["draft"] != "auto":
            # Both kinds of place were many: guesses taken, and guesses thrown away.
            assert answer.stats.accepted_tokens > samples / 20
            assert answer.stats.drafted_tokens - answer.stats.accepted_tokens > samples / 20


def test_the_distribution_is_that_of_the_model(markov, open_engine):
    check_distribution(markov, open_engine, 2_000)


@pytest.mark.slow
def test_the_distribution_is_that_of_the_model_over_10_000_samples(markov, open_engine):
    check_distribution(markov, open_engine, 10_000)


@pytest.fixture(scope="session")
def pair(folder):
    """A model of eight layers and one of its first; Q8_0 gives one token and many the same logits to the bit."""
    shape = {"width": 64, "kind": "Q8_0", "sharpness": 4.0, "context": 1024, "never_ends": True}
    return (
        write_random_model(folder / "eight.gguf", layers=8, loud_layers=1, whisper=0.15, **shape),
        write_random_model(folder / "one.gguf", layers=1, **shape),
    )


CHAINS = {
    "greedy": {"temp": 0.0},
    "warm": {"temp": 0.8, "top_k": 0, "min_p": 0.0, "top_p": 1.0},
    "penalties and dry": {"temp": 0.7, "repeat_penalty": 1.3, "repeat_last_n": 50, "dry_multiplier": 0.8},
    "mirostat": {"mirostat": 2},
    "grammar": {"temp": 0.7, "grammar": "root ::= ([a-p] [a-p]? [0-9])+"},
}


@pytest.mark.parametrize("chain", CHAINS)
def test_the_text_is_the_same_where_the_logits_are(pair, open_engine, chain):
    values = {**NEVER_ENDS, **CHAINS[chain], "seed": 5, "n_predict": 250}
    plain = ask(open_engine(pair[0], use_extra_bufts=False), "once upon once upon", values)
    engine = open_engine(pair[0], model_draft=str(pair[1]), use_extra_bufts=False)
    for draft in ("model", "ngram", "auto"):
        engine.use_settings({"draft": draft, "draft_ngram": 2})
        answer = ask(engine, "once upon once upon", values)
        assert answer.text == plain.text, draft
        assert answer.stats.generated_tokens == 250 and answer.stats.context_used == plain.stats.context_used
        if draft == "model":
            assert 0 < answer.stats.accepted_tokens < answer.stats.drafted_tokens
            assert answer.stats.drafted_by == ("model",) and answer.stats.draft_gain > 0
    assert plain.stats.drafted_tokens == 0 and plain.stats.drafted_by == ()


def test_an_answer_ends_where_it_would_and_the_next_reuses_exactly_what_is_kept(endless_model, open_engine):
    """The alphabet again and again: n-grams guess all of it, so that every end comes within a guess."""
    engine = open_engine(endless_model, draft="ngram", n_ctx=512)
    greedy = {"temp": 0.0}
    text = "abcdefghijklmnopqrstuvwxyz" * 3
    answer = ask(engine, text, {**greedy, "n_predict": 103})
    assert answer.reason == "length" and answer.text == ("abcdefghijklmnopqrstuvwxyz" * 4)[:103]
    assert answer.stats.accepted_tokens > 30 and answer.stats.drafted_by == ("ngram",)
    # The begin token, the prompt, and all but the last token of the answer are held.
    assert answer.stats.context_used == 1 + 78 + 102
    again = ask(engine, text + answer.text, {**greedy, "n_predict": 5})
    assert again.stats.reused_tokens == 1 + 78 + 102 and again.text == "zabcd"

    answer = ask(engine, text, {**greedy, "stop": ["mno"], "n_predict": 200})
    assert answer.reason == "stop" and answer.text == "abcdefghijkl"
    answer = ask(engine, text, {**greedy, "n_predict": -1})
    assert answer.reason == "context" and answer.stats.context_used == 512
    assert answer.text == ("abcdefghijklmnopqrstuvwxyz" * 20)[: 512 - 79 + 1]
    answer = ask(engine, text, {**greedy, "n_predict": -1}, each=once(engine.stop))
    assert answer.reason == "stopped"
    assert ask(engine, text, {**greedy, "n_predict": 30}).text == "abcdefghijklmnopqrstuvwxyzabcd"


def test_a_knob_turned_within_a_guess_counts_from_the_next_token(endless_model, open_engine):
    engine = open_engine(endless_model, draft="ngram")
    (letter,) = byte_tokens("Q")

    def each(answer, event):
        if isinstance(event, TextArrived) and len(answer.text) > 300 and not answer.changes:
            engine.set_sampler({"logit_bias": [(letter, 1000.0)]})

    answer = ask(engine, "abcabcabcabc", {"temp": 0.0, "n_predict": 4000}, each=each)
    at = answer.changes[0].at_character
    assert answer.stats.accepted_tokens > 200
    assert "Q" not in answer.text[:at] and set(answer.text[at:]) == {"Q"}


def test_the_draft_follows_the_conversation(pair, open_engine):
    """Across turns, a changed beginning and a stop, the draft guesses as well as one that reads everything anew."""
    values = {**NEVER_ENDS, "temp": 0.0, "n_predict": 120}
    # Of a fixed length, since that would follow what the machine does, and the share of right guesses the length.
    settings = {"model_draft": str(pair[1]), "draft": "model", "draft_max": 3, "draft_min": 3}
    engine = open_engine(pair[0], **settings, use_extra_bufts=False)

    def share(stats):
        return stats.accepted_tokens / stats.drafted_tokens

    ask(engine, "first words of it", values)
    ask(engine, "first words of it, and more", values, each=once(engine.stop))
    turned = ask(engine, "other words, none of the first", values)
    fresh = open_engine(pair[0], **settings, use_extra_bufts=False)
    alone = ask(fresh, "other words, none of the first", values)
    assert turned.text == alone.text
    assert abs(share(turned.stats) - share(alone.stats)) < 0.25 and share(alone.stats) > 0.3


def test_auto_takes_no_guesses_from_a_draft_that_is_always_wrong(folder, alphabet_model, endless_model, open_engine):
    backwards = write_scripted_model(
        folder / "backwards.gguf", byte_tokens("zyxwvutsrqponmlkjihgfedcbaz"), context=4096
    )
    engine = open_engine(endless_model, n_ctx=2048, model_draft=str(backwards), draft="auto", draft_ngram=64)
    answer = ask(
        engine, user("Write the alphabet"), {"temp": 0.0, "n_predict": 1500, "logit_bias": NEVER_ENDS["logit_bias"]}
    )
    # With every guess wrong, and a draft as large as the model, nearly all steps must be plain ones.
    assert answer.stats.generated_tokens == 1500
    assert "model" not in answer.stats.drafted_by


def test_drafts_can_be_switched_between_answers(endless_model, open_engine):
    engine = open_engine(endless_model)
    values = {"temp": 0.0, "n_predict": 100}
    assert ask(engine, "abcabcabc", values).stats.drafted_tokens == 0
    engine.use_settings({"draft": "ngram", "draft_max": 4})
    assert ask(engine, "abcabcabc", values).stats.accepted_tokens > 30
    engine.use_settings({"draft": "none"})
    assert ask(engine, "abcabcabc", values).stats.drafted_tokens == 0
    with pytest.raises(BadValue, match="draft model"):
        engine.use_settings({"draft": "model"})
    with pytest.raises(BadValue, match="when the model is loaded"):
        engine.use_settings({"n_ctx": 64})
    assert ask(engine, "x", values).stats.drafted_tokens == 0 and engine.settings.draft == "none"


def test_a_draft_with_other_tokens_is_refused_with_the_reason(folder, random_model, open_engine):
    larger = write_random_model(folder / "larger.gguf", fillers=200)
    with pytest.raises(Unsupported, match=r"larger\.gguf cannot draft.*461 tokens, and the model 261") as caught:
        open_engine(random_model, model_draft=str(larger), draft="model")
    assert "same family" in caught.value.hint
    other = write_random_model(folder / "other.gguf", fillers=["\u2581one", "\u2581two"])
    own = write_random_model(folder / "own.gguf", fillers=["\u2581one", "\u2581too"])
    with pytest.raises(Unsupported, match="token 262 is '\u2581two' there and '\u2581too' in the model"):
        open_engine(own, model_draft=str(other))
    # A few unused tokens more at the end are no hindrance.
    padded = write_random_model(folder / "padded.gguf", fillers=["\u2581one", "\u2581too", "\u2581pad"])
    answer = ask(open_engine(own, model_draft=str(padded), draft="model"), "x", {"n_predict": 40, **NEVER_ENDS})
    assert answer.stats.drafted_tokens > 0
    no_begin = write_random_model(folder / "end.gguf", keys={"tokenizer.ggml.add_eos_token": True})
    with pytest.raises(Unsupported, match="another end token"):
        open_engine(random_model, model_draft=str(no_begin))


def test_a_model_that_cannot_take_tokens_back_is_refused_by_name_and_auto_goes_without(folder, open_engine):
    recurrent = write_recurrent_model(folder / "recurrent.gguf")
    with pytest.raises(Unsupported, match="mamba keeps a recurrent state.*cannot be taken back"):
        open_engine(recurrent, draft="ngram")
    engine = open_engine(recurrent, draft="auto")
    assert any("mamba" in note and "without drafts" in note for note in engine.info.notes)
    answer = ask(engine, "abcabcabc", {"n_predict": 20, **NEVER_ENDS})
    assert answer.stats.generated_tokens == 20 and answer.stats.drafted_tokens == 0
    assert engine.use_settings({"draft": "auto"}) != ()


def test_a_draft_that_is_missing_or_no_model_is_an_error_of_the_load(tmp_path, random_model, open_engine):
    with pytest.raises(NotFound):
        open_engine(random_model, model_draft=str(tmp_path / "none.gguf"))
    (tmp_path / "rubbish.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(BadFile):
        open_engine(random_model, model_draft=str(tmp_path / "rubbish.gguf"))
    with pytest.raises(BadValue, match="-md"):
        open_engine(random_model, draft="model")
