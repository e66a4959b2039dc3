"""What doctor concludes, on machines this one is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from localknobs.cli.findings import Machine, Terminal, Trial, findings, rebuild
from localknobs.engine.build import Build, Device
from localknobs.hardware import GraphicsCard

NVIDIA, AMD = GraphicsCard("RTX 4090", "nvidia", 24 * 2**30), GraphicsCard("AMD GPU", "amd", 16 * 2**30)
MACHINE = Machine(
    system="Linux", python="3.11", processor="Some processor", features=frozenset({"avx2", "fma"}), cores=8,
    physical_cores=4, memory_bytes=32 * 2**30, free_bytes=20 * 2**30, cards=(), nvidia_without_driver=False,
    cxx="/usr/bin/c++", cmake="/usr/bin/cmake", nvcc="", models_folder=Path("/m"), free_disk_bytes=100 * 2**30,
    home=Path("/h"), home_writable=True,
)  # fmt: skip
BUILD = Build("0.3.36", ("RPC", "CPU"), (Device("CPU", "Some processor", "cpu"),), True, True, "AVX2 = 1 | FMA = 1 |")
TRIAL = Trial(tokens=20)
TERMINAL = Terminal(True, "xterm-256color", "utf-8", 256, 120, 40)


def verdicts(machine=MACHINE, build=BUILD, trial=TRIAL, terminal=TERMINAL):
    return findings(machine, build, trial, terminal)


def test_nothing_is_said_where_all_is_fine():
    assert verdicts() == []
    assert verdicts(terminal=replace(TERMINAL, is_terminal=False, kind="", columns=1)) == []


def test_a_card_that_the_build_does_not_use():
    (told,) = verdicts(replace(MACHINE, cards=(NVIDIA,), nvcc="/usr/bin/nvcc"))
    assert "RTX 4090" in told.text and told.level == "advice"
    assert told.commands[-1].endswith("gpu") and "make" in told.commands[-1]


def test_without_nvcc_its_package_comes_first():
    (told,) = verdicts(replace(MACHINE, cards=(NVIDIA,)))
    assert "nvcc" in told.text and "cuda" in told.commands[0] and "make" in told.commands[1]


def test_an_amd_card_is_reached_through_vulkan():
    (told,) = verdicts(replace(MACHINE, cards=(AMD,)))
    assert "vulkan" in told.commands[0] and "GGML_VULKAN" in told.commands[-1]


def test_a_build_that_uses_the_card_is_fine():
    card = Device("CUDA0", "RTX 4090", "gpu", 24 * 2**30)
    with_cuda = replace(BUILD, backends=("CUDA", "RPC", "CPU"), devices=(card, *BUILD.devices))
    machine = replace(MACHINE, cards=(NVIDIA,))
    assert verdicts(machine, with_cuda) == []
    (told,) = verdicts(machine, replace(with_cuda, devices=BUILD.devices))
    assert "finds none" in told.text


def test_rpc_alone_is_no_graphics_card():
    assert BUILD.gpu_backends == () and replace(BUILD, backends=("CUDA", "RPC", "CPU")).gpu_backends == ("CUDA",)


def test_instructions_the_build_leaves_unused():
    (told,) = verdicts(build=replace(BUILD, system_info="FMA = 1 |"))
    assert "AVX2" in told.text and "FMA" not in told.text and told.commands


@pytest.mark.parametrize("lacking", ["cxx", "cmake"])
def test_a_rebuild_begins_with_the_tools_it_needs(lacking):
    assert len(rebuild(MACHINE)) == 1
    first, _ = rebuild(replace(MACHINE, **{lacking: ""}))
    assert "install" in first


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"free_bytes": 2**30}, "memory"),
        ({"free_disk_bytes": 2**30}, "disk"),
        ({"nvidia_without_driver": True}, "driver"),
    ],
)
def test_what_is_scarce_is_advice(machine, says):
    (told,) = verdicts(replace(MACHINE, **machine))
    assert told.level == "advice" and says in told.text


def test_what_breaks_the_program_is_a_problem_and_comes_first():
    told = verdicts(replace(MACHINE, free_bytes=2**30, home_writable=False), trial=Trial(error="it died"))
    assert [finding.level for finding in told] == ["problem", "problem", "advice"]
    (dead,) = verdicts(build=None, trial=Trial(error="no library"))
    assert "llama.cpp cannot be loaded: no library" in dead.text and dead.commands


@pytest.mark.parametrize(
    ("terminal", "says"),
    [
        ({"encoding": "ascii"}, "LANG"),
        ({"kind": "dumb", "colours": 0}, "TERM"),
        ({"kind": "xterm", "colours": 16}, "TERM"),
    ],
)
def test_a_poor_terminal_gets_its_command(terminal, says):
    (told,) = verdicts(terminal=replace(TERMINAL, **terminal))
    assert any(says in command for command in told.commands)


def test_buffers_that_crash_are_told_without_a_command():
    (told,) = verdicts(trial=Trial(tokens=20, extra_buffers=False))
    assert "extra CPU buffers" in told.text and told.commands == ()
