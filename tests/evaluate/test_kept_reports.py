"""Reports that are kept: the same numbers when read again, the verb, and what cannot be read."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from evaluations import measure
from random_model import nudged, write_random_model

import localknobs.evaluate.kept_reports
from localknobs.cli.main import run
from localknobs.errors import BadFile, BadValue, NotFound
from localknobs.evaluate.kept_reports import find_report, keep_report, kept_reports, report_of, reports_folder
from localknobs.evaluate.tables import tables_of

TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(800))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = write_random_model(folder / "base.gguf")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return base, nudged(base, folder / "near.gguf", 0.02)


@pytest.fixture
def report(models):
    suites = ("ppl", "kld", "tasks", "needle", "position", "speed", "forgetting")
    return measure(models[1:], models[0], text=models[0].with_name("text.txt"), suites=suites, position_tokens=128,
                   needle_lengths=(300,), needle_depths=2, needles=1, minutes=0.001, tasks=("format",),
                   command="localknobs eval near.gguf --base base.gguf --suite all")  # fmt: skip


def test_a_report_is_read_again_as_it_was(report):
    name = keep_report(report)
    kept = find_report(name)
    assert kept.report.as_mapping() == report.as_mapping()
    assert tables_of(kept.report) == tables_of(report)
    assert keep_report(report) == f"{name}-2", "none is written over"
    assert [one.name for one in kept_reports()] == [f"{name}-2", name]
    assert kept.title == "near against base"


def test_the_needles_of_each_model_stand_under_its_name_wherever_the_first_of_them_is(report):
    models = [
        replace(one, needle=replace(one.needle, cells=tuple(replace(cell, depth=0.5) for cell in one.needle.cells)))
        for one in report.models
    ]
    (table,) = (table for table in tables_of(replace(report, models=tuple(models))) if table.title == "Needles")
    assert [row[0] for row in table.rows] == ["base", "near"]


def test_every_stage_says_how_long_it_took(report):
    times = {time.stage: time for time in report.times}
    assert {"text", "needle", "position", "speed"} <= set(times)
    assert all(time.seconds > 0 and time.units > 0 and time.parameters > 1000 for time in times.values())
    assert times["position"].units == 128 * 2 * report.position_text.chunks


def test_numbers_that_are_none_come_back_as_such(report):
    data = report.as_mapping()
    data["models"][0]["perplexity"]["low"] = None
    assert math.isnan(report_of(data).models[0].perplexity.low)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data.pop("models"), "models"),
        (lambda data: data.update(models=[]), "no models"),
        (lambda data: data["models"][0].update(size_bytes="much"), r"report\.models\.size_bytes is 'much'"),
        (lambda data: data.update(notes="x"), r"report\.notes is no list"),
        (lambda data: data["models"][0]["needle"].update(share=3), r"share is no object"),
    ],
)
def test_what_is_no_report_says_where(report, change, where):
    data = json.loads(json.dumps(report.as_mapping()))
    change(data)
    with pytest.raises(ValueError, match=where):
        report_of(data)


def test_a_damaged_file_is_no_trouble_for_the_others(report, tmp_path):
    name = keep_report(report)
    (reports_folder() / "2020-broken.json").write_text("{", encoding="utf-8")
    assert [one.name for one in kept_reports()] == [name]
    with pytest.raises(BadFile, match="is no report"):
        find_report(str(reports_folder() / "2020-broken.json"))
    for wrong in ("", "nothing", "../../secret"):
        with pytest.raises(NotFound):
            find_report(wrong)
    keep_report(report)
    with pytest.raises(BadValue, match="several"):
        find_report(name[:10])


def test_only_the_report_that_is_meant_is_read(report, monkeypatch):
    names = [keep_report(replace(report, made=f"202{year}-05-06T00:00:00+00:00")) for year in range(4)]
    read: list[str] = []
    monkeypatch.setattr(
        localknobs.evaluate.kept_reports, "read_report_file", lambda file: read.append(file.stem) or report
    )
    assert find_report("last").name == names[3] and find_report("2021").name == names[1]
    assert find_report(names[0]).name == names[0]
    assert read == [names[3], names[1], names[0]]


def test_the_verb_lists_prints_writes_and_deletes(report, tmp_path, capsys):
    assert run(["reports"]) == 0
    assert "Nothing was measured yet" in capsys.readouterr().err
    name = keep_report(report)
    assert run(["reports"]) == 0
    assert name in (out := capsys.readouterr().out) and "near against base" in out
    assert run(["reports", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"][0]["models"] == ["base", "near"]
    assert run(["reports", "last"]) == 0
    assert "KL divergence from base" in capsys.readouterr().out
    page = tmp_path / "a.html"
    assert run(["reports", name, "-o", str(page)]) == 0
    assert "Needles" in page.read_text("utf-8") and not capsys.readouterr().out
    assert run(["reports", name, "--delete"]) == 0
    assert kept_reports() == []
    assert run(["reports", "--delete"]) == 2


def test_eval_keeps_its_report_and_says_how_it_is_read_again(models, capsys):
    words = ["eval", str(models[1]), "-f", str(models[0].with_name("text.txt")), "--chunk", "64", "-t", "1"]
    assert run(words) == 0
    (kept,) = kept_reports()
    assert f"localknobs reports {kept.name}" in capsys.readouterr().err
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == kept_reports()[0].name
