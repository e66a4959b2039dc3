"""Sides as they are written, votes as they are kept, and what all votes of a pair say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_adapters import write_adapter

from localknobs.ab.price import price_sides
from localknobs.ab.side import drawn_order, read_side
from localknobs.ab.votes import CHOICES, Vote, contestant_of, keep_vote, read_votes, tallies, tally_of
from localknobs.cli.main import run
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotFound, UnknownName
from localknobs.evaluate.model_words import read_model_words
from localknobs.fit.machine import FitMachine
from localknobs.ledger import read_card, record
from localknobs.paths import votes_file

MIB = 2**20


def test_a_side_has_loading_and_sampling_flags_and_a_preset():
    side = read_side('built-in -ctk q4_0 --temp=0.2 --preset creative --grammar "root ::= [a-z]+"')
    assert side.load_settings.cache_type_k == "q4_0" and side.load_settings.model.name == "built-in.gguf"
    values = side.values({"temp": 0.9}, 42)
    assert (values["temp"], values["top_p"], values["seed"]) == (0.2, 0.95, 42)
    assert values["grammar"] == "root ::= [a-z]+"
    assert side.label == 'built-in -ctk q4_0 --temp=0.2 --preset creative --grammar "root ::= [a-z]+"'


def test_without_a_preset_the_models_own_values_are_used_and_a_seed_of_its_own_stays():
    assert read_side("built-in").values({"temp": 0.31}, 5)["temp"] == 0.31
    assert read_side("built-in --seed 9").values({}, 5)["seed"] == 9


def test_settings_are_the_same_however_they_are_spelled():
    one, two = read_side("built-in --temp 0.20 -ctk q4_0"), read_side("built-in --cache-type-k Q4_0 --temp 0.2")
    assert contestant_of(one) == contestant_of(two)
    assert one.loads_like(two) and one.loads_like(read_side("built-in -ctk q4_0 --preset code"))
    assert not one.loads_like(read_side("built-in"))


def test_a_model_with_an_adapter_and_without_it_is_loaded_once(tmp_path, built_in):
    adapter = write_adapter(tmp_path / "some.gguf", built_in)
    plain, adapted = read_side("built-in"), read_side(f"built-in --lora {adapter}:0.5")
    assert plain.loads_like(adapted) and adapted.live_settings["lora"] == (f"{adapter}:0.5",)
    assert contestant_of(adapted).flags == f"--lora {adapter}:0.5"
    roomy = FitMachine(64 * 2**30, 32 * 2**30, 1e10)
    both = price_sides([plain, adapted], roomy)
    assert both.shared and both.together.total_bytes > price_sides([plain, plain], roomy).together.total_bytes


@pytest.mark.parametrize("name", ["one - two.gguf", "one -ctk two.gguf"])
def test_a_dash_in_a_name_begins_no_flags(tmp_path, built_in, name):
    (tmp_path / name).symlink_to(built_in)
    for text, flags in ((str(tmp_path / name), ""), (f"{tmp_path / name} -ctk q8_0 -c 64", "-ctk q8_0 -c 64")):
        words = read_model_words(text)
        assert (words.path.name, words.name, words.flags) == (name, Path(name).stem, flags)
    assert words.loading == {"cache_type_k": "q8_0", "n_ctx": 64}


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", BadValue, "A side is empty"),
        ("no-such-model", NotFound, "no-such-model"),
        ("no-such-model --temp 1", NotFound, "no-such-model"),
        ("built-in --tempp 1", BadValue, "Did you mean --temp"),
        ("built-in --temp", BadValue, "--temperature: expected one argument"),
        ("built-in --help", BadValue, "Flags of a model are knobs"),
        ("built-in --lora nothing.gguf", NotFound, "nothing.gguf"),
        ("built-in --temp hot", BadValue, "temp (--temp) cannot be 'hot'"),
        ("built-in -ctk q9", BadValue, "cannot be 'q9'"),
        ("built-in --preset nonesuch", UnknownName, "nonesuch"),
        ("built-in -c 512 and more", BadValue, "one word too many: and"),
        ('built-in --grammar "x', BadValue, "quotation mark"),
    ],
)
def test_what_cannot_be_a_side_says_why(text, error, says):
    with pytest.raises(error) as raised:
        read_side(text)
    assert says in str(raised.value)


def test_a_damaged_file_is_no_side(tmp_path):
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadFile):
        read_side(str(tmp_path / "cut.gguf"))


def test_flags_of_another_table_are_refused_where_they_mean_nothing():
    with pytest.raises(BadValue):
        read_model_words("built-in --temp 0.2")  # eval measures without drawing


def test_the_order_is_drawn_and_not_always_the_same():
    assert {drawn_order() for _ in range(64)} == {(0, 1), (1, 0)}


def vote(a, b, choice, **more) -> Vote:
    return Vote(contestant_of(a), contestant_of(b), choice, **more)


@pytest.fixture
def sides():
    return read_side("built-in"), read_side("built-in --temp 1.2")


def test_votes_are_kept_and_counted_whichever_side_was_named_first(sides):
    a, b = sides
    for choice in ("a", "a", "a", "tie", "both bad"):
        keep_vote(vote(a, b, choice, prompt="hello\nthere", seed=3, answers=("x", "y"), blind=True, left="b"))
    tally = keep_vote(vote(b, a, "a"))
    assert (tally.a_won, tally.b_won, tally.ties, tally.both_bad) == (1, 3, 1, 1)
    turned = tally_of(contestant_of(a), contestant_of(b))
    assert (turned.a_won, turned.b_won, turned.votes, turned.blind) == (3, 1, 6, 5)
    low, high = turned.interval
    assert turned.share == 0.75 and low < 0.75 < high and turned.chance == pytest.approx(0.625)
    assert turned.text() == f"A 3, B 1, 1 tie, 1 both bad; A better in 75% (95% interval {low:.0%} to {high:.0%})"
    first = read_votes()[0]
    assert (first.prompt, first.answers, first.left, first.blind) == ("hello\nthere", ("x", "y"), "b", True)
    assert first.when.startswith("20") and len(tallies()) == 1
    assert (votes_file().stat().st_mode & 0o777) == 0o600, "prompts are nobody else's business"


def test_no_votes_are_no_number(sides):
    tally = tally_of(*map(contestant_of, sides))
    assert tally.text() == "no votes yet" and tally.as_mapping()["share"] is None
    keep_vote(vote(*sides, "tie"))
    assert tallies()[0].text() == "A 0, B 0, 1 tie"


def test_damaged_lines_are_skipped_and_a_vote_can_follow(sides):
    keep_vote(vote(*sides, "a"))
    with votes_file().open("ab") as file:
        file.write(b'{"a": 1}\n{"choice": "a"}\n[1]\n\xff\n{"half')
    assert len(read_votes()) == 1
    keep_vote(vote(*sides, "b"))
    assert [one.choice for one in read_votes()] == ["a", "b"]


def test_a_file_that_cannot_be_written_says_so(sides):
    votes_file().mkdir(parents=True)
    with pytest.raises(LocalknobsError) as raised:
        keep_vote(vote(*sides, "a"))
    assert f"{votes_file()} cannot be" in str(raised.value)


def test_votes_follow_a_file_that_was_moved_and_stand_on_both_cards(built_in, tmp_path, capsys):
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    shutil.copy(built_in, one)
    two.write_bytes(built_in.read_bytes() + bytes(32))
    record([one, two], "quantize", ["x"], [], 1.0)
    a, b = read_side(str(one)), read_side(f"{two} --temp 0.1")
    for choice in ("a", "a", "b"):
        keep_vote(vote(a, b, choice))
    (measured,) = read_card(one).measurements
    assert (measured["won"], measured["lost"], measured["settings"]["against"]) == (2, 1, "two --temp 0.1")
    assert read_card(two).measurements[0]["won"] == 1
    moved = tmp_path / "moved.gguf"
    one.rename(moved)
    assert run(["show", str(moved)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "against two --temp 0.1" in shown and "this 2, that 1" in shown
    assert run(["show", str(two), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["votes"][0]["b_won"] == 2


def test_every_choice_is_counted(sides):
    for choice in CHOICES:
        keep_vote(vote(*sides, choice))
    tally = tallies()[0]
    assert (tally.a_won, tally.b_won, tally.ties, tally.both_bad) == (1, 1, 1, 1)


def test_both_are_priced_before_either_is_loaded(sides):
    other = read_side("built-in -c 4096")
    roomy = FitMachine(64 * 2**30, 32 * 2**30, 1e10)
    both = price_sides([sides[0], other], roomy)
    assert both.fits and not both.shared and "both are loaded at once" in both.text
    total = both.together.total_bytes
    assert total == sum(bill.total_bytes for bill in both.bills)
    tight = FitMachine(2**30, total - MIB, 1e10)
    both = price_sides([sides[0], other], tight)
    assert not both.fits and not both.too_large and "one is loaded after the other" in both.text
    one = price_sides(sides, roomy)
    assert one.shared and "One model serves both" in one.text
    tiny = price_sides([sides[0], other], FitMachine(2**30, 8 * MIB, 1e10))
    assert tiny.too_large == (0, 1) and "A and B alone is too large" in tiny.text
    refused = price_sides([sides[0], read_side("built-in -ctv q8_0 -fa off")], roomy)
    assert not refused.fits and "flash_attn" in refused.text
