"""Cards by name, sizes as typed, machines that are only asked about, measured bandwidth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localknobs import bandwidth
from localknobs.errors import BadValue, NotFound
from localknobs.fit.cards import GIB, Card, find_cards, known_cards, parse_size
from localknobs.fit.machine import other_machine, this_machine


def test_every_card_of_the_table_is_found_by_its_own_title() -> None:
    cards = known_cards()
    assert len(cards) > 150
    for card in cards:
        assert find_cards(card.title) == [card]
        assert 2 * GIB <= card.total_bytes <= 512 * GIB and 5e10 <= card.bandwidth < 1e13
    assert len({card.title for card in cards}) == len(cards)


def test_the_table_names_its_source_and_date() -> None:
    text = Path(bandwidth.__file__).with_name("data").joinpath("cards.csv").read_text(encoding="utf-8")
    head = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert "published specifications" in head and "2026-" in head


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("RTX 4070", ["RTX 4070 12GB"]),
        ("rtx4070", ["RTX 4070 12GB"]),
        ("4070 super", ["RTX 4070 SUPER 12GB"]),
        ("NVIDIA GeForce RTX 4060 Ti 16 GB", ["RTX 4060 Ti 16GB"]),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", ["RTX 3080 Ti Laptop 16GB"]),
        ("2x RTX 3090", ["RTX 3090 24GB", "RTX 3090 24GB"]),
        ("AMD Radeon RX 7900 XTX", ["RX 7900 XTX 24GB"]),
        ("m4 max 64gb", ["M4 Max 64GB"]),
        ("Card of tomorrow 48GB", ["Card of tomorrow 48GB"]),
    ],
)
def test_cards_as_people_type_them(typed: str, meant: list[str]) -> None:
    assert [card.title for card in find_cards(typed)] == meant


def test_cards_that_cannot_be_meant() -> None:
    with pytest.raises(NotFound, match="Did you mean RTX 4070"):
        find_cards("RTX 4O70")
    with pytest.raises(NotFound, match="Add its memory"):
        find_cards("zzz")
    with pytest.raises(BadValue, match="8 GB, 16 GB"):
        find_cards("RTX 4060 Ti")
    with pytest.raises(BadValue, match="12 GB, not 16 GB"):
        find_cards("RTX 4070 16GB")
    for typed in ("", " ", "0x RTX 3090"):
        with pytest.raises((BadValue, NotFound)):
            find_cards(typed)


def test_sizes() -> None:
    assert parse_size("12G") == parse_size(" 12 gb") == parse_size("12GiB") == parse_size("12") == 12 * GIB
    assert parse_size("512m") == GIB // 2 and parse_size("1.5T") == 1536 * GIB
    for wrong in ("", "much", "-1G", "1e9", "12X", "1 2"):
        with pytest.raises(BadValue):
            parse_size(wrong)


def test_a_machine_that_is_asked_about_says_what_it_assumes() -> None:
    plain = other_machine(find_cards("RTX 4070"), 32 * GIB)
    assert plain.memory_bytes == 32 * GIB and plain.free_bytes < plain.memory_bytes and plain.simulated
    assert any("512 MiB of each graphics card" in text for text in plain.assumptions)
    assert any("10% of 32 GiB" in text for text in plain.assumptions)
    unified = other_machine(find_cards("M4 Max 64GB"))
    assert unified.memory_bytes == 64 * GIB and unified.cards[0].free_bytes == 48 * GIB
    assert unified.memory_bandwidth == unified.cards[0].bandwidth
    assert not other_machine([Card("x", "", GIB, GIB)]).processor  # what was measured here says nothing of it


def test_this_machine_without_a_card_says_so() -> None:
    from localknobs.engine.build import Build, Device

    build = Build("0", ("CPU",), (Device("CPU", "A processor", "cpu"),), False, True, "")
    machine = this_machine(build)
    assert machine.cards == () and "no graphics card" in machine.assumptions[-1]
    card = Device("CUDA0", "NVIDIA GeForce RTX 3060", "gpu", 12 * GIB, 11 * GIB)
    machine = this_machine(Build("0", ("CPU", "CUDA"), (card,), False, True, ""))
    assert machine.cards[0].free_bytes == 11 * GIB and machine.cards[0].bandwidth in (240e9, 360e9)


def test_bandwidth_is_measured_once_and_again_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]

    def measured() -> float:
        count[0] += 1
        return 1e9 * count[0]

    monkeypatch.setattr(bandwidth, "measure_memory", measured)
    monkeypatch.setattr(bandwidth, "measure_disk", lambda: 2e9)
    assert bandwidth.bandwidth() == bandwidth.bandwidth() == bandwidth.Bandwidth(1e9, 2e9)
    assert bandwidth.bandwidth(again=True).memory == bandwidth.bandwidth().memory == 2e9
    monkeypatch.setattr(bandwidth, "_machine", lambda: "another")  # a home may serve several machines
    assert bandwidth.bandwidth().memory == 3e9
    assert len(json.loads(bandwidth._file().read_text(encoding="utf-8"))) == 2
    bandwidth._file().write_text("[broken", encoding="utf-8")
    assert bandwidth.bandwidth().memory == 4e9


def test_measurements_are_of_the_right_size() -> None:
    assert 5e8 < bandwidth.measure_memory() < 5e12
    speed = bandwidth.measure_disk()
    assert speed == 0 or 1e6 < speed < 1e12
    assert not list(bandwidth.cache_folder().glob(".disk-speed*"))


def test_too_little_memory_or_disk_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "available_memory_bytes", lambda: 2**20)
    monkeypatch.setattr(bandwidth, "free_disk_bytes", lambda _: 2**20)
    assert bandwidth.measure_memory() == 0 and bandwidth.measure_disk() == 0


def test_a_card_of_half_a_gigabyte_does_not_look_as_if_it_had_none() -> None:
    assert Card("Old", "", 2**29, 2**29).title == "Old 0.5GB" and Card("New", "", 2**40, 0).title == "New 1024GB"
