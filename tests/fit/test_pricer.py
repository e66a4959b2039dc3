"""Prices on cards that are not there, of headers alone, and what happens when the planner cannot."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from made_adapters import write_adapter
from shaped_models import REAL, SMALL, Shape, write_shaped_model

from localknobs.engine import LoadSettings
from localknobs.fit.bill import Bill
from localknobs.fit.cards import GIB, Card, find_cards
from localknobs.fit.formula import computed_bill
from localknobs.fit.machine import FitMachine
from localknobs.fit.planning import Planning
from localknobs.fit.pricer import Pricer
from localknobs.gguf_info import Header, read_header

PROCESSOR = FitMachine(64 * GIB, 60 * GIB, 30e9)


def with_cards(text: str) -> FitMachine:
    return replace(PROCESSOR, cards=tuple(find_cards(text)), simulated=True)


@pytest.fixture
def header(tmp_path: Path) -> Header:
    return read_header(write_shaped_model(tmp_path / "llama.gguf", REAL["Llama-3.1-8B"]))


def price(header: Header, machine: FitMachine, planning: Planning, **knobs: object) -> Bill:
    with Pricer([header], machine, planning=planning) as pricer:
        return pricer.price(LoadSettings(model=header.path, **{"n_ctx": 4096, **knobs}))  # type: ignore[arg-type]


def test_a_card_that_is_not_there_gets_its_layers(header: Header, planning: Planning) -> None:
    whole = price(header, with_cards("RTX 4070"), planning)
    memory, card = whole.devices
    assert whole.method == "planned" and card.name == "RTX 4070"
    embedding = next(tensor.size_bytes for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert memory.weights == embedding and memory.cache == 0
    assert card.weights == pytest.approx(header.tensor_bytes - embedding, rel=1e-4)
    assert card.cache == 4096 * 32 * 8 * 128 * 2 * 2
    part = price(header, with_cards("RTX 4070"), planning, n_gpu_layers=9)  # 8 layers and the output
    assert part.devices[1].cache == card.cache // 4
    assert part.weights == pytest.approx(whole.weights, rel=1e-4)
    none = price(header, with_cards("RTX 4070"), planning, n_gpu_layers=0)
    assert none.devices[1].weights == 0 and none.devices[0].cache == card.cache
    in_memory = price(header, with_cards("RTX 4070"), planning, no_kv_offload="on")
    assert in_memory.devices[0].cache == card.cache and in_memory.devices[1].cache == 0


def test_two_cards_share_by_their_memory(header: Header, planning: Planning) -> None:
    cards = (*find_cards("RTX 3090"), *find_cards("RTX 4070"))
    bill = price(header, replace(PROCESSOR, cards=cards, simulated=True), planning)
    assert [device.name for device in bill.devices] == ["RAM", "RTX 3090", "RTX 4070"]
    assert 1.5 < bill.devices[1].cache / bill.devices[2].cache < 2.5


def test_experts_can_stay_in_memory(tmp_path: Path, planning: Planning) -> None:
    header = read_header(write_shaped_model(tmp_path / "moe.gguf", REAL["Qwen3-30B-A3B"]))
    experts = sum(tensor.size_bytes for tensor in header.tensors if "_exps" in tensor.name)
    bill = price(header, with_cards("RTX 4070"), planning, cpu_moe="on")
    assert bill.method == "planned" and bill.devices[0].weights > experts and bill.fits


def test_a_header_without_its_file_is_planned_the_same(tmp_path: Path, planning: Planning) -> None:
    shapes = {**SMALL, "hybrid": Shape(keys={"attention.head_count_kv": [2, 1, 2, 1]})}
    for name in ("gemma3", "deepseek2", "gpt-oss"):
        header = read_header(write_shaped_model(tmp_path / f"{name}.gguf", shapes[name]))
        here = price(header, PROCESSOR, planning)
        remote = replace(header, path=Path("on-the-hub.gguf"), key_ends=())
        assert price(remote, PROCESSOR, planning) == here and here.method == "planned"


@pytest.mark.parametrize("machine", ["RTX 4070", "M4 Pro 24GB", "2x RTX 3090"])
@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-30B-A3B", "gemma-3-12b", "DeepSeek-V2-Lite", "gpt-oss-20b"])
def test_the_formula_agrees_on_real_shapes(tmp_path: Path, planning: Planning, name: str, machine: str) -> None:
    header = read_header(write_shaped_model(tmp_path / "model.gguf", REAL[name]))
    for knobs in ({}, {"n_gpu_layers": 10}, {"n_ctx": 32768, "n_ubatch": 1024}):
        settings = LoadSettings(model=header.path, **{"n_ctx": 4096, **knobs})
        planned = price(header, with_cards(machine), planning, **knobs)
        computed = computed_bill([header], settings, with_cards(machine))
        assert planned.method == "planned" and computed.method == "computed"
        assert computed.total_bytes == pytest.approx(planned.total_bytes, rel=0.05)
        assert computed.cache == planned.cache


def test_adapters_and_a_draft_are_on_the_bill(header: Header, tmp_path: Path, planning: Planning) -> None:
    draft = read_header(write_shaped_model(tmp_path / "draft.gguf", REAL["Llama-3.2-1B"]))
    adapter = read_header(write_adapter(tmp_path / "adapter.gguf", draft.path, rank=64, says_base=False))
    settings = LoadSettings(model=header.path, n_ctx=4096, lora=(f"{adapter.path}:0.5",))
    alone = price(header, PROCESSOR, planning)
    with Pricer([header], PROCESSOR, draft=[draft], planning=planning) as pricer:
        both = pricer.price(settings)
        missing = pricer.price(replace(settings, lora=("nowhere.gguf",)))
    assert adapter.tensor_bytes > 10_000_000 and "nowhere.gguf" in missing.refusal
    assert both.weights == pytest.approx(alone.weights + draft.tensor_bytes + adapter.tensor_bytes, rel=1e-4)
    assert both.cache == alone.cache + 4096 * 16 * 8 * 64 * 2 * 2


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"cache_type_v": "q8_0", "flash_attn": "off"}, "-ctv"),
        ({"cache_type_k": "q4_K"}, "-ctk"),
        ({"tensor_split": "much"}, "-ts"),
        ({"override_tensor": "ffn=NoSuchBuffer"}, "-ot"),
    ],
)
def test_what_would_not_load_is_refused_by_name(header: Header, planning: Planning, knobs: dict, named: str) -> None:
    bill = price(header, PROCESSOR, planning, **knobs)
    assert named in bill.refusal and not bill.fits


def test_an_unknown_architecture_is_refused_with_llama_cpps_words(tmp_path: Path, planning: Planning) -> None:
    header = read_header(write_shaped_model(tmp_path / "new.gguf", replace(SMALL["llama"], family="newarch")))
    assert "unknown model architecture" in price(header, PROCESSOR, planning).refusal


@pytest.mark.parametrize(
    "keys",
    [
        {"block_count": 4_000_000_000},
        {"attention.head_count": 0, "attention.head_count_kv": 4_294_967_295},
        {"context_length": 4_294_967_295, "embedding_length": 0, "expert_count": 1, "expert_used_count": 9},
        {"attention.sliding_window": 4_294_967_295, "ssm.state_size": 4_294_967_295},
    ],
)
def test_a_hostile_header_is_priced_or_refused(tmp_path: Path, planning: Planning, keys: dict) -> None:
    header = read_header(write_shaped_model(tmp_path / "hostile.gguf", replace(SMALL["llama"], keys=keys)))
    price(header, PROCESSOR, planning)
    price(header, with_cards("2x RTX 3090"), planning)
    for machine in (PROCESSOR, with_cards("2x RTX 3090")):
        assert computed_bill([header], LoadSettings(model=header.path, n_ctx=4096), machine).method == "computed"


def test_a_planner_that_dies_is_replaced_and_at_last_left_alone(header: Header) -> None:
    settings = LoadSettings(model=header.path, n_ctx=4096)
    with Pricer([header], PROCESSOR) as pricer:
        planned = pricer.price(settings)
        for _ in range(2):
            os.kill(pricer._planning._child.process.pid, signal.SIGKILL)
            pricer._planning._child.process.wait()
            assert pricer.price(settings) == planned
        pricer._planning._deaths = 3
        computed = pricer.price(settings)
        assert computed.method == "computed" and "computed from the header" in computed.notes[0]
        assert computed.total_bytes == pytest.approx(planned.total_bytes, rel=0.05)
        folder = Path(pricer._folder.name)
        assert folder.is_dir()
    assert not folder.exists()
    assert pricer.price(settings).method == "computed"  # closed: still an answer


def test_a_planner_that_ends_in_the_middle_is_no_error(header: Header, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localknobs.fit.planning._COMMAND", ("/bin/false",))
    with Pricer([header], PROCESSOR) as pricer:
        for _ in range(5):
            bill = pricer.price(LoadSettings(model=header.path, n_ctx=2048))
            assert bill.method == "computed" and bill.fits


def test_no_room_for_the_plans_file_is_no_error(
    header: Header, planning: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("localknobs.fit.pricer.write_hollow", full)
    bill = price(header, PROCESSOR, planning)
    assert bill.method == "computed" and "No space left" in bill.notes[0]


def test_unified_memory_is_counted_once() -> None:
    card = Card("M", "apple", 16 * GIB, 12 * GIB, 1e11, unified=True)
    machine = FitMachine(16 * GIB, 14 * GIB, 1e11, (card,), True)
    from localknobs.fit.bill import DeviceBill

    def bill(on_card: int, in_memory: int) -> Bill:
        memory = DeviceBill("RAM", machine.free_bytes, weights=in_memory * GIB)
        return Bill((memory, DeviceBill("M", card.free_bytes, weights=on_card * GIB, unified=True)), 512, "planned")

    assert bill(11, 2).fits
    assert bill(11, 4).short_of == ("RAM",)  # 15 of 14
    assert bill(13, 0).short_of == ("M",)
