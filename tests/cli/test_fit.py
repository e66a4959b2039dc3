"""`localknobs fit` as a user meets it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from repository import REPOSITORY
from shaped_models import REAL, write_shaped_model

from localknobs import bandwidth


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember a bandwidth, so that no run measures."""
    monkeypatch.setattr(bandwidth, "measure_memory", lambda: 30e9)
    monkeypatch.setattr(bandwidth, "measure_disk", lambda: 1e9)
    bandwidth.bandwidth()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_shaped_model(tmp_path / "llama-Q8_0.gguf", REAL["Llama-3.1-8B"])


def test_the_built_in_model_and_what_it_could_be(run):
    done = run("fit", "--ram", "8G")
    assert done.returncode == 0 and done.stderr == ""
    assert "F16" in done.stdout and "Q4_K_M +" in done.stdout and "localknobs quantize makes it" in done.stdout
    assert "Planned by llama.cpp itself" in done.stdout and "Recommended: Q8_0" in done.stdout
    assert "no graphics card that this build of llama.cpp can use" in done.stdout


def test_a_card_that_is_not_there(run, model):
    done = run("fit", model, "--device", "RTX 4070", "--ctx", "16384", "--json")
    found = json.loads(done.stdout)
    (file,) = found["files"]
    assert found["recommended"] == "Q8_0" and file["verdict"] == "fits" and file["method"] == "planned"
    assert file["gpu_layers"] == file["layers"] == 33 and file["speed"]["basis"] == "estimated"
    assert [device["name"] for device in file["devices"]] == ["RAM", "RTX 4070"]
    assert file["devices"][1]["cache"] == 16384 * 32 * 8 * 128 * 4
    assert any("512 MiB of each graphics card" in text for text in found["machine"]["assumptions"])


def test_settings_are_those_of_chat(run, model):
    plain = json.loads(run("fit", model, "--ram", "64G", "--json").stdout)["files"][0]
    smaller = json.loads(run("fit", model, "--ram", "64G", "-ctk", "q8_0", "-ctv", "q8_0", "--json").stdout)["files"][0]
    assert smaller["devices"][0]["cache"] == plain["devices"][0]["cache"] * 17 // 32
    refused = run("fit", model, "-ctv", "q8_0", "-fa", "off")
    assert refused.returncode == 0 and "Recommended: nothing\n" in refused.stdout and refused.stdout.count("-ctv") == 1


def test_a_table_fits_80_columns(terminal, model):
    screen = terminal("fit", model, "--device", "2x RTX 3060 Laptop", "-c", "131072")
    screen.wait_for("Assumed:")
    head = next(line for line in screen.text.splitlines() if line.startswith("QUANT"))
    assert head.split() == ["QUANT", "SIZE", "TOTAL", "FITS", "MAX", "CTX", "LAYERS", "TOKENS/S"]
    assert screen.ends() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["no-such-model"], 3, "There is no model"),
        (["built-in", "--device", "RTX 4O70"], 3, "Did you mean RTX 4070"),
        (["built-in", "--device", "RTX 4060 Ti"], 2, "8 GB, 16 GB"),
        (["built-in", "--vram", "much"], 2, "For example: 12G"),
        (["built-in", "--ctx", "-5"], 2, "tokens"),
        (["built-in", "--device", "RTX 4070", "--device", "RTX 3090", "--vram", "8G"], 2, "one card"),
        (["built-in", "-c", "x"], 2, "n_ctx"),
        (["built-in", "--lora", "nowhere.gguf"], 3, "nowhere.gguf"),
    ],
)
def test_what_cannot_be_meant_is_one_line(run, arguments, code, said):
    done = run("fit", *arguments)
    assert done.returncode == code and said in done.stderr and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_checkpoint_is_priced_before_anything_is_written(run):
    folder = REPOSITORY / "models" / "checkpoint"
    before = sorted(folder.iterdir())
    found = json.loads(run("fit", folder, "--ram", "8G", "--json").stdout)
    by_name = {file["quant"]: file for file in found["files"]}
    assert by_name["F16"]["method"] == "planned" and not by_name["F16"]["exists"]
    assert by_name["Q8_0"]["size_bytes"] < 0.6 * by_name["F16"]["size_bytes"]
    assert sorted(folder.iterdir()) == before
    refused = run("fit", folder.parent)
    assert refused.returncode == 3 and len(refused.stderr.splitlines()) == 1


def test_the_memory_shown_is_that_of_the_flags_recommended(run, model):
    done = run("fit", model, "--device", "RTX 4070", "-c", "65536")
    assert "Memory of Q8_0 -c " in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("RTX 4070  "))
    used, free = (float(text) for text in re.findall(r"([\d.]+) GiB", row)[-2:])
    assert used <= free


def test_the_list_of_cards(run):
    done = run("fit", "--device", "list")
    assert "RTX 4070 12GB" in done.stdout and "504 GB/s" in done.stdout
    assert len(json.loads(run("fit", "--device", "list", "--json").stdout)) > 150


def test_nothing_is_left_behind(run, model, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    run("fit", model, TMPDIR=str(folder))
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)
