"""A download whose process is killed at random: it ends with the right file, and fetches little twice."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from loopback_hub import Behaviour, LoopbackHub, Repo
from program import PROGRAM

MB = 10**6


def pull(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [PROGRAM, "pull", "maker/killed", "-y"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip


def killed_at(hub: LoopbackHub, sent: int) -> None:
    """Run the program until the hub has sent so many bytes, and kill it then and there."""
    process = pull()
    try:
        while hub.sent_bytes < sent and process.poll() is None:
            time.sleep(0.001)
        assert process.poll() is None, f"it ended before it was killed: {process.stderr.read().decode()}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def finish() -> Path:
    process = pull()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return Path(out.decode().strip())


def kill_often(hub: LoopbackHub, size: int, kills: int, seed: int) -> None:
    """Kill the program at random points of the whole way."""
    chance = random.Random(seed)
    for point in sorted(chance.uniform(0.02, 0.97) for _ in range(kills)):
        killed_at(hub, max(hub.sent_bytes, int(size * point)))


def test_a_download_killed_six_times_ends_right_and_fetches_little_twice(hub, cache):
    data = random.Random(3).randbytes(40 * MB)
    hub.repos["maker/killed"] = Repo({"killed.gguf": data})
    hub.store = Behaviour(bytes_per_s=20 * MB)
    kill_often(hub, len(data), 6, seed=5)
    path = finish()
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    print(f"fetched {hub.sent_bytes:,} of {len(data):,}: {hub.sent_bytes / len(data) - 1:.2%} more")
    assert hub.sent_bytes <= 1.10 * len(data), "a chunk a connection each time, of a file of 600 chunks"
    assert not list(cache.rglob("*.incomplete"))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [60 * MB, 0], ids=["at 60 MB/s a connection", "as fast as it goes"])
def test_two_gigabytes_killed_twenty_times_cost_two_percent_at_most(hub, cache, tmp_path, rate):
    size = 2 * 10**9
    block = random.Random(9).randbytes(50 * MB)
    source = tmp_path / "source"
    with source.open("wb") as file:
        for at in range(size // len(block)):
            file.write(at.to_bytes(8, "little") + block[8:])
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = memoryview(mapped)
        try:
            _kill_and_finish(hub, data, rate)
        finally:
            hub.repos.clear()
            data.release()


def _kill_and_finish(hub: LoopbackHub, data: memoryview, rate: float) -> None:
    hub.repos["maker/killed"] = Repo({"killed.gguf": data})
    wanted = hub.repos["maker/killed"].etag("killed.gguf")
    hub.store = Behaviour(bytes_per_s=rate)
    kill_often(hub, len(data), 20, seed=11)
    path = finish()
    with path.open("rb") as fetched:
        assert hashlib.file_digest(fetched, "sha256").hexdigest() == wanted
    print(f"fetched {hub.sent_bytes:,} of {len(data):,}: {hub.sent_bytes / len(data) - 1:.2%} more")
    assert hub.sent_bytes <= 1.02 * len(data)
