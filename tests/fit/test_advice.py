"""Which file to take: the two verdicts told apart, the largest context, the one recommendation, the speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shaped_models import REAL, write_shaped_model

from localknobs.engine import LoadSettings
from localknobs.engine.events import ModelInfo, Stats
from localknobs.fit import speed
from localknobs.fit.advice import Advice, Adviser, Candidate, Row, advise
from localknobs.fit.cards import GIB, find_cards
from localknobs.fit.choices import local_choices
from localknobs.fit.machine import FitMachine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import read_header
from localknobs.measured_speeds import MeasuredSpeed, measured_speeds, remember_speeds

BITS = {"F16": 16, "Q8_0": 8.5, "Q6_K": 6.5625, "Q4_K": 4.5, "Q2_K": 2.625}


def judged(
    folder: Path, planning: Planning, machine: FitMachine, name: str = "Llama-3.1-8B", **knobs: Any
) -> tuple[dict[str, Row], Advice]:
    header = read_header(write_shaped_model(folder / "model-Q8_0.gguf", REAL[name]))
    candidates = [Candidate(kind, int(header.parameters * bits / 8)) for kind, bits in BITS.items()]
    settings = LoadSettings(model=header.path, **{"n_ctx": 8192, **knobs})
    with Pricer([header], machine, planning=planning) as pricer:
        rows = Adviser(pricer, settings).rows(candidates)
    return {row.candidate.name: row for row in rows}, advise(rows, machine, settings.n_ctx)


def on(text: str, memory: int = 64) -> FitMachine:
    return FitMachine(memory * GIB, memory * GIB, 50e9, tuple(find_cards(text)) if text else (), True)


def test_a_card_with_room_takes_the_most_exact_file_that_fits_whole(tmp_path: Path, planning: Planning) -> None:
    rows, advice = judged(tmp_path, planning, on("RTX 4070"))
    assert [rows[name].verdict for name in BITS] == ["part", "fits", "fits", "fits", "fits"]
    assert advice.row is rows["Q8_0"] and "most exact" in advice.reason and not advice.flags
    assert rows["Q8_0"].layers == rows["Q8_0"].all_layers == 33
    assert 0 < rows["F16"].layers < 33
    assert rows["Q4_K"].context > rows["Q8_0"].context > 8192
    assert rows["Q4_K"].speed.empty > rows["Q8_0"].speed.empty > rows["F16"].speed.empty


def test_the_largest_context_fits_and_one_step_more_does_not(tmp_path: Path, planning: Planning) -> None:
    rows, _ = judged(tmp_path, planning, on("RTX 4070"))
    header = read_header(tmp_path / "model-Q8_0.gguf")
    with Pricer([header], on("RTX 4070"), planning=planning) as pricer:
        for layers, context in ((33, rows["Q8_0"].context),):
            settings = LoadSettings(model=header.path, n_gpu_layers=layers, n_ctx=context)
            assert pricer.price(settings).fits
            assert not pricer.price(replace(settings, n_ctx=context + 512)).fits


def test_the_weights_fit_and_only_the_context_does_not(tmp_path: Path, planning: Planning) -> None:
    rows, advice = judged(tmp_path, planning, on("RTX 3060 Laptop"), n_ctx=32768)
    assert rows["Q4_K"].verdict == "context" and 512 <= rows["Q4_K"].context < 32768
    assert rows["Q4_K"].context_q8 > 1.5 * rows["Q4_K"].context
    assert "only the context of 32,768 tokens does not" in advice.reason
    assert advice.row.context_q8 >= 32768 and advice.flags == ("-c", "32768", "-ctk", "q8_0", "-ctv", "q8_0")
    rows, advice = judged(tmp_path, planning, on("RTX 3060 Laptop"), n_ctx=131072)
    assert "Shorten it to" in advice.reason and advice.flags == ("-c", str(advice.row.context))


def test_the_weights_do_not_fit(tmp_path: Path, planning: Planning) -> None:
    rows, advice = judged(tmp_path, planning, on("", memory=2))
    assert {row.verdict for row in rows.values()} == {"weights"}
    assert advice.row is None and "even Q2_K takes" in advice.reason and "smaller quantization" in advice.reason
    assert rows["Q2_K"].context == 0 and rows["Q2_K"].speed is None


def test_two_bits_whole_are_worse_than_four_in_part(tmp_path: Path, planning: Planning) -> None:
    rows, advice = judged(tmp_path, planning, on("RTX 4070"), "Qwen3-30B-A3B")
    assert rows["Q2_K"].verdict == "fits" and advice.row is rows["Q4_K"]
    assert "lost much" in advice.reason and advice.flags == ("-ngl", str(rows["Q4_K"].layers))


def test_without_a_card_reading_pace_decides_down_to_four_bits(tmp_path: Path, planning: Planning) -> None:
    slow = replace(on(""), memory_bandwidth=15e9)
    _, advice = judged(tmp_path, planning, slow)
    assert advice.row.candidate.name == "Q4_K" and "None writes at reading pace" in advice.reason
    quick = replace(on(""), memory_bandwidth=200e9)
    _, advice = judged(tmp_path, planning, quick)
    assert advice.row.candidate.name == "Q8_0"


def test_as_many_layers_as_were_asked_for(tmp_path: Path, planning: Planning) -> None:
    rows, _ = judged(tmp_path, planning, on("RTX 4070"), n_gpu_layers=10)
    assert rows["Q8_0"].verdict == "fits" and rows["Q8_0"].layers == 10


def test_a_refused_setting_recommends_nothing(tmp_path: Path, planning: Planning) -> None:
    rows, advice = judged(tmp_path, planning, on(""), cache_type_v="q8_0", flash_attn="off")
    assert {row.verdict for row in rows.values()} == {"refused"} and advice.row is None


def test_only_experts_in_use_are_read(tmp_path: Path, planning: Planning) -> None:
    header = read_header(write_shaped_model(tmp_path / "moe.gguf", REAL["Qwen3-30B-A3B"]))
    reads = speed.reads_of([header])
    assert 0.09 < reads.active / reads.total < 0.13  # 3.3 of 30.5 billion
    tied = speed.reads_of([read_header(write_shaped_model(tmp_path / "tied.gguf", REAL["Llama-3.2-1B"]))])
    assert tied.active == tied.total


def test_speed_is_bytes_by_bandwidth_until_it_is_measured(tmp_path: Path, planning: Planning) -> None:
    machine = replace(on(""), processor="this one")
    header = read_header(write_shaped_model(tmp_path / "model.gguf", REAL["Llama-3.1-8B"]))
    with Pricer([header], machine, planning=planning) as pricer:
        bill = pricer.price(LoadSettings(model=header.path, n_ctx=4096))
    reads = speed.reads_of([header])
    estimate = speed.speed_of(bill, reads, machine, header.path)
    assert estimate.basis == "estimated"
    assert estimate.empty == pytest.approx(50e9 * speed.MEMORY_SHARE / reads.active, rel=1e-3)
    assert estimate.full < estimate.empty
    other = MeasuredSpeed(
        model=str(write_shaped_model(tmp_path / "other.gguf", REAL["Llama-3.1-8B"])), size_bytes=reads.active,
        architecture="llama", quant="Q8_0", parameters=1, devices=("CPU",), processor="this one",
        generation_tokens_per_s=estimate.empty / 2,
    )  # fmt: skip
    remember_speeds([other])
    corrected = speed.speed_of(bill, reads, machine, header.path)
    assert corrected.basis == "estimated from measurements" and corrected.empty == pytest.approx(estimate.empty / 2)
    assert speed.speed_of(bill, reads, replace(machine, processor="another")).basis == "estimated"
    remember_speeds([replace(other, model=str(header.path), generation_tokens_per_s=3.0)])
    assert speed.speed_of(bill, reads, machine, header.path).empty == pytest.approx(3.0)
    assert speed.speed_of(bill, reads, replace(machine, memory_bandwidth=0.0)) is None


def test_a_long_answer_of_a_chat_is_a_measurement() -> None:
    info = ModelInfo("/m.gguf", "m", "llama", "llama 8B Q4_0", 8, 10**9, 4096, 4096, 1000, None, devices=("CPU",))
    settings = LoadSettings(model=Path("/m.gguf"))
    long = Stats(generated_tokens=100, context_used=200, tokens_per_s=12.0)
    speed.remember_answer(info, settings, replace(long, generated_tokens=5))
    speed.remember_answer(info, settings, replace(long, context_used=9000))
    assert measured_speeds() == []
    speed.remember_answer(info, settings, long)
    speed.remember_answer(info, settings, replace(long, tokens_per_s=14.0))
    (record,) = measured_speeds()
    assert record.generation_tokens_per_s == 14.0 and record.quant == "Q4_0" and record.bytes_per_s == 14e9
    remember_speeds([replace(record, prompt_tokens=512, prompt_tokens_per_s=99.0, generation_tokens_per_s=20.0)])
    speed.remember_answer(info, settings, long)  # what bench measured stays
    assert [one.generation_tokens_per_s for one in measured_speeds()] == [20.0]


def test_other_quantizations_of_the_model_here_are_found(home: Path, planning: Planning) -> None:
    folder = home / "data" / "models"
    folder.mkdir(parents=True)
    for kind in ("Q8_0", "Q4_0"):
        write_shaped_model(folder / f"small-{kind}.gguf", replace(REAL["Llama-3.2-1B"], kind=kind))
    write_shaped_model(folder / "other-Q8_0.gguf", REAL["gemma-3-12b"])
    choices = local_choices("small-Q4_0", on(""), planning)
    try:
        assert [one.name for one in choices.candidates] == ["Q4_0", "Q8_0"]
    finally:
        choices.close()
