"""A file with other keys and the same tensors: whole or not there, proven, and cloned where the disk can."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from random_model import write_random_model

from localknobs.convert import set_keys
from localknobs.convert.gguf_header import PADDING_KEY, text_key
from localknobs.convert.set_keys import BLOCK, write_with_keys
from localknobs.errors import BadValue, LocalknobsError, NotEnough
from localknobs.gguf_info import read_header
from localknobs.jobs import drain


@pytest.fixture
def source(tmp_path):
    return write_random_model(tmp_path / "source.gguf", layers=1)


def context(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "localknobs", "context", *arguments], capture_output=True, text=True)


def test_only_the_keys_differ_and_the_data_stays_where_blocks_can_be_shared(source, tmp_path):
    header, output = read_header(source), tmp_path / "new" / "out.gguf"
    done = drain(write_with_keys(header, [text_key("general.name", "other")], ["llama.rope.dimension_count"], output))
    again = read_header(done.path)
    expected = {**header.metadata, "general.name": "other", PADDING_KEY: again.metadata[PADDING_KEY]}
    del expected["llama.rope.dimension_count"]
    assert again.metadata == expected and again.tensors == header.tensors
    assert again.data_start % BLOCK == header.data_start % BLOCK
    assert done.path.read_bytes()[again.data_start :] == source.read_bytes()[header.data_start :]


def test_writing_twice_does_not_pile_up_padding(source, tmp_path):
    first = drain(write_with_keys(read_header(source), [text_key("a.b", "c")], [], tmp_path / "1.gguf")).path
    second = drain(write_with_keys(read_header(first), [text_key("a.b", "dd")], [], tmp_path / "2.gguf")).path
    assert first.stat().st_size == second.stat().st_size and read_header(second).metadata["a.b"] == "dd"


@pytest.mark.parametrize("after", [1, 2])
def test_stopping_leaves_nothing(source, tmp_path, after):
    output = tmp_path / "out.gguf"
    job = write_with_keys(read_header(source), [], [], output)
    for _ in range(after):
        next(job)
    job.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.gguf"]


def test_a_file_that_does_not_read_back_as_written_is_not_kept(source, tmp_path, monkeypatch):
    header_with_keys = set_keys.header_with_keys
    monkeypatch.setattr(
        set_keys, "header_with_keys", lambda *arguments: header_with_keys(*arguments).replace(b"random", b"tandom", 1)
    )
    written = text_key("general.name", "random")
    with pytest.raises(LocalknobsError, match="not those that were written"):
        drain(write_with_keys(read_header(source), [written], [], tmp_path / "out.gguf"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.gguf"]


def test_a_full_disk_is_told_before_anything_stays(source, tmp_path, monkeypatch):
    def full(*_arguments):
        raise NotEnough("no room", "Free some.")

    monkeypatch.setattr(set_keys, "check_disk_space", full)
    monkeypatch.setattr(set_keys, "_clone", lambda *_arguments: False)
    with pytest.raises(NotEnough):
        drain(write_with_keys(read_header(source), [], [], tmp_path / "out.gguf"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.gguf"]


def test_neither_the_source_nor_another_file_is_overwritten(source, tmp_path):
    header = read_header(source)
    (tmp_path / "other.gguf").write_bytes(b"precious")
    for output in (source, tmp_path / "other.gguf"):
        with pytest.raises(BadValue):
            drain(write_with_keys(header, [], [], output))
    assert (tmp_path / "other.gguf").read_bytes() == b"precious"


def test_the_verb_writes_a_file_that_reaches_further_by_itself(source, tmp_path):
    output = tmp_path / "long.gguf"
    done = context(str(source), "--rope-scaling", "yarn", "--factor", "4", "-o", str(output))
    assert done.returncode == 0, done.stderr
    metadata = read_header(output).metadata
    assert metadata["llama.context_length"] == 2048 and metadata["llama.rope.scaling.type"] == "yarn"
    assert metadata["llama.rope.scaling.factor"] == 4 and metadata["llama.rope.scaling.original_context_length"] == 512
    shown = json.loads(context(str(output), "--json").stdout)
    assert shown["context"] == 2048 and shown["before"]["factor"] == 4
    again = context(str(source), "--factor", "4", "-o", str(output))
    assert again.returncode == 2 and "exists already" in again.stderr


def test_the_verb_proposes_and_shows_every_rotation_without_writing(source, tmp_path):
    done = context(str(source), "--target-ctx", "1024")
    assert done.returncode == 0, done.stderr
    assert "--rope-scaling yarn --rope-scale 2" in done.stdout and "hort prompts" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-8:]] == [str(pair) for pair in range(8)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.gguf"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "x.gguf"], "would stay as it is"),
        (["--target-ctx", "0"], "no length"),
        (["--target-ctx", "1024", "--factor", "2"], "--rope-scale"),
        (["--rope-scaling", "none", "--factor", "2"], "ignores every factor"),
        (["--factor", "2", "--yarn-attn-factor", "1.5", "-o", "x.gguf"], "does not read it from a file"),
        (["--rope-scaling", "dynamic"], "one of"),
        (["-ctk", "q4_K"], "one of"),
    ],
    ids=str,
)
def test_rubbish_is_one_line_with_what_to_do(source, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = context(str(source), *arguments)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.gguf"]
