"""What changes did here: kept, replaced by newer ones, and found again by knob and lever."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from localknobs.knobs import ALL_KNOBS, knob_boxes
from localknobs.measured_effects import (
    MeasuredEffect,
    effects_of_knob,
    effects_of_lever,
    measured_effects,
    remember_effects,
)
from localknobs.measured_speeds import MeasuredSpeed, remember_speeds
from localknobs.paths import data_folder


def effect(text: str = "perplexity 12 instead of 11", **changes: object) -> MeasuredEffect:
    fields = {"lever": "context", "settings": {"cache_type_k": "q4_0"}, "model": "m", "against": "base", "text": text}
    return MeasuredEffect(**{**fields, **changes})


def speed(settings: dict[str, object], reading: float, writing: float, model: str = "/m/some.gguf") -> MeasuredSpeed:
    return MeasuredSpeed(
        model=model, size_bytes=1, architecture="llama", quant="Q8_0", parameters=1, settings=settings,
        devices=("CPU",), prompt_tokens=512, prompt_tokens_per_s=reading, generated_tokens=128,
        generation_tokens_per_s=writing, when="2026-01-02T00:00:00+00:00",
    )  # fmt: skip


def test_every_knob_has_its_four_boxes_filled():
    for row in ALL_KNOBS.values():
        boxes = knob_boxes(row)
        assert [question for question, _ in boxes[:4]] == ["What changes", "When", "Where it lives", "Trade-off"]
        assert all(answer.strip() for _, answer in boxes), row.name


def test_the_newest_measurement_of_a_case_replaces_the_one_before(home: Path):
    remember_effects([effect("old"), effect("another", settings={"cache_type_k": "q8_0"})])
    remember_effects([effect("new")])
    assert [one.text for one in measured_effects()] == ["new", "another"]
    assert [one.text for one in effects_of_knob(ALL_KNOBS["cache_type_k"])] == ["new", "another"]
    assert effects_of_knob(ALL_KNOBS["temp"]) == [] and len(effects_of_lever("context")) == 2


def test_broken_lines_are_skipped_and_survive_nothing_else(home: Path):
    remember_effects([effect("kept")])
    file = data_folder() / "measured_effects.jsonl"
    bad = ["{", "[]", '{"lever": "no lever"}', '{"lever": "decode", "settings": {"a": 1}, "model": "m"}', "\x00"]
    file.write_text("\n".join([*bad, file.read_text(encoding="utf-8")]), encoding="utf-8")
    assert [one.text for one in measured_effects()] == ["kept"]


def test_speeds_that_differ_by_one_knob_are_effects_of_it(home: Path):
    remember_speeds([
        speed({"threads": 2}, 100, 50), speed({"threads": 2, "cache_type_k": "q8_0"}, 90, 55),
        speed({"threads": 2, "cache_type_k": "q8_0", "n_batch": 64}, 10, 5), speed({"threads": 1}, 60, 40),
    ])  # fmt: skip
    (found,) = [one for one in effects_of_knob(ALL_KNOBS["cache_type_k"])]
    assert found.settings == {"cache_type_k": "q8_0"} and found.against == "cache_type_k f16"
    assert found.text == "reads 90 tokens/s instead of 100 (-10%); writes 55 tokens/s instead of 50 (+10%)"
    assert found.command == "localknobs bench /m/some.gguf -ctk f16,q8_0 -t 2"
    (threads,) = effects_of_knob(ALL_KNOBS["threads"])
    assert threads.against == "threads 1" and "(+67%)" in threads.text


def test_the_command_of_a_speed_can_be_typed_where_the_path_has_spaces(home: Path):
    path = "/my models/it's one.gguf"
    remember_speeds([
        speed({"threads": 2}, 100, 50, model=path), speed({"threads": 2, "cache_type_k": "q8_0"}, 90, 55, model=path),
    ])  # fmt: skip
    (found,) = effects_of_knob(ALL_KNOBS["cache_type_k"])
    assert shlex.split(found.command) == ["localknobs", "bench", path, "-ctk", "f16,q8_0", "-t", "2"]


def test_the_command_of_a_speed_has_what_else_was_turned(home: Path):
    both = {"threads": 2, "n_batch": 64, "flash_attn": "on"}
    remember_speeds([speed(both, 100, 50), speed({**both, "cache_type_k": "q8_0"}, 90, 55)])
    (found,) = effects_of_knob(ALL_KNOBS["cache_type_k"])
    assert found.command == "localknobs bench /m/some.gguf -ctk f16,q8_0 -t 2 -b 64 -fa on"


def test_a_knob_that_bench_does_not_turn_has_no_command(home: Path):
    remember_speeds([speed({"threads": 2}, 100, 50), speed({"threads": 2, "n_cpu_moe": 4}, 90, 55)])
    (found,) = effects_of_knob(ALL_KNOBS["n_cpu_moe"])
    assert found.settings == {"n_cpu_moe": "4"} and found.command == ""


def test_a_place_that_cannot_be_written_is_an_error_to_the_caller(home: Path):
    data_folder().parent.mkdir(parents=True, exist_ok=True)
    data_folder().write_text("a file where the folder should be")
    with pytest.raises(OSError):
        remember_effects([effect()])
