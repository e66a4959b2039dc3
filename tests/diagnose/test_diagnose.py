"""Diagnose: the table, names of symptoms, and every probe on a real model, both ways where that can be made."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import TEXT, gguf_bytes, gguf_key
from random_model import write_random_model

from localknobs.cli.main import run
from localknobs.diagnose import SYMPTOMS, Case, diagnose, find_symptom
from localknobs.diagnose.probes_of_answers import repeated_share
from localknobs.errors import NotFound
from localknobs.jobs import drain
from localknobs.knobs import KNOBS, defaults
from localknobs.knobs.levers import LEVERS
from localknobs.paths import built_in_model


@pytest.fixture(autouse=True)
def _no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))


def found(key: str, **case):
    given = {"model": built_in_model(), "name": "built-in", "loading": {"threads": 1, "n_ctx": 512}, **case}
    return drain(diagnose(find_symptom(key), Case(**given)), lambda _event: None)


@pytest.mark.parametrize(
    "text, key",
    [("slow", "slow"), ("it repeats itself", "loops"), ("vram", "memory"), ("hallucinate", "facts"), ("lops", "loops")],
)
def test_a_symptom_is_found_by_key_words_or_nearly(text, key):
    assert find_symptom(text).key == key


@pytest.mark.parametrize("text", ["", "purple", "slow and repeats"])
def test_what_means_none_or_several_lists_them(text):
    with pytest.raises(NotFound) as raised:
        find_symptom(text)
    assert "Name one of" in raised.value.hint


def test_levers_of_the_table_exist():
    names = {card.lever for card in LEVERS}
    assert {row.lever for row in SYMPTOMS} - {""} <= names
    assert all(row.probe for row in SYMPTOMS if row.lever), "what has a lever has a probe"


@pytest.mark.parametrize(
    "text, share",
    [("", 0.0), ("one two", 0.0), ("a b c d e f g h", 0.0), ("a b c d " * 10, 33 / 37), ("go go go go go go", 2 / 3)],
    ids=["nothing", "too short", "no repetition", "a loop", "one word"],
)
def test_repeated_share(text, share):
    assert repeated_share(text) == pytest.approx(share)


def test_loops_are_confirmed_where_an_answer_can_only_loop_and_rejected_in_prose():
    loop = {**defaults("sampling"), "grammar": 'root ::= ("over and over again "){30}'}
    finding = found("loops", values=loop)
    assert finding.verdict == "confirmed" and finding.numbers["repeated_share"] > 0.8
    assert "--dry-multiplier" in finding.remedies[0].command
    prose = found("loops")
    assert prose.verdict == "rejected" and not prose.remedies and prose.numbers["repeated_share"] < 0.2


def test_random_is_rejected_at_temperature_0_and_confirmed_at_1():
    still = found("random", values={**defaults("sampling"), "temp": 0.0})
    assert still.verdict == "rejected" and not still.remedies
    drawn = found("random", values={**defaults("sampling"), "temp": 1.5, "top_p": 1.0, "min_p": 0.0})
    assert drawn.verdict == "confirmed" and "deterministic" in drawn.remedies[0].command


def test_slow_measures_tokens_and_bytes():
    finding = found("slow")
    assert finding.verdict == "rejected", "nobody reads as fast as the built-in model writes"
    assert finding.numbers["tokens_per_s"] > 0 and finding.numbers["read_GB_per_s"] > 0


def test_memory_is_rejected_where_it_fits_and_confirmed_where_it_does_not(monkeypatch):
    assert found("memory").verdict == "rejected"
    monkeypatch.setattr("localknobs.fit.machine.available_memory_bytes", lambda: 30 * 2**20)
    finding = found("memory", loading={"threads": 1, "n_ctx": 1024})
    assert finding.verdict == "confirmed" and finding.remedies


def test_a_long_prompt_is_counted_and_a_way_proposed():
    assert found("long-prompt").verdict == "open"
    assert found("long-prompt", prompt="What is a token?").verdict == "rejected"
    finding = found("long-prompt", prompt="a token and a word " * 400)
    assert finding.verdict == "confirmed" and finding.numbers["prompt_tokens"] > 1024
    assert "--target-ctx" in finding.remedies[0].command


def test_niche_looks_at_the_template_first_then_at_the_users_own_tasks(tmp_path):
    bare = write_random_model(tmp_path / "bare.gguf", template=None)
    assert "no chat template" in found("niche", model=bare, name="bare").text
    assert found("niche").verdict == "open"
    tasks = tmp_path / "tasks.jsonl"
    lines = [{"prompt": f"What is {word}?", "answer": "zxqv"} for word in ("this", "that", "it")]
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    finding = found("niche", tasks=tasks)
    assert finding.numbers["of"] == 3 and finding.numbers["right"] == 0
    assert finding.verdict == "confirmed"


def test_the_verb_prints_the_table_the_finding_and_json(capsys):
    assert run(["diagnose"]) == 0
    table = capsys.readouterr().out
    assert all(row.key in table and row.seen in table for row in SYMPTOMS)
    assert run(["diagnose", "facts"]) == 0
    assert "retrieval" in capsys.readouterr().out
    assert run(["diagnose", "memory", "--json", "-c", "512"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "rejected" and document["command"].startswith("localknobs fit")


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["purple"], 3, "no symptom"),
        (["slow", "nothing-of-that-name"], 3, "There is no model"),
        (["niche", "--tasks", "nowhere.jsonl"], 3, "There is no file"),
        (["slow", "--temp", "hot"], 2, "--temp"),
    ],
)
def test_wrong_input_is_one_line(words, code, said, capsys):
    assert run(["diagnose", *words]) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_damaged_model_says_so(tmp_path: Path, capsys):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_bytes([gguf_key("general.architecture", TEXT, "llama")])[:40])
    assert run(["diagnose", "memory", str(broken)]) == 3
    assert "cut short" in capsys.readouterr().err


def test_knobs_named_in_remedies_are_real():
    assert KNOBS["dry_multiplier"].flags[0] == "--dry-multiplier" and "--draft" in KNOBS["draft"].flags


def test_remedies_that_turn_knobs_say_which_and_the_command_turns_the_same():
    from localknobs.flags import Parser, add_knob_flags, chosen

    loop = {**defaults("sampling"), "grammar": 'root ::= ("over and over again "){30}'}
    drawn = {**defaults("sampling"), "temp": 1.5, "top_p": 1.0, "min_p": 0.0}
    remedies = [*found("loops", values=loop).remedies, *found("random", values=drawn).remedies, *found("slow").remedies]
    turning = [one for one in remedies if one.values and "--preset" not in one.command]
    assert {name for one in turning for name in one.values} >= {"dry_multiplier", "seed", "draft"}
    for one in turning:
        parser = Parser("chat")
        add_knob_flags(parser, "sampling")
        add_knob_flags(parser, "loading")
        options = parser.parse_args(one.command.split()[3:])
        assert {**chosen(options, "sampling"), **chosen(options, "loading")} == one.values


def test_all_symptoms_are_probed_in_one_go_and_one_that_fails_stops_no_other(monkeypatch, capsys):
    from localknobs.diagnose import symptoms

    def broken(_case):
        raise NotFound("The probe is broken", "Mend it.")
        yield

    few = [row for row in SYMPTOMS if row.key in ("long-prompt", "facts")]
    rows = (few[0], replace(few[0], key="slow", probe=broken), few[1])
    monkeypatch.setattr(symptoms, "SYMPTOMS", rows)
    assert run(["diagnose", "all", "built-in", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [one["symptom"] for one in findings] == ["long-prompt", "slow", "facts"]
    assert findings[1]["verdict"] == "open" and "The probe is broken" in findings[1]["text"]
    assert run(["diagnose", "all"]) == 0
    assert "It could not be probed" in capsys.readouterr().out


def test_all_that_is_stopped_prints_what_was_found(monkeypatch, capsys):
    from localknobs.diagnose import symptoms

    def stopped(_case):
        raise KeyboardInterrupt
        yield

    few = [row for row in SYMPTOMS if row.key in ("long-prompt", "facts")]
    monkeypatch.setattr(symptoms, "SYMPTOMS", (few[0], replace(few[1], probe=stopped)))
    assert run(["diagnose", "all", "--json"]) == 130
    assert [one["symptom"] for one in json.loads(capsys.readouterr().out)["findings"]] == ["long-prompt"]
