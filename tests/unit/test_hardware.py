"""What the machine has: a container's limits count, and nothing breaks where the system tells nothing."""

import shutil

import pytest

from localknobs import hardware
from localknobs.errors import NotEnough

GIB = 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes the files a Linux system would have; without it there are none."""
    missing = str(tmp_path / "missing")
    monkeypatch.setattr(hardware, "_MEMINFO", str(tmp_path / "meminfo"))
    for name in ("limit", "use", "stat"):
        monkeypatch.setattr(hardware, f"_GROUP_{name.upper()}S", (str(tmp_path / name), missing))
    monkeypatch.setattr(hardware, "_GROUP_CORES", str(tmp_path / "cores"))

    def write(**files: str) -> None:
        for name, content in files.items():
            (tmp_path / name).write_text(content)

    return write


def meminfo(total: int, available: int) -> str:
    return f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"


def test_without_a_container_the_machine_counts(system):
    system(meminfo=meminfo(16 * GIB, 9 * GIB), limit="max\n", use="123\n")
    assert hardware.total_memory_bytes() == 16 * GIB and hardware.available_memory_bytes() == 9 * GIB


def test_a_containers_limit_counts_and_pages_of_files_are_given_back(system):
    system(
        meminfo=meminfo(16 * GIB, 9 * GIB), limit=str(4 * GIB), use=str(3 * GIB),
        stat=f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\n",
    )  # fmt: skip
    assert hardware.total_memory_bytes() == 4 * GIB
    assert hardware.available_memory_bytes() == GIB + GIB + GIB // 2


def test_a_container_over_its_limit_has_nothing_left(system):
    system(meminfo=meminfo(16 * GIB, 9 * GIB), limit=str(GIB), use=str(2 * GIB))
    assert hardware.available_memory_bytes() == 0


def test_a_limit_above_the_machine_is_none(system):
    system(meminfo=meminfo(16 * GIB, 9 * GIB), limit=str(2**63 - 4096), use=str(GIB))
    assert hardware.total_memory_bytes() == 16 * GIB and hardware.available_memory_bytes() == 9 * GIB


@pytest.mark.parametrize("content", ["", "MemTotal:", "MemTotal: many kB\n", "\n\n"])
def test_without_proc_memory_is_a_number_all_the_same(system, content):
    system(meminfo=content, limit="x", use="", stat="nonsense")
    assert hardware.total_memory_bytes() > 0 and hardware.available_memory_bytes() >= 0


def test_cores_are_at_least_one_and_within_the_containers_share(system, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert hardware.logical_cores() == 8
    for share, cores in {"250000 100000": 2, "50000 100000": 1, "max 100000": 8, "": 8, "1 2 3": 8}.items():
        system(cores=share)
        assert hardware.logical_cores() == cores, share
        assert 1 <= hardware.physical_cores() <= cores


def test_a_vendors_tool_that_fails_or_babbles_is_no_card(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    for script, cards in {
        "exit 9": [],
        "echo": [],
        "echo 'Some GPU, 24576'": [("Some GPU", 24576 * 2**20)],
        "echo 'Odd, one, [N/A]'": [("Odd, one", 0)],
    }.items():
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        found = [(card.name, card.memory_bytes) for card in hardware.graphics_cards() if card.vendor == "nvidia"]
        assert found == cards, script


def test_compilers_are_found_on_the_path_only(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert hardware.cxx_compiler() is None
    (tmp_path / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "g++").chmod(0o755)
    assert hardware.cxx_compiler() == str(tmp_path / "g++")


@pytest.mark.parametrize("free", [0, 5 * 2**20])
def test_what_does_not_fit_on_a_disk_is_refused_with_both_sizes(tmp_path, monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10 * GIB, 10 * GIB - free, free))
    hardware.check_disk_space(tmp_path, free, "a.gguf")
    with pytest.raises(NotEnough, match=r"a\.gguf: .* will be written.* free\. Free some space") as refused:
        hardware.check_disk_space(tmp_path / "to" / "be made", free + 1, "a.gguf")
    assert (refused.value.needed_bytes, refused.value.available_bytes) == (free + 1, free)


def test_a_disk_that_tells_nothing_is_no_reason_to_refuse(tmp_path, monkeypatch):
    def broken(_):
        raise OSError

    monkeypatch.setattr(shutil, "disk_usage", broken)
    hardware.check_disk_space(tmp_path, 2**60, "a.gguf")
    assert hardware.free_disk_bytes(tmp_path) == 0
