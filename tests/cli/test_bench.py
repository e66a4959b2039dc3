"""`localknobs bench`: lists, combinations, the table, JSON, the picture, what is remembered, and rubbish."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from random_model import write_random_model

from localknobs.bench import BenchConfig, Case, CaseResult, bench, cases
from localknobs.bench.picture import picture
from localknobs.cli.main import run
from localknobs.engine import LoadSettings
from localknobs.errors import BadValue
from localknobs.jobs import Advanced, Started
from localknobs.measured_speeds import measured_speeds


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("bench") / "small.gguf", heads=2, kv_heads=1, context=512)


def test_every_combination_once_threads_fastest_and_only_what_varies_is_named(model):
    made = cases(BenchConfig(model, {"threads": (1, 2), "n_batch": (64, 32), "flash_attn": ("on",)}, 40, 8, depth=10))
    assert [dict(case.varied) for case in made] == [
        {"threads": 1, "n_batch": 64}, {"threads": 2, "n_batch": 64}, {"threads": 1, "n_batch": 32},
        {"threads": 2, "n_batch": 32},
    ]  # fmt: skip
    assert {case.settings.n_ctx for case in made} == {50} and {case.settings.flash_attn for case in made} == {"on"}
    assert len({case.loaded_as for case in made}) == 2
    (only,) = cases(BenchConfig(model, {"threads": (0,)}))
    assert only.settings.threads >= 1 and only.label == "as loaded"


@pytest.mark.parametrize(
    "wrong", [{"prompt": 0, "generate": 0}, {"prompt": -1}, {"repetitions": 0}, {"depth": -5}, {"generate": -2}]
)
def test_what_cannot_be_measured_is_refused(model, wrong):
    with pytest.raises(BadValue):
        cases(BenchConfig(model, **{"prompt": 8, "generate": 8, **wrong}))


def test_too_many_combinations_are_refused_before_a_load(model):
    with pytest.raises(BadValue, match="100 combinations"):
        cases(BenchConfig(model, {"threads": tuple(range(1, 101))}))


def test_the_table_and_the_memory(model, capsys):
    assert (
        run(["bench", str(model), "-p", "32", "-n", "8", "-r", "2", "-t", "1", "-b", "16,32", "-ctk", "f16,q8_0"]) == 0
    )
    out = capsys.readouterr().out
    head, *rows = out.splitlines()
    assert "reading 32, tokens/s" in head and "writing 8, tokens/s" in head and "threads" not in head
    assert len(rows) == 5 and "Fastest reading: -b " in rows[-1]
    remembered = measured_speeds()
    assert len(remembered) == 4
    assert remembered[-1].generation_tokens_per_s == max(one.generation_tokens_per_s for one in remembered)
    first = remembered[0]
    assert first.model == str(model) and first.architecture == "llama" and first.prompt_tokens == 32
    assert first.settings["threads"] == 1 and first.settings["n_batch"] in (16, 32) and first.devices == ("CPU",)


def test_json_has_every_sample_and_what_was_refused(model, capsys):
    words = [
        "bench",
        str(model),
        "-p",
        "0",
        "-n",
        "8",
        "-r",
        "3",
        "-t",
        "1",
        "-ctv",
        "f16,q8_0",
        "-fa",
        "off",
        "--json",
    ]
    assert run(words) == 0
    data = json.loads(capsys.readouterr().out)
    fine, refused = data["cases"]
    assert fine["prompt_tokens_per_s"] == 0 and len(fine["generation_samples"]) == 3 and fine["trouble"] is None
    assert sorted(fine["generation_samples"])[1] == fine["generation_tokens_per_s"] > 0
    assert refused["settings"]["cache_type_v"] == "q8_0" and "flash" in refused["trouble"].lower()
    assert len(measured_speeds()) == 1


def test_nothing_is_remembered_of_a_depth_and_all_refused_is_an_error(model, capsys):
    assert run(["bench", str(model), "-p", "8", "-n", "4", "-r", "1", "-t", "1", "-d", "16"]) == 0
    assert measured_speeds() == []
    assert run(["bench", str(model), "-p", "8", "-r", "1", "-t", "1", "-ctv", "q8_0", "-fa", "off"]) == 1
    assert "Nothing could be measured" in capsys.readouterr().err


def test_stopping_closes_the_models_and_remembers_nothing(model):
    job = bench(BenchConfig(model, {"threads": (1,)}, 16, 4, repetitions=3))
    assert isinstance(next(job), Started) and isinstance(next(job), Advanced)
    job.close()
    assert measured_speeds() == []


def test_the_picture_is_sound_xml_with_a_bar_for_each_and_names_made_safe(model, tmp_path, capsys):
    drawn = tmp_path / "speeds.svg"
    assert run(["bench", str(model), "-p", "8", "-n", "4", "-r", "2", "-t", "1-2", "-o", str(drawn)]) == 0
    texts = [node.text for node in ElementTree.parse(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert "threads 1" in texts and "threads 2" in texts and "Reading 8 tokens, tokens/s" in texts
    settings = LoadSettings(model=model)
    results = [
        CaseResult(Case(settings, {"threads": 1}), (10.0, 30.0, 20.0), (1.0, 1.0, 1.0)),
        CaseResult(Case(settings, {"threads": 2}), trouble="it <fails> & how"),
    ]
    root = ElementTree.fromstring(picture(BenchConfig(model, repetitions=3), results, "a<b&c", "one"))
    bars = [node for node in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(bars) == 2
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a<b&c" in texts and texts.count("not measured") == 2 and "20.0" in texts


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["-t", "two"], 2, "threads (-t) cannot be 'two'"),
        (["-t", "1,,2"], 2, "threads (-t) cannot be ''"),
        (["-t", "-4"], 2, "threads"),
        (["-b", "0"], 2, "n_batch (-b) cannot be 0"),
        (["-ctk", "q9"], 2, "cache_type_k"),
        (["-p", "many"], 2, "-p"),
        (["-o", "speeds.png"], 2, "SVG"),
        (["-o", "no/such/folder/speeds.svg"], 2, "There is no folder"),
        (["-r", "0"], 2, "-r cannot be 0"),
    ],
)
def test_rubbish_is_told_in_one_line(model, words, code, complaint, capsys):
    assert run(["bench", str(model), *words]) == code
    err = capsys.readouterr().err
    assert complaint in err and len(err.splitlines()) == 1


def test_a_model_that_is_none(tmp_path, capsys):
    assert run(["bench", str(tmp_path / "none.gguf")]) == 3
    (tmp_path / "rubbish.gguf").write_bytes(b"\0" * 64)
    assert run(["bench", str(tmp_path / "rubbish.gguf"), "-p", "4"]) == 3
