"""What `localknobs doctor` concludes: from facts about a machine, a build and a terminal to advice with its commands.

Pure: the facts come from `doctor.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localknobs.engine.build import Build
from localknobs.hardware import GraphicsCard, install_command

SMALL_MEMORY, SMALL_DISK = 2 * 2**30, 5 * 2**30
_FEATURES = (("avx2", "AVX2"), ("fma", "FMA"), ("avx512f", "AVX512"))
"""The processor's word for a feature, and llama.cpp's."""
_COMPILER = {"apt": "build-essential", "dnf": "gcc-c++", "pacman": "base-devel", "zypper": "gcc-c++", "brew": "gcc"}
_CMAKE = dict.fromkeys(("apt", "dnf", "pacman", "zypper", "brew"), "cmake")
_CUDA = {"apt": "nvidia-cuda-toolkit", "dnf": "cuda-toolkit", "pacman": "cuda", "zypper": "cuda-toolkit"}
_VULKAN = {
    "apt": "libvulkan-dev glslc spirv-headers", "dnf": "vulkan-loader-devel glslc spirv-headers-devel",
    "pacman": "vulkan-headers vulkan-icd-loader shaderc spirv-headers", "zypper": "vulkan-devel shaderc spirv-headers",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine; an empty path means that the program is not there, a speed of 0 that it is not known."""

    system: str
    python: str
    processor: str
    features: frozenset[str]
    cores: int
    physical_cores: int
    memory_bytes: int
    free_bytes: int
    cards: tuple[GraphicsCard, ...]
    nvidia_without_driver: bool
    cxx: str
    cmake: str
    nvcc: str
    models_folder: Path
    free_disk_bytes: int
    home: Path
    home_writable: bool
    memory_bytes_per_s: float = 0.0
    disk_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Terminal:
    """Facts about the terminal; `colours` is 0 for none."""

    is_terminal: bool
    kind: str
    encoding: str
    colours: int
    columns: int
    lines: int


@dataclass(frozen=True, slots=True)
class Trial:
    """How loading and running the built-in model went; `error` is empty when it went well."""

    took_s: float = 0.0
    tokens: int = 0
    tokens_per_s: float = 0.0
    notes: tuple[str, ...] = ()
    extra_buffers: bool = True
    error: str = ""
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict.

    Args:
        level: A `problem` keeps the program from working; `advice` makes it work better.
        text: What is the matter.
        commands: What mends it, in order; empty where nothing can or need be done.
    """

    level: Literal["problem", "advice"]
    text: str
    commands: tuple[str, ...] = ()


def findings(machine: Machine, build: Build | None, trial: Trial, terminal: Terminal) -> list[Finding]:
    """Return what is the matter, problems first; empty when all is fine."""
    found = [
        *_about_trial(machine, build, trial),
        *(_about_build(machine, build, trial) if build else ()),
        *_about_room(machine),
        *(_about_terminal(terminal) if terminal.is_terminal else ()),
    ]
    return sorted(found, key=lambda finding: finding.level != "problem")


def rebuild(machine: Machine, option: str = "") -> tuple[str, ...]:
    """Return the commands that compile llama.cpp again, with the tools they need.

    Args:
        machine: Where.
        option: A CMake option to switch on, such as `GGML_VULKAN`.
    """
    tools = [] if machine.cxx else [install_command(_COMPILER)]
    tools += [] if machine.cmake else [install_command(_CMAKE)]
    root = Path(__file__).resolve().parents[2]
    if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file():
        make = "make gpu" if Path.cwd() == root else f"make -C {shlex.quote(str(root))} gpu"
        return (*tools, f"CMAKE_ARGS=-D{option}=on {make}" if option else make)
    cuda = "nvidia" in {card.vendor for card in machine.cards} and not option
    options = " ".join(f"-D{name}=on" for name in ("GGML_RPC", option or ("GGML_CUDA" if cuda else "")) if name)
    pip = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
    return (*tools, f'CMAKE_ARGS="{options}" {pip}')


def _about_trial(machine: Machine, build: Build | None, trial: Trial) -> Iterator[Finding]:
    if not machine.home_writable:
        yield Finding(
            "problem",
            f"{machine.home} cannot be written to, so conversations and presets cannot be saved.",
            ("export LOCALKNOBS_HOME=FOLDER",),
        )
    if trial.error:
        what = "The built-in model cannot be run" if build else "llama.cpp cannot be loaded"
        yield Finding("problem", f"{what}: {trial.error}", rebuild(machine))


def _about_build(machine: Machine, build: Build, trial: Trial) -> Iterator[Finding]:
    vendors = {card.vendor for card in machine.cards}
    card = machine.cards[0].name if machine.cards else ""
    unused = not build.gpu_backends
    if "nvidia" in vendors and unused:
        toolkit = () if machine.nvcc else (install_command(_CUDA),)
        missing = "" if machine.nvcc else ", and the CUDA compiler (nvcc) that a build for it needs is missing"
        yield Finding(
            "advice",
            f"There is a graphics card ({card}), but this build of llama.cpp uses the processor alone{missing}.",
            (*toolkit, *rebuild(machine)),
        )
    elif "amd" in vendors and unused:
        yield Finding(
            "advice",
            f"There is a graphics card ({card}), but this build of llama.cpp uses the processor alone. "
            "Vulkan is the simplest way to it; with ROCm installed, GGML_HIP is the faster one.",
            (install_command(_VULKAN), *rebuild(machine, "GGML_VULKAN")),
        )
    elif "apple" in vendors and unused:
        yield Finding("advice", "This build of llama.cpp lacks Metal, so the GPU is not used.", rebuild(machine))
    elif build.gpu_backends and not any("gpu" in device.kind for device in build.devices):
        yield Finding(
            "advice",
            f"This build can use a graphics card ({', '.join(build.gpu_backends)}), but llama.cpp finds none: "
            "the driver may be missing or too old, or CUDA_VISIBLE_DEVICES may hide the card.",
            ("nvidia-smi",) if "CUDA" in build.gpu_backends else (),
        )
    if machine.nvidia_without_driver:
        yield Finding(
            "advice",
            "There is an NVIDIA graphics card without NVIDIA's driver.",
            (install_command({"apt": "nvidia-driver", "dnf": "akmod-nvidia", "pacman": "nvidia", "zypper": "nvidia"}),),
        )
    if lacking := [ours for theirs, ours in _FEATURES if theirs in machine.features and not build.uses(ours)]:
        yield Finding(
            "advice",
            f"The processor has {', '.join(lacking)}, which this build of llama.cpp does not use: "
            "it is slower than need be.",
            rebuild(machine),
        )
    if not build.rpc:
        yield Finding("advice", "This build lacks RPC, so other machines cannot lend their memory.", rebuild(machine))
    if not trial.extra_buffers:
        yield Finding(
            "advice",
            "llama.cpp's extra CPU buffers crash on this machine, as on some virtual ones. "
            "Models are loaded without them; prompts are read more slowly. There is nothing to do.",
        )


def _about_room(machine: Machine) -> Iterator[Finding]:
    if 0 < machine.free_bytes < SMALL_MEMORY:
        yield Finding("advice", "Little memory is free: close other programs before loading a larger model.")
    if 0 < machine.free_disk_bytes < SMALL_DISK:
        yield Finding(
            "advice",
            f"Little disk space is free at {machine.models_folder}; a model of 7B in 4 bits takes about 4 GiB.",
            ("export LOCALKNOBS_MODELS=FOLDER",),
        )


def _about_terminal(terminal: Terminal) -> Iterator[Finding]:
    if "utf" not in terminal.encoding.lower():
        yield Finding(
            "advice",
            f"The terminal's encoding is {terminal.encoding}: letters outside it are lost.",
            ("export LANG=C.UTF-8",),
        )
    if terminal.kind in ("", "dumb"):
        yield Finding(
            "advice",
            "TERM is not set, so there are neither colours nor line editing.",
            ("export TERM=xterm-256color",),
        )
    elif terminal.colours < 256 and terminal.kind in ("xterm", "screen", "tmux"):
        yield Finding(
            "advice", f"TERM={terminal.kind} promises few colours.", (f"export TERM={terminal.kind}-256color",)
        )
    if terminal.columns < 80 or terminal.lines < 24:
        yield Finding(
            "advice",
            f"The terminal has {terminal.columns}x{terminal.lines} characters; the terminal interface wants 80x24.",
        )
