"""What a measurement would take, before it is begun: amounts, times from what was measured here, and troubles."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from evaluations import config_of, measure
from random_model import write_random_model

import localknobs.evaluate.run
from localknobs.cli.main import run
from localknobs.engine.tokens import tokens_of
from localknobs.errors import BadFile, BadValue
from localknobs.evaluate.kept_reports import keep_report
from localknobs.evaluate.price import price_of
from localknobs.evaluate.run import plan_eval
from localknobs.hardware import processor_name
from localknobs.measured_speeds import MeasuredSpeed, remember_speeds

TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(800))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return write_random_model(folder / "one.gguf")


def config(model, **fields):
    return config_of([model], text=model.with_name("text.txt"), **fields)


def test_amounts_are_those_of_the_run(model):
    price = price_of(config(model, suites=("ppl", "needle"), needle_lengths=(100, 300), needle_depths=2, needles=3))
    suites = {one.suite: one for one in price.suites}
    report = measure([model], text=model.with_name("text.txt"))
    assert suites["ppl"].amount == f"{64 * report.text.chunks:,} tokens" and suites["ppl"].chosen
    assert suites["needle"].amount == "2,400 tokens"
    assert not suites["speed"].chosen and suites["speed"].amount == "5 rounds"
    assert "parent" in suites["kld"].trouble and not suites["kld"].amount


def test_models_and_text_are_read_once_for_all_suites(model, monkeypatch):
    read: list[str] = []
    whole, header = localknobs.evaluate.run.text_bytes, localknobs.evaluate.run.read_header
    monkeypatch.setattr(localknobs.evaluate.run, "text_bytes", lambda file: read.append("text") or whole(file))
    monkeypatch.setattr(localknobs.evaluate.run, "read_header", lambda file: read.append("header") or header(file))
    assert len(price_of(config(model)).suites) > 5
    assert sorted(read) == ["header", "text"]


def test_a_text_that_has_more_tokens_than_bytes_is_counted_whole(model):
    (tokens,) = tokens_of(model, [("a b " * 50, False)])
    assert len(tokens) > 300, "a space is three byte tokens of this vocabulary"


def test_times_are_known_once_something_was_measured_here(model):
    wanted = config(model, suites=("ppl",))
    assert price_of(wanted).seconds is None
    report = measure([model], text=model.with_name("text.txt"))
    keep_report(report)
    price = price_of(wanted)
    assert price.seconds == pytest.approx(report.times[0].seconds)
    elsewhere = replace(report, processor="another", times=(replace(report.times[0], seconds=1e6),))
    keep_report(elsewhere)
    assert price_of(wanted).seconds == pytest.approx(price.seconds), "another machine's times say nothing"
    assert price_of(replace(wanted, minutes=0.0001)).seconds == pytest.approx(0.006)
    assert price_of(replace(wanted, suites=("ppl", "tasks"))).seconds is None


def test_where_no_report_tells_the_speed_of_bench_does(model):
    wanted = config(model, suites=("ppl",))
    tokens = int(next(one.amount for one in price_of(wanted).suites if one.suite == "ppl").split()[0].replace(",", ""))
    own = plan_eval(wanted).parameters
    speed = MeasuredSpeed(
        model="/m/other.gguf", size_bytes=1, architecture="llama", quant="Q8_0", parameters=round(2 * own),
        processor=processor_name(), prompt_tokens=512, prompt_tokens_per_s=100.0,
    )  # fmt: skip
    remember_speeds([replace(speed, processor="another", parameters=round(own), prompt_tokens_per_s=1.0)])
    assert price_of(wanted).seconds is None
    remember_speeds([speed])
    assert price_of(wanted).seconds == pytest.approx(tokens / 200, rel=1e-3)
    assert price_of(replace(wanted, suites=("tasks",))).seconds is None


def test_two_suites_of_one_stage_take_its_time_once(model):
    measured = measure([model], model, text=model.with_name("text.txt"))
    keep_report(measured)
    both = config_of([model], model, text=model.with_name("text.txt"))
    suites = {one.suite: one for one in price_of(both).suites}
    assert price_of(both).seconds == pytest.approx(suites["kld"].seconds)


def test_what_cannot_be_done_is_refused_only_when_it_is_asked_for(model, tmp_path):
    bad = tmp_path / "mine.jsonl"
    bad.write_text('{"prompt": "2+2=", "answer": "4"}\n{"prompt": 7}\n', encoding="utf-8")
    price = price_of(config(model, suites=("ppl",), tasks=(str(bad),)))
    assert "Line 2 of" in next(one.trouble for one in price.suites if one.suite == "tasks")
    with pytest.raises(BadFile, match="Line 2 of"):
        price_of(config(model, suites=("ppl", "tasks"), tasks=(str(bad),)))
    short = tmp_path / "short.txt"
    short.write_text("too short", encoding="utf-8")
    with pytest.raises(BadValue, match="it takes 128: 2 of 64"):
        price_of(replace(config(model), text=short))


def test_the_verb_measures_nothing(model, capsys, home):
    words = ["eval", str(model), "-f", str(model.with_name("text.txt")), "--chunk", "64", "--suite", "ppl,speed"]
    assert run([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "ppl" in shown and "not known yet" in shown and "tokens" in shown
    assert run([*words, "--dry-run", "--json"]) == 0
    price = json.loads(capsys.readouterr().out)
    assert [one["suite"] for one in price["suites"] if one["chosen"]] == ["ppl", "speed"]
    assert not (home / "data" / "reports").exists() and not (home / "cache" / "evaluations").exists()
