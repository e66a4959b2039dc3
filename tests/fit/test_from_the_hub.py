"""`fit` of a repository: from one header, fetched by ranges, to every quantization in it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub, Repo
from program import DEADLINE_S, PROGRAM
from shaped_models import SMALL, Shape, write_shaped_model

SHAPE = replace(SMALL["llama"], layers=8, context=4096)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    def content(shape: Shape) -> bytes:
        return write_shaped_model(tmp_path / "model.gguf", shape).read_bytes()

    with LoopbackHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        files = {f"small-{kind}.gguf": content(replace(SHAPE, kind=kind)) for kind in ("F16", "Q8_0", "Q4_0")}
        hub.repos["maker/small-GGUF"] = Repo(files)
        hub.repos["maker/small"] = Repo({"config.json": b"{}", "model.safetensors": b"\0" * 64})
        yield hub


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "fit", *arguments], capture_output=True, text=True, timeout=DEADLINE_S,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_every_quantization_of_a_repository(hub: LoopbackHub) -> None:
    done = run("maker/small-GGUF", "--ram", "8G", "--json")
    found = json.loads(done.stdout)
    assert [file["quant"] for file in found["files"]] == ["F16", "Q8_0", "Q4_0"]
    assert {file["method"] for file in found["files"]} == {"planned"}
    by_name = {file["quant"]: file for file in found["files"]}
    for kind, file in by_name.items():
        real = sum(tensor.size_bytes for tensor in read_headers_of(hub, kind))
        assert file["size_bytes"] == pytest.approx(real, rel=0.001)
        assert file["devices"][0]["weights"] == pytest.approx(real, rel=0.001)
        assert file["devices"][0]["cache"] == 4096 * 8 * 2 * 64 * 4
    assert by_name["Q8_0"]["fetch"] == "maker/small-GGUF:Q8_0"


def read_headers_of(hub: LoopbackHub, kind: str) -> tuple:
    from io import BytesIO

    from localknobs.gguf_info import parse_header

    data = hub.repos["maker/small-GGUF"].files[f"small-{kind}.gguf"]
    return parse_header(BytesIO(data), len(data), Path("x.gguf")).tensors


def test_the_recommended_file_can_be_fetched_as_told(hub: LoopbackHub) -> None:
    done = run("hf.co/maker/small-GGUF:Q8_0", "--ram", "8G")
    assert done.returncode == 0, done.stderr
    assert "localknobs pull maker/small-GGUF:Q8_0" in done.stdout


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ("maker/small", 3, "holds no GGUF file"),
        ("maker/small-GGUF:Q2_K", 3, "There is: "),
        ("maker/nothing", 3, "maker/nothing"),
        ("./nothing.gguf", 3, "nothing.gguf"),
    ],
)
def test_what_is_not_there_is_one_line(hub: LoopbackHub, spec: str, code: int, said: str) -> None:
    done = run(spec, "--ram", "8G")
    assert done.returncode == code and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_offline_says_so(hub: LoopbackHub) -> None:
    done = run("maker/small-GGUF", HF_HUB_OFFLINE="1")
    assert done.returncode != 0 and "HF_HUB_OFFLINE" in done.stderr
