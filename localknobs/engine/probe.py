"""Whether llama.cpp's extra CPU buffers (repacked weights, AMX) work on this machine: remembered from earlier loads.

On some virtual machines the AMX instructions are announced but fault, which kills the process at
the first batch of two tokens. The worker computes two tokens at load; when it dies there, the
parent loads again without the extra buffers and remembers that here, for this processor and this
build of llama.cpp.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from localknobs.paths import cache_folder, written_whole


def _machine() -> str:
    """Return a key that changes with the processor, its features and the build."""
    build = ""
    with contextlib.suppress(PackageNotFoundError):
        build = version("llama-cpp-python")
    features = platform.processor()
    with contextlib.suppress(OSError):
        features = "".join(
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()[:40]
            if line.startswith(("model name", "flags"))
        )
    return hashlib.sha256(f"{build} {platform.machine()} {features}".encode()).hexdigest()[:16]


def _file() -> Path:
    return cache_folder() / "extra_buffers.json"


def _broken() -> list[str]:
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return [str(key) for key in json.loads(_file().read_text(encoding="utf-8"))["broken"]]
    return []


def extra_buffers_work() -> bool:
    """Return False when they crashed here before with this build, else True: the load itself will tell."""
    return _machine() not in _broken()


def remember_broken() -> None:
    """Note that they crash on this machine with this build; a cache that cannot be written costs only time."""
    keys = sorted({*_broken(), _machine()})  # a home folder may serve several machines
    with contextlib.suppress(OSError), written_whole(_file()) as file:
        file.write_text(json.dumps({"broken": keys}), encoding="utf-8")
