"""Two processes that train together, started as the launchers start them, come to the losses of one."""

import json
import os
import socket
import subprocess
import sys

import pytest
from tiny_training import KNOBS, make_base, tiny_config, write_examples

from localknobs.errors import BadValue
from localknobs.jobs import drain
from localknobs.tune.finetune import CARD, finetune
from localknobs.tune.plan import plan_finetune
from localknobs.tune.ranks import Ranks, count, rank

KNOBS_HERE = {"lora_dropout": 0.0, "epochs": 2.0}


def test_a_process_alone_needs_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    ranks = Ranks()
    ranks.join()
    assert (rank(), count()) == (0, 1) and ranks.added(2.5) == 2.5 and ranks.any(True) and not ranks.any(False)
    assert ranks.share([1, 2, 3]) == [1, 2, 3]


def test_every_piece_is_computed_by_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        shares.append(Ranks().share(list(range(7))))
    assert sorted(piece for share in shares for piece in share) == list(range(7))
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(BadValue, match="RANK=one"):
        rank()


@pytest.mark.slow
def test_two_processes_come_to_the_losses_of_one(tmp_path):
    base = make_base(tmp_path / "base")
    alone = drain(finetune(plan_finetune(tiny_config(base, tmp_path, knobs=KNOBS_HERE))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable, "-m", "localknobs", "finetune", str(base), str(write_examples(tmp_path / "data.jsonl")),
        "-o", str(tmp_path / "together"), "--threads", "1", "--answers", "2", "--no-proof", "--general",
        str(tmp_path / "data.jsonl"), "-r", str(KNOBS["lora_r"]), "--lr", str(KNOBS["learning_rate"]), "-b", "4",
        "--seq-length", "64", "--epochs", "2",
    ]  # fmt: skip
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(words, env={**os.environ, **shared, "RANK": number, "LOCAL_RANK": number}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "adapter" in said[0][0] and not said[1][0], "only the first tells"
    card = json.loads((tmp_path / "together" / CARD).read_text())
    assert card["losses"] == pytest.approx(alone.losses, abs=1e-3)
