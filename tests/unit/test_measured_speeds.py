"""Remembered speeds: what is written comes back, the same case is replaced, a broken file costs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from localknobs.measured_speeds import MOST, MeasuredSpeed, measured_speeds, remember_speeds
from localknobs.paths import cache_folder


def speed(**changes):
    fields = {
        "model": "/models/a.gguf", "size_bytes": 1_000_000, "architecture": "llama", "quant": "Q4_K_M",
        "parameters": 2_000_000, "settings": {"threads": 2, "n_batch": 512}, "devices": ("CPU",), "processor": "one",
        "prompt_tokens": 512, "prompt_tokens_per_s": 900.0, "generated_tokens": 128, "generation_tokens_per_s": 50.0,
        "when": "2026-11-24T12:00:00+00:00",
    }  # fmt: skip
    return MeasuredSpeed(**{**fields, **changes})


def test_what_is_remembered_comes_back_and_the_newest_stands_last():
    assert measured_speeds() == []
    first, second = speed(), speed(settings={"threads": 1, "n_batch": 512})
    remember_speeds([first, second])
    again = speed(generation_tokens_per_s=70.0)
    remember_speeds([again])
    assert measured_speeds() == [second, again]
    assert again.bytes_per_s == 70e6


def test_another_machine_or_file_is_another_case():
    remember_speeds([speed(), speed(processor="two"), speed(size_bytes=5), speed(devices=("CUDA0",))])
    assert len(measured_speeds()) == 4


def test_broken_lines_are_skipped_and_survived():
    remember_speeds([speed()])
    file = cache_folder() / "measured_speeds.jsonl"
    file.write_text(file.read_text() + 'null\n{"model": 3}\nnonsense\n{"torn', encoding="utf-8")
    assert measured_speeds() == [speed()]
    remember_speeds([speed(processor="two")])
    assert len(file.read_text().splitlines()) == 2
    file.write_bytes(b"\xff\xfe\x00")
    assert measured_speeds() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ["a"]},
        {"processor": {}},
        {"devices": [[]]},
        {"settings": None},
        {"settings": ["n_batch"]},
        {"parameters": "many"},
        {"prompt_tokens": None},
        {"when": 7},
    ],
    ids=str,
)
def test_a_line_with_fields_of_another_kind_is_skipped_and_survived(wrong):
    remember_speeds([speed()])
    file = cache_folder() / "measured_speeds.jsonl"
    file.write_text(file.read_text() + json.dumps({**asdict(speed()), **wrong}) + "\n", encoding="utf-8")
    assert measured_speeds() == [speed()]
    remember_speeds([speed(processor="two")])
    assert measured_speeds() == [speed(), speed(processor="two")]


def test_a_line_that_is_nested_without_end_is_skipped():
    remember_speeds([speed()])
    file = cache_folder() / "measured_speeds.jsonl"
    file.write_text("[" * 200_000 + "\n" + file.read_text(), encoding="utf-8")
    assert measured_speeds() == [speed()]


def test_the_file_stays_small():
    remember_speeds([speed(size_bytes=at) for at in range(MOST + 5)])
    assert [one.size_bytes for one in measured_speeds()][0] == 5 and len(measured_speeds()) == MOST
