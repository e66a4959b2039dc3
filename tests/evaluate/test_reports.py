"""Reports: the same numbers in the terminal, on the page, in the picture and as JSON; the verb itself."""

from __future__ import annotations

import json
import re

import pytest
from evaluations import measure, variant
from made_adapters import write_adapter
from random_model import nudged, write_random_model

from localknobs.cli.main import run
from localknobs.errors import BadValue
from localknobs.evaluate.config import EvalConfig
from localknobs.evaluate.page import command_of, page_of
from localknobs.evaluate.pareto import chart_of
from localknobs.evaluate.picture import picture_of
from localknobs.evaluate.run import evaluate, plan_eval
from localknobs.evaluate.tables import tables_of
from localknobs.evaluate.writing import check_outputs, write_report
from localknobs.jobs import drain
from localknobs.measured_effects import measured_effects
from localknobs.measured_speeds import measured_speeds

TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(800))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = write_random_model(folder / "base.gguf")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return base, nudged(base, folder / "near.gguf", 0.02), nudged(base, folder / "far.gguf", 0.3)


@pytest.fixture
def report(models):
    suites = ("ppl", "kld", "needle", "position", "speed")
    return measure(models[1:], models[0], text=models[0].with_name("text.txt"), suites=suites, position_tokens=128,
                   needle_lengths=(300,), needle_depths=2, needles=1,
                   command="localknobs eval near.gguf far.gguf --base base.gguf -o a.html --suite all")  # fmt: skip


def test_every_number_is_in_every_form_and_names_its_command(report, tmp_path):
    page = page_of(report, vram_bytes=2**20)
    data = report.as_mapping()
    for model, plain in zip(report.models[1:], data["models"][1:], strict=True):
        shown = f"{model.divergence.percentile_999:.4g}"
        assert shown in page and plain["divergence"]["percentile_999"] == model.divergence.percentile_999
        assert any(shown in row for row in tables_of(report)[0].rows)
    for part in tables_of(report):
        assert command_of(report, part.suites) in page.replace("&#x27;", "'")
    command = command_of(report, "kld")
    assert command == "localknobs eval near.gguf far.gguf --base base.gguf --suite kld --json"
    json.dumps(data, allow_nan=False)


def test_the_speeds_of_a_report_are_remembered_for_the_estimates_of_fit(report, models):
    remembered = {one.model: one for one in measured_speeds()}
    assert set(remembered) == {str(model) for model in models}
    for path, model in zip(models, report.models, strict=True):
        one = remembered[str(path)]
        assert (one.prompt_tokens, one.generated_tokens) == (512, 128) and one.settings["threads"] == 1
        assert one.generation_tokens_per_s == pytest.approx(model.speed.generation, abs=1e-3)
        assert one.prompt_tokens_per_s == pytest.approx(model.speed.prompt, abs=1e-3)
        assert one.architecture == "llama" and one.devices == ("CPU",) and 0 < one.size_bytes < path.stat().st_size


def test_with_an_adapter_the_speed_is_not_remembered_as_that_of_the_model(models, tmp_path):
    adapter = write_adapter(tmp_path / "adapter.gguf", models[0])
    tuned = variant(models[0], lora=(f"{adapter}:1",))
    config = EvalConfig(models=(variant(models[1]), tuned), suites=("speed",), threads=1, plan_memory=False)
    found = drain(evaluate(plan_eval(config)))
    assert all(model.speed for model in found.models)
    assert [one.model for one in measured_speeds()] == [str(models[1])]


def test_the_page_needs_nothing_from_outside(report):
    page = page_of(report)
    assert not re.search(
        r"""(src|href)\s*=\s*["']?(?!#)|@import|url\((?!#)|<script""", page.replace('xlink:href="#', "")
    )
    assert page.count("<svg") == 2 and "Needles" in page


def test_labels_cannot_write_into_the_page(models, tmp_path):
    named = tmp_path / "<b>bold&.gguf"
    named.write_bytes(models[1].read_bytes())
    page = page_of(measure([named, models[1]], text=models[0].with_name("text.txt")))
    assert "<b>bold" not in page and "&lt;b&gt;bold&amp;" in page


def test_pictures_are_pictures_and_the_same_for_the_same_report(report):
    assert picture_of(report, "png").startswith(b"\x89PNG")
    svg = picture_of(report, "svg", vram_bytes=2**20)
    assert svg == picture_of(report, "svg", vram_bytes=2**20)
    text = svg.decode()
    assert all(name in text for name in ("near", "far", "base (0)", "memory of the card", "Pareto front"))


def test_the_chart_marks_what_no_other_beats(report):
    chart = chart_of(report)
    assert [(point.label, point.is_parent) for point in chart.points] == [
        ("base", True),
        ("near", False),
        ("far", False),
    ]
    # All of one size: only the best of them is not beaten.
    assert [point.label for point in chart.points if point.is_best] == ["base"]


def test_a_single_model_has_no_picture(models, tmp_path):
    report = measure([models[0]], text=models[0].with_name("text.txt"))
    with pytest.raises(BadValue, match="nothing to draw"):
        write_report(report, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    write_report(report, tmp_path / "a.html")
    assert "perplexity" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_names_that_say_no_kind_are_refused_at_once(tmp_path):
    with pytest.raises(BadValue, match=r"Names end in \.html"):
        check_outputs([tmp_path / "report.pdf"])


def test_the_verb_prints_tables_and_writes_files(models, tmp_path, capsys):
    words = [
        "eval",
        str(models[1]),
        f"{models[2]} -b 64",
        "--base",
        str(models[0]),
        "-t",
        "1",
        "-ngl",
        "0",
        "--chunk",
        "64",
    ]
    words += ["-f", str(models[0].with_name("text.txt"))]
    outputs = [word for kind in ("html", "png", "svg", "json") for word in ("-o", str(tmp_path / f"a.{kind}"))]
    assert run([*words, *outputs]) == 0
    shown = capsys.readouterr().out
    assert "far -b 64" in shown and "KL divergence from base" in shown and "best of its size" in shown
    assert len(list(tmp_path.iterdir())) == 4
    assert run([*words, "--json"]) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [model["label"] for model in printed["models"]] == ["base", "near", "far -b 64"]
    assert printed["models"] == written["models"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere.gguf"], 3, "There is no file nowhere.gguf"),
        (["built-in", "--suite", "pplx"], 2, "There is no suite 'pplx'"),
        (["built-in", "--suite", "kld"], 2, "compares with a parent"),
        (["built-in", "-o", "a.pdf"], 2, "Names end in"),
        (["built-in", "--tasks", "missing.jsonl", "--suite", "tasks"], 3, "missing.jsonl"),
        (["built-in -c many"], 2, "n_ctx"),
        (["built-in", "--vram", "much"], 2, "'much' is no size of memory"),
        (["built-in", "--minutes", "nan"], 2, "cannot be below 0 or without end"),
        (["built-in", "--needle-lengths", "a,b", "--suite", "needle"], 2, "--needle-lengths"),
        (["built-in", "--needle-lengths", "5", "--suite", "needle"], 2, "Lengths are 32 tokens and more"),
    ],
)
def test_wrong_words_are_refused_with_one_line(words, code, said, capsys):
    assert run(["eval", *words]) == code
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_parent_named_twice_is_measured_once(capsys):
    from localknobs.cli.main import run as run_words

    words = ["eval", "built-in", "--base", "built-in", "--suite", "ppl,kld,tasks", "--tasks", "format", "--chunk", "64"]
    assert run_words([*words, "--chunks", "2", "-t", "1", "--json"]) == 0
    parent, again = json.loads(capsys.readouterr().out)["models"]
    assert again["perplexity"]["value"] == parent["perplexity"]["value"]
    assert again["divergence"]["mean"]["value"] == 0
    assert again["tasks"][0]["share"] == parent["tasks"][0]["share"]


def test_what_a_change_did_stands_on_the_card_of_its_knob(home, capsys):
    changed = "built-in -ctk q4_0 -ctv q4_0"
    assert run(["eval", changed, "--base", "built-in", "--chunk", "64", "--chunks", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert run(["knobs", "cache_type_k", "--json"]) == 0
    (effect,) = json.loads(capsys.readouterr().out)["measured"]
    assert effect["settings"] == {"cache_type_k": "q4_0", "cache_type_v": "q4_0"}
    assert (effect["lever"], effect["model"], effect["against"]) == ("context", "built-in", "built-in")
    assert effect["numbers"]["kld_mean"] == report["models"][1]["divergence"]["mean"]["value"] > 0
    assert effect["command"] == report["command"]
    assert run(["knobs", "cache_type_k"]) == 0
    assert "Measured here" in capsys.readouterr().out
    assert run(["knobs", "temp"]) == 0
    assert "Measured here" not in capsys.readouterr().out


def test_an_effect_names_a_model_whose_name_looks_like_flags(models, tmp_path):
    named = nudged(models[0], tmp_path / "near -v2.gguf", 0.02)
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    words = ["eval", str(named), "--base", str(models[0]), "-f", str(text), "--chunk", "64", "-t", "1"]
    assert run(words) == 0
    assert [one.model for one in measured_effects()] == ["near -v2"]


def test_two_files_of_one_name_are_told_apart(models, tmp_path, capsys):
    for folder, apart in (("one", 0.02), ("two", 0.2)):
        (tmp_path / folder).mkdir()
        nudged(models[0], tmp_path / folder / "near.gguf", apart)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    files = [str(tmp_path / folder / "near.gguf") for folder in ("one", "two")]
    words = ["eval", *files, "--base", str(models[0]), "-f", str(tmp_path / "text.txt"), "--chunk", "64", "-t", "1"]
    assert run([*words, "--json"]) == 0
    means = {
        one["label"]: one["divergence"]["mean"]["value"] for one in json.loads(capsys.readouterr().out)["models"][1:]
    }
    assert list(means) == ["one/near", "two/near"] and means["one/near"] < means["two/near"]
    assert {one.model: one.numbers["kld_mean"] for one in measured_effects()} == means


def test_a_file_of_another_type_is_an_effect_of_its_lever(home, tmp_path, capsys):
    smaller = tmp_path / "smaller.gguf"
    assert run(["quantize", "built-in", "Q8_0", "-o", str(smaller)]) == 0
    assert run(["eval", str(smaller), "--base", "built-in", "--chunk", "64", "--chunks", "3"]) == 0
    capsys.readouterr()
    assert run(["knobs", "quantize", "--json"]) == 0
    (effect,) = json.loads(capsys.readouterr().out)["measured"]
    assert effect["settings"] == {"type": "Q8_0"} and effect["model"] == "smaller"
    assert effect["numbers"]["size_bytes"] < effect["numbers"]["size_bytes_before"]
