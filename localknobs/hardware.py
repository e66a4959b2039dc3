"""What this machine has: memory, cores, graphics cards, compilers.

Reads files and runs vendors' own tools; knows no llama.cpp.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from localknobs.errors import NotEnough
from localknobs.units import size_text

_MEMINFO = "/proc/meminfo"
_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_GROUP_STATS = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
_GROUP_CORES = "/sys/fs/cgroup/cpu.max"


@dataclass(frozen=True, slots=True)
class GraphicsCard:
    """A graphics card that the system knows.

    Args:
        name: Maker's name of it.
        vendor: Whose it is: `nvidia`, `amd`, `apple` or `intel`.
        memory_bytes: Its memory, 0 when unknown.
    """

    name: str
    vendor: str
    memory_bytes: int = 0


def _number_in(paths: tuple[str, ...]) -> int:
    """Return the number in the first of these files that holds one; 0 for none (`max` means no limit)."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            return int(Path(path).read_text(encoding="ascii"))
    return 0


def _meminfo(key: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(_MEMINFO).read_text(encoding="ascii").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0


def total_memory_bytes() -> int:
    """Return the machine's memory, or its container's limit when that is lower; 0 when unknown."""
    total = _meminfo("MemTotal")
    if not total:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number_in(_GROUP_LIMITS)
    return min(total, limit) if limit and total else total or limit


def available_memory_bytes() -> int:
    """Return the memory that programs can still take without swapping, within a container's limit; 0 when unknown."""
    free = _meminfo("MemAvailable")
    if not free and platform.system() == "Darwin":
        free = total_memory_bytes() // 2  # macOS compresses and evicts; half is a careful guess
    limit, used = _number_in(_GROUP_LIMITS), _number_in(_GROUP_USES)
    return min(free, max(0, limit - used + _file_cache_bytes())) if limit and used and free else free


def _file_cache_bytes() -> int:
    """Return what a container's use counts though it is given back on demand: file pages, such as a model's."""
    for path in _GROUP_STATS:
        with contextlib.suppress(OSError, ValueError):
            stats = dict(line.split() for line in Path(path).read_text(encoding="ascii").splitlines())
            return int(stats.get("active_file", 0)) + int(stats.get("inactive_file", 0))
    return 0


def logical_cores() -> int:
    """Return the hardware threads this process may use, within a container's share."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path(_GROUP_CORES).read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def physical_cores() -> int:
    """Return the cores this process may use, counting two hardware threads of one core once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for core in allowed:
        with contextlib.suppress(OSError):
            siblings.add(
                Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text(encoding="ascii")
            )
    if not siblings and platform.system() == "Darwin":
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            # Efficiency cores slow a token down: count the fast ones, where the chip has two kinds.
            return int(
                subprocess.run(
                    ["sysctl", "-n", "hw.perflevel0.physicalcpu"], capture_output=True, text=True, timeout=5, check=True
                ).stdout
            )
    return max(1, min(len(siblings) or len(allowed), logical_cores()))


def processor_features() -> frozenset[str]:
    """Return what the processor can do, in the system's words, such as `avx2`; empty when unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def processor_name() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def graphics_cards() -> list[GraphicsCard]:
    """Return the graphics cards that can compute, as the system or the vendor's tool names them."""
    cards = _nvidia_cards()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        cards.append(GraphicsCard("Apple GPU", "apple", total_memory_bytes()))
    for device in sorted(Path("/sys/class/drm").glob("card[0-9]*/device")):
        with contextlib.suppress(OSError, ValueError):
            if (device / "vendor").read_text(encoding="ascii").strip() == "0x1002":
                memory = int((device / "mem_info_vram_total").read_text(encoding="ascii"))
                cards.append(GraphicsCard("AMD GPU", "amd", memory))
    return cards


def _nvidia_cards() -> list[GraphicsCard]:
    if not (tool := shutil.which("nvidia-smi")):
        # The driver without its tool: as in some containers.
        found = sorted(Path("/proc/driver/nvidia/gpus").glob("*")) if Path("/proc/driver/nvidia/gpus").is_dir() else []
        return [GraphicsCard("NVIDIA GPU", "nvidia") for _ in found]
    try:
        listed = subprocess.run(
            [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    cards = []
    for line in listed.stdout.splitlines():
        name, comma, memory = line.rpartition(",")
        if not comma:
            continue
        cards.append(GraphicsCard(name.strip(), "nvidia", int(memory) * 2**20 if memory.strip().isdigit() else 0))
    return cards


def nvidia_without_driver() -> bool:
    """Return whether the machine holds an NVIDIA graphics card that no NVIDIA driver serves (Linux only)."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return False
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            is_nvidia = (device / "vendor").read_text(encoding="ascii").strip() == "0x10de"
            if is_nvidia and (device / "class").read_text(encoding="ascii").startswith("0x03"):
                return True
    return False


def free_disk_bytes(folder: Path) -> int:
    """Return the free space where a folder is or would be made; 0 when unknown."""
    return _known_free_bytes(folder) or 0


def _known_free_bytes(folder: Path) -> int | None:
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    with contextlib.suppress(OSError):
        return shutil.disk_usage(there or "/").free
    return None


def check_disk_space(
    folder: Path, needed_bytes: int, what: str, hint: str = "Free some space, or write elsewhere with -o."
) -> None:
    """Refuse what does not fit on a disk, before anything is written; a disk that tells nothing is taken as large.

    Args:
        folder: Where it will be written; need not exist.
        needed_bytes: What it takes, all files that go there together.
        what: What will be written, as the message names it: `model.gguf`.
        hint: What the user can do about it.

    Raises:
        NotEnough: it does not fit.
    """
    free = _known_free_bytes(folder)
    if free is not None and needed_bytes > free:
        raise NotEnough(
            f"{what}: {size_text(needed_bytes)} will be written, and {folder.absolute()} has {size_text(free)} free",
            hint,
            needed_bytes=needed_bytes,
            available_bytes=free,
        )


def install_command(packages: dict[str, str]) -> str:
    """Return the command that installs something on this system.

    Args:
        packages: Package manager (`apt`, `dnf`, `pacman`, `zypper`, `brew`) to the package's name there.

    Returns:
        The command for the first manager this system has, or for `apt` as an example.
    """
    for manager, command in _INSTALL.items():
        if manager in packages and shutil.which(manager):
            return f"{command} {packages[manager]}"
    return f"{_INSTALL['apt']} {packages['apt']}"


_INSTALL = {
    "apt": "sudo apt install",
    "dnf": "sudo dnf install",
    "pacman": "sudo pacman -S",
    "zypper": "sudo zypper install",
    "brew": "brew install",
}


def cuda_compiler() -> str | None:
    """Return the path of nvcc, also where the toolkit is installed but not on the PATH."""
    if found := shutil.which("nvcc"):
        return found
    usual = Path("/usr/local/cuda/bin/nvcc")
    return str(usual) if usual.is_file() else None


def cxx_compiler() -> str | None:
    """Return the path of a C++ compiler."""
    return next(
        (
            found
            for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++")
            if name and (found := shutil.which(name))
        ),
        None,
    )
