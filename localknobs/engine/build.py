"""What the installed build of llama.cpp can do, asked in a child process: `python -m localknobs.engine.build`.

A child, because loading llama.cpp starts up its graphics drivers, prints, and on a broken build
ends the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from localknobs.errors import EngineDied, LocalknobsError

DeviceKind = Literal["cpu", "gpu", "integrated gpu", "accelerator", "other"]
_KINDS: tuple[DeviceKind, ...] = (
    "cpu",
    "gpu",
    "integrated gpu",
    "accelerator",
)  # ggml-backend.h, ggml_backend_dev_type
_NO_GPU_BACKENDS = ("CPU", "RPC", "BLAS", "zDNN")
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Device:
    """Something that llama.cpp can compute on.

    Args:
        name: ggml's name, such as `CPU` or `CUDA0`.
        description: The maker's name of it.
        kind: What it is.
        memory_bytes: Its memory, 0 when it does not say.
        free_bytes: Memory that is free now.
    """

    name: str
    description: str
    kind: DeviceKind
    memory_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Build:
    """What a build can do.

    Args:
        version: Of llama-cpp-python.
        backends: ggml's names of the backends that are compiled in, such as `CPU`, `CUDA`, `RPC`.
        devices: What they found on this machine.
        rpc: Whether other machines can lend their memory.
        mmap: Whether weights are read from disk as they are needed.
        system_info: llama.cpp's own line of processor features.
    """

    version: str
    backends: tuple[str, ...]
    devices: tuple[Device, ...]
    rpc: bool
    mmap: bool
    system_info: str

    @property
    def gpu_backends(self) -> tuple[str, ...]:
        """The backends that compute on a graphics card of this machine.

        llama.cpp's own `llama_supports_gpu_offload` is no answer: it says yes to every build with RPC.
        """
        return tuple(name for name in self.backends if name not in _NO_GPU_BACKENDS)

    def uses(self, feature: str) -> bool:
        """Whether a processor feature, such as `AVX2`, is compiled in."""
        return f"{feature} = 1" in self.system_info


def describe_build() -> Build:
    """Ask the installed build.

    Raises:
        EngineDied: loading llama.cpp ended the child; `log_tail` holds its last lines.
        LocalknobsError: it does not answer.
    """
    try:
        child = subprocess.run(
            (sys.executable, "-m", "localknobs.engine.build"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.TimeoutExpired:
        raise LocalknobsError(
            f"llama.cpp did not start within {_TIMEOUT_S:.0f} seconds",
            "A graphics driver may hang: restart the machine.",
        ) from None
    if child.returncode:
        log = tuple(child.stderr.decode("utf-8", "replace").splitlines()[-20:])
        raise EngineDied("llama.cpp cannot be loaded", "The last log lines tell more.", log_tail=log)
    found = json.loads(child.stdout)
    devices = tuple(Device(**device) for device in found.pop("devices"))
    return Build(**{**found, "backends": tuple(found["backends"]), "devices": devices})


def _ask() -> Build:
    """Load llama.cpp and look; only the child does this."""
    from importlib.metadata import version

    from localknobs.engine.binding import lib, libggml

    lib.llama_backend_init()
    return Build(
        version=version("llama-cpp-python"),
        backends=tuple(_backends(libggml)),
        devices=tuple(_devices(libggml)),
        rpc=bool(lib.llama_supports_rpc()),
        mmap=bool(lib.llama_supports_mmap()),
        system_info=lib.llama_print_system_info().decode("utf-8", "replace").strip(),
    )


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def _backends(library: Any) -> Iterator[str]:
    count = _function(library, "ggml_backend_reg_count", ctypes.c_size_t)
    get = _function(library, "ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function(library, "ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    for index in range(count()):
        yield name(get(index)).decode("utf-8", "replace")


def _devices(library: Any) -> Iterator[Device]:
    sizes = ctypes.POINTER(ctypes.c_size_t)
    count = _function(library, "ggml_backend_dev_count", ctypes.c_size_t)
    get = _function(library, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    name = _function(library, "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = _function(library, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _function(library, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    memory = _function(library, "ggml_backend_dev_memory", None, ctypes.c_void_p, sizes, sizes)
    for index in range(count()):
        device, free, total = get(index), ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, free, total)
        number = kind(device)
        yield Device(
            name(device).decode("utf-8", "replace"),
            description(device).decode("utf-8", "replace"),
            _KINDS[number] if 0 <= number < len(_KINDS) else "other",
            total.value,
            free.value,
        )


def main() -> None:
    """Write the answer as JSON; whatever the libraries print goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    with open(out, "w", encoding="utf-8") as answer:
        json.dump(asdict(_ask()), answer)


if __name__ == "__main__":
    main()
