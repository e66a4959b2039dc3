"""`localknobs ab`: two answers, votes cast in a terminal, and what they say."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from random_model import TURN_END, write_scripted_model, written_tokens

from localknobs.ab.side import read_side
from localknobs.ab.votes import read_votes
from localknobs.cli.ab import _one
from localknobs.engine import Noted, TextArrived


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return two models that always say one thing each, as sides."""
    folder = tmp_path_factory.mktemp("pair")
    texts = {"one.gguf": b"salve mundi", "two.gguf": b"hi you"}
    return [
        f"{write_scripted_model(folder / name, [*written_tokens(text), TURN_END], context=256)} -t 1"
        for name, text in texts.items()
    ]


def test_both_answer_the_prompt_with_the_same_seed(run, pair):
    done = run("ab", *pair, "-p", "Hello", "--seed", "7")
    assert (done.returncode, done.stdout) == (0, "A: one -t 1\nsalve mundi\n\nB: two -t 1\nhi you\n\n")
    assert done.stderr.count("tokens/s, first after") == 2
    told = json.loads(run("ab", *pair, "-p", "Hello", "--seed", "7", "--json").stdout)
    assert (told["seed"], told["a"]["text"], told["b"]["text"]) == (7, "salve mundi", "hi you")
    assert told["a"]["stats"]["seed"] == told["b"]["stats"]["seed"] == 7 and told["votes"]["votes"] == 0
    assert told["a"]["notes"] == told["b"]["notes"] == []


def test_what_the_engine_notes_is_kept_with_the_answer():
    events = [TextArrived("Hi", 1, 2, 3.0), Noted("The grammar allows no token."), TextArrived(" you", 2, 3, 3.0)]
    engine = SimpleNamespace(info=SimpleNamespace(recommended={}), stats=None, stream=lambda *_: iter(events))
    answer = _one("A", engine, read_side("built-in"), "Hello", 1, write=False)
    assert (answer.text, answer.notes) == ("Hi you", ("The grammar allows no token.",))


def test_two_settings_of_one_model_and_no_votes_yet(run):
    common = "built-in -t 1 -n 6"
    done = run("ab", f"{common} --preset deterministic", f"{common} --temp 0", "-p", "Hello")
    _, first, _, _, second, _, _ = done.stdout.split("\n")
    assert first == second
    assert "no votes yet" in run("ab").stdout and "no votes yet" in run("ab", "built-in", "built-in -c 64").stdout
    assert json.loads(run("ab", "--json").stdout) == {"pairs": []}


def test_blind_votes_in_a_terminal_are_kept_and_printed(terminal, run, pair):
    for _ in range(2):
        shown = terminal("ab", *pair, "-p", "Hello", "--blind", columns=160)
        shown.wait_for("Which is better?")
        assert "one -t" not in shown.text and "two -t" not in shown.text and "tokens/s" not in shown.text
        shown.type("x\r")  # not understood: asked again
        shown.type("1\r")
        shown.wait_for("Votes: A")
        assert "Answer 1 is" in shown.text and shown.ends() == 0
    votes = read_votes()
    assert len(votes) == 2 and all(vote.blind and vote.choice == vote.left for vote in votes)
    assert votes[0].answers == ("salve mundi", "hi you")
    table = run("ab").stdout.splitlines()
    assert "A BETTER (95%)" in table[0] and table[1].startswith("one") and len(table) == 2
    told = json.loads(run("ab", *pair, "--json").stdout)["pairs"][0]
    assert told["votes"] == 2 and told["blind"] == 2 and told["a_won"] + told["b_won"] == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["built-in"], 2, "It takes two models, not 1"),
        (["built-in", "no-such-model"], 3, "no-such-model"),
        (["built-in", "built-in --tmp 3"], 2, "Did you mean --temp?"),
        (["built-in", "built-in", "-p", " "], 2, "The prompt is empty"),
        (["built-in", "built-in", "-p", "x", "--seed", "-1"], 2, "--seed cannot be -1"),
        (["-p", "x"], 2, "A prompt needs two models"),
    ],
)
def test_what_cannot_be_done_says_why(run, words, code, says):
    done = run("ab", *words)
    assert done.returncode == code and says in done.stderr and not done.stdout
