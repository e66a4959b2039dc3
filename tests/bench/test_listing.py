"""How soon 200 models of real size are listed: the first time, and again. Prints; asserts nothing about time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

import pytest
from real_size_files import write_real_size

from localknobs.library import installed_models
from localknobs.paths import cache_folder, models_folder

pytestmark = pytest.mark.bench
FILES, ROUNDS = 200, 5
COMMAND = str(Path(sys.executable).with_name("localknobs"))


def seconds(act) -> tuple[float, float]:
    """Return the seconds something took, and those this process worked: on a busy machine they are not the same."""
    began, worked = perf_counter(), process_time()
    act()
    return perf_counter() - began, process_time() - worked


def test_200_models_with_vocabularies_of_150_000(capsys):
    models_folder().mkdir(parents=True)
    first = write_real_size(models_folder() / "model-000.gguf", "Model 0")
    for number in range(1, FILES):  # written one by one: a copy of one file would be folded, or shared by the disk
        write_real_size(models_folder() / f"model-{number:03}.gguf", f"Model {number}")
    cache = cache_folder() / "headers.json"
    cold, warm, whole = [], [], []
    for _ in range(ROUNDS):
        cache.unlink(missing_ok=True)
        cold.append(seconds(installed_models))
        warm.append(seconds(installed_models))
        whole.append(seconds(lambda: subprocess.run([COMMAND, "ls"], stdout=subprocess.DEVNULL, check=True)))
    rows = installed_models()
    assert len(rows) == 1 + FILES and all(row.usable and row.quant == "Q4_K_M" for row in rows[1:])
    assert rows[1].parameters == rows[-1].parameters == 8_208_388_096
    with capsys.disabled():
        size, header = first.stat().st_size / 2**30, first.stat().st_blocks / 2048
        print(f"\n{FILES} files of {size:.1f} GiB with headers of {header:.1f} MiB, fastest of {ROUNDS} rounds")
        for name, times in (("cold", cold), ("warm", warm), ("`localknobs ls`, warm", whole)):
            took, worked = min(times)
            print(
                f"{name}: {1000 * took:.0f} ms" + (f", of it {1000 * worked:.0f} ms work" if times is not whole else "")
            )
