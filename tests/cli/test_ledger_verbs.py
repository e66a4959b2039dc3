"""The ledger from a shell: every verb that makes something leaves a card; `show` prints it, `redo` makes it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_model import write_random_model
from repository import REPOSITORY

from localknobs.cli.main import run as localknobs
from localknobs.ledger import Card, add_measurement, card_path, fingerprint, read_card

CHECKPOINT = REPOSITORY / "models" / "checkpoint"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def source(here: Path) -> Path:
    return write_random_model(here / "source.gguf", width=256, feed_forward=256, kind="F16")


def run(*words: object) -> int:
    return localknobs([str(word) for word in words])


def test_quantize_leaves_a_card_beside_each_file(source, here):
    assert run("quantize", "source.gguf", "Q8_0", "Q4_0", "-o", ".") == 0
    for kind in ("Q8_0", "Q4_0"):
        card = read_card(here / f"source-{kind}.gguf")
        assert card.verb == "quantize" and card.arguments == ("source.gguf", "Q8_0", "Q4_0", "-o", ".")
        assert card.folder == str(here) and card.took_s > 0 and card.versions["localknobs"]
        assert [(one.path, one.fingerprint) for one in card.sources] == [(str(source), fingerprint(source))]
        assert card.fingerprint == fingerprint(here / f"source-{kind}.gguf")


def test_convert_and_merge_leave_cards_and_a_plan_leaves_none(here):
    assert run("convert", CHECKPOINT, "-o", "out.gguf") == 0
    assert read_card(here / "out.gguf").sources[0].path == str(CHECKPOINT)
    assert run("quantize", "out.gguf", "Q4_0", "--dry-run") == 0
    assert [file.name for file in here.glob("*.card.json")] == ["out.gguf.card.json"]


def test_show_prints_the_card_with_what_was_measured(source, here, capsys):
    assert run("quantize", "source.gguf", "Q8_0", "-o", "small.gguf") == 0
    assert add_measurement(here / "small.gguf", {"kind": "ppl", "settings": {"n_ctx": 512}, "perplexity": 7.5})
    assert run("show", "small.gguf") == 0
    shown = capsys.readouterr().out
    assert "localknobs quantize source.gguf Q8_0 -o small.gguf" in shown and "perplexity 7.5" in shown
    assert run("show", "small.gguf", "--json") == 0
    assert json.loads(capsys.readouterr().out)["card"]["verb"] == "quantize"


def test_redo_makes_the_same_bytes_again_from_another_folder(source, here, capsys, monkeypatch, tmp_path_factory):
    assert run("quantize", "source.gguf", "Q4_0", "-o", "small.gguf") == 0
    before = (here / "small.gguf").read_bytes()
    (here / "small.gguf").unlink()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    capsys.readouterr()
    assert run("redo", here / "small.gguf.card.json") == 0
    assert (here / "small.gguf").read_bytes() == before
    assert "The content is the same as before" in capsys.readouterr().err


def test_redo_refuses_a_source_that_changed(source, here, capsys):
    assert run("quantize", "source.gguf", "Q4_0", "-o", "small.gguf") == 0
    before = (here / "small.gguf").read_bytes()
    write_random_model(source, width=256, feed_forward=256, kind="F16", seed=5)
    assert run("redo", "small.gguf") == 2
    assert "is not the same any more" in capsys.readouterr().err
    assert (here / "small.gguf").read_bytes() == before
    assert run("redo", "small.gguf", "--dry-run") == 0
    assert run("redo", "small.gguf", "--anyway") == 0
    assert (here / "small.gguf").read_bytes() != before
    source.unlink()
    assert run("redo", "small.gguf") == 2
    assert "is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "arguments": 5}', "\x00"],
    ids=["empty", "cut", "a list", "another version", "no fields", "wrong types", "rubbish"],
)
def test_a_broken_card_is_said_and_show_goes_on(source, here, capsys, text):
    card_path(source).write_text(text)
    assert run("redo", source) == 3
    assert "cannot be read" in capsys.readouterr().err
    assert run("show", source) == 0
    assert "parameters" in capsys.readouterr().out


def test_a_card_cannot_run_what_is_no_verb(source, here, capsys):
    assert run("quantize", "source.gguf", "Q4_0", "-o", "small.gguf") == 0
    card = json.loads(card_path(here / "small.gguf").read_text())
    card_path(here / "small.gguf").write_text(json.dumps({**card, "verb": "rm -rf"}))
    assert run("redo", "small.gguf") == 3
    assert "names a verb there is not" in capsys.readouterr().err


def test_a_measurement_of_the_same_kind_and_settings_is_replaced(source, here):
    assert not add_measurement(source, {"kind": "ppl"}), "what was not made here has no card"
    assert run("quantize", "source.gguf", "Q8_0", "-o", "small.gguf") == 0
    for value in (1.0, 2.0):
        add_measurement(here / "small.gguf", {"kind": "ppl", "settings": {"n_ctx": 512}, "perplexity": value})
    add_measurement(here / "small.gguf", {"kind": "ppl", "settings": {"n_ctx": 1024}, "perplexity": 3.0})
    card: Card = read_card(here / "small.gguf")
    assert [one["perplexity"] for one in card.measurements] == [2.0, 3.0]


def test_eval_adds_what_it_measured_to_the_card(here, capsys):
    assert run("quantize", "built-in", "Q4_0", "-o", "small.gguf") == 0
    capsys.readouterr()
    text = here / "text.txt"
    text.write_text("Temperature divides the logits before the softmax. " * 40)
    words = ("eval", "small.gguf", "--base", "built-in", "--text", text, "--chunk", "64", "--chunks", "2", "-t", "1")
    assert run(*words, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    (measured,) = read_card(here / "small.gguf").measurements
    small = next(model for model in report["models"] if model["file"] == "small.gguf")
    assert measured["kind"] == "eval" and measured["settings"]["base"] == "built-in"
    assert measured["perplexity"] == small["perplexity"]["value"]
    assert measured["kld_mean"] == small["divergence"]["mean"]["value"] > 0


def test_a_folder_where_no_card_can_be_written_keeps_the_file(source, here, capsys):
    card_path(here / "small.gguf").mkdir()  # in the card's way
    assert run("quantize", "source.gguf", "Q8_0", "-o", "small.gguf") == 0
    assert (here / "small.gguf").is_file() and "card" in capsys.readouterr().err


def test_removing_a_model_removes_its_card(home, capsys):
    from localknobs.paths import models_folder

    models_folder().mkdir(parents=True)
    write_random_model(models_folder() / "mine.gguf", width=256, feed_forward=256, kind="F16")
    assert run("quantize", "mine", "Q8_0") == 0
    made = models_folder() / "mine-Q8_0.gguf"
    assert card_path(made).is_file()
    assert run("rm", "mine-Q8_0", "--yes") == 0
    assert not made.exists() and not card_path(made).exists()


def test_large_files_are_sampled_over_their_whole_length(here, monkeypatch):
    monkeypatch.setattr("localknobs.ledger.WHOLE_BYTES", 1000)
    file = here / "large"
    file.write_bytes(bytes(10_000_000))
    before = fingerprint(file)
    assert before.startswith("sampled-sha256:")
    with file.open("r+b") as opened:
        opened.seek(9_999_999)
        opened.write(b"x")
    assert fingerprint(file) != before
