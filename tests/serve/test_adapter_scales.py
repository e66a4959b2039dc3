"""Adapters of a server: listed, scaled for all requests or for one, without a new load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_adapters import write_adapter
from served import Served

from localknobs.paths import built_in_model

OFF: list[dict[str, Any]] = [{"id": 0, "scale": 0}, {"id": 1, "scale": 0}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / f"{seed}.gguf", built_in_model(), seed=seed, strength=0.3) for seed in (1, 2)]


@pytest.fixture(scope="module")
def layered(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one, two = files
    served = Served(
        "--preset", "deterministic", "--lora", one, "--lora", f"{two}:0", home=tmp_path_factory.mktemp("layered")
    )
    yield served
    served.close()


def content(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_scales_count_from_the_next_request_on_in_the_same_process(layered: Served, server: Served, files: list[Path]):
    worker = layered.worker()
    listed = layered.client.get("/lora-adapters").json()
    assert listed == [{"id": 0, "path": str(files[0]), "scale": 1.0}, {"id": 1, "path": str(files[1]), "scale": 0.0}]
    first = content(layered.chat(max_tokens=12))
    base = content(server.chat(max_tokens=12))
    assert first != base
    assert layered.client.post("/lora-adapters", json=[{"id": 1, "scale": 0.5}]).json() == {"success": True}
    assert [one["scale"] for one in layered.client.get("/lora-adapters").json()] == [0.0, 0.5]
    second = content(layered.chat(max_tokens=12))
    assert second not in (first, base)
    layered.client.post("/lora-adapters", json=[])
    assert content(layered.chat(max_tokens=12)) == base, "not named is at rest, and at rest is the base"
    layered.client.post("/lora-adapters", json=[{"id": 0, "scale": 1}])
    assert content(layered.chat(max_tokens=12)) == first
    assert layered.worker() == worker


def test_a_request_has_scales_of_its_own(layered: Served, server: Served):
    layered.client.post("/lora-adapters", json=[{"id": 0, "scale": 1}])
    usual = content(layered.chat(max_tokens=12))
    assert content(layered.chat(max_tokens=12, lora=OFF)) == content(server.chat(max_tokens=12)) != usual
    assert content(layered.chat(max_tokens=12)) == usual
    assert [one["scale"] for one in layered.client.get("/lora-adapters").json()] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"id": 0}, "must be a list"),
        ([0], "an id and a scale"),
        ([{"id": 0}], "an id and a scale"),
        ([{"id": 0, "scale": "1"}], "an id and a scale"),
        ([{"id": 0, "scale": 1e300}], "an id and a scale"),
        ([{"id": 2, "scale": 1}], "0 to 1"),
        ([{"id": -1, "scale": 1}], "0 to 1"),
        ([{"id": "0", "scale": 1}], "0 to 1"),
    ],
)
def test_wrong_scales_are_refused_and_change_nothing(layered: Served, given: Any, says: str):
    before = layered.client.get("/lora-adapters").json()
    for reply in (layered.client.post("/lora-adapters", json=given), layered.chat(lora=given)):
        assert reply.status_code == 400 and says in reply.json()["error"]["message"]
    assert layered.client.get("/lora-adapters").json() == before


def test_a_server_without_adapters_says_how_it_gets_some(server: Served):
    assert server.client.get("/lora-adapters").json() == []
    reply = server.chat(lora=[{"id": 0, "scale": 1}])
    assert reply.status_code == 400 and "--lora FILE" in reply.json()["error"]["message"]
    assert server.chat(lora=[], max_tokens=1).status_code == 200


def test_vectors_follow_the_scales_of_the_server_and_not_those_of_the_last_chat(layered: Served):
    def vector() -> list[float]:
        reply = layered.post("/v1/embeddings", input="What does temperature do?")
        return list(reply.json()["data"][0]["embedding"])

    layered.client.post("/lora-adapters", json=[{"id": 0, "scale": 1}])
    usual = vector()
    content(layered.chat(max_tokens=2, lora=OFF))
    assert vector() == pytest.approx(usual, abs=1e-6)
    layered.client.post("/lora-adapters", json=[])
    assert vector() != pytest.approx(usual, abs=1e-3)
