"""The merged folder: whole or not there, in shards, with what stands beside the weights."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from merging import KINDS, assert_same_weights, merge_to
from program import PROGRAM
from tiny_adapters import (
    load,
    merged_by_peft,
    save_adapter,
)

from localknobs.convert.adapter import LoraChoice
from localknobs.convert.merge import MergeConfig, merge, plan_merge
from localknobs.jobs import Noted, Wrote

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("events", [1, 2, 5, 12])
def test_stopped_at_any_moment_nothing_is_left(llama, tmp_path, events):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["all layers"])
    before = sorted(tmp_path.iterdir())
    job = merge(plan_merge(MergeConfig(llama, (LoraChoice(adapter),), tmp_path / "merged")))
    for _ in range(events):
        next(job)
    assert sorted(tmp_path.iterdir()) != before
    job.close()
    assert sorted(tmp_path.iterdir()) == before


FULL_DISK = """
import resource, sys
from localknobs.cli.main import run
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(run(sys.argv[1:]))
"""


def test_a_full_disk_leaves_nothing_and_a_clear_line(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    before = sorted(tmp_path.iterdir())
    words = ["merge", llama, "--lora", adapter, "-o", tmp_path / "merged"]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *words], capture_output=True, text=True)
    assert done.returncode == 3
    assert f"The disk is full: {tmp_path / 'merged'} could not be written" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from localknobs.convert.adapter import LoraChoice
from localknobs.convert.merge import MergeConfig, merge, plan_merge
base, adapter, output = map(Path, sys.argv[1:])
job = merge(plan_merge(MergeConfig(base, (LoraChoice(adapter),), output)))
for _ in range(6):
    next(job)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_leaves_no_model_and_the_next_start_cleans_up(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    subprocess.run([sys.executable, "-c", KILLED, llama, adapter, tmp_path / "merged"])
    assert not (tmp_path / "merged").exists()
    assert list(tmp_path.glob(".merged.*.partial"))
    merge_to(llama, [(adapter, 1.0)], tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


def test_large_models_are_written_in_shards(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["all layers"])
    folder = merge_to(llama, [(adapter, 1.0)], tmp_path / "merged", shard_bytes=60_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    assert {path.name for path in shards} == set(index["weight_map"].values())
    expected = merged_by_peft(llama, [(adapter, 1.0)])
    assert index["metadata"]["total_size"] == sum(4 * value.numel() for value in expected.values())
    assert_same_weights(folder, expected)
    for name, value in load(folder).state_dict().items():
        assert torch.equal(value, expected[name])


def test_the_vocabulary_comes_along_and_a_record(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    (llama / "generation_config.json").write_text('{"temperature": 0.5}')
    folder = merge_to(llama, [(adapter, 0.5)], tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (llama / name).read_bytes()
    record = json.loads((folder / "merge.json").read_text())
    assert record["base"] == "llama"
    assert record["adapters"][0]["scale"] == 0.5
    assert str(tmp_path) not in (folder / "merge.json").read_text()


def test_an_adapters_own_vocabulary_goes_first_and_a_chat_template_is_not_lost(llama, tmp_path):
    base = shutil.copytree(llama, tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ messages }}"}))
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS["lora"])
    shutil.copy(llama / "tokenizer.json", adapter)
    (adapter / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<pad>"}))
    folder = merge_to(base, [(adapter, 1.0)], tmp_path / "merged")
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["eos_token"] == "<pad>"
    assert written["chat_template"] == "{{ messages }}"


def test_events_end_with_the_folder(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    events = list(merge(plan_merge(MergeConfig(llama, (LoraChoice(adapter),), tmp_path / "merged"))))
    assert events[-1] == Wrote(tmp_path / "merged")
    assert not [event for event in events if isinstance(event, Noted)]


def test_the_verb(llama, tmp_path):
    adapter = save_adapter(llama, tmp_path / "adapter", **KINDS["lora"])
    words = [
        PROGRAM,
        "merge",
        llama,
        "--lora",
        f"{adapter}:0.5",
        "--outtype",
        "bf16",
        "-o",
        tmp_path / "merged",
        "--json",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "merged")
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr == f"localknobs: {tmp_path / 'merged'} exists already. Name another folder with -o.\n"
