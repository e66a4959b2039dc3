"""Writing tensors from all cores: the bytes of one thread, the first wrong weight, and an end without stray threads."""

from __future__ import annotations

import errno
import os
import sys
import threading

import numpy as np
import pytest
from conversions import change_tensors, convert_to, copy_of

from localknobs.convert import parallel_writer, tensors
from localknobs.convert.checkpoint import open_checkpoint
from localknobs.convert.plan import plan_conversion
from localknobs.convert.to_gguf import ConvertConfig, convert
from localknobs.errors import BadFile, NotEnough
from localknobs.jobs import Started, drain


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch):
    """Cut tensors of a few KiB as large ones are."""
    monkeypatch.setattr(parallel_writer, "STRETCH_BYTES", 4096)
    monkeypatch.setattr(tensors, "SLAB_BYTES", 1024)
    monkeypatch.setattr(parallel_writer, "logical_cores", lambda: 4)


@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("case", ["llama", "mixtral", "gpt_oss", "gemma2"])
def test_the_bytes_are_those_of_one_tensor_after_the_other(case, outtype, checkpoint, tmp_path):
    file = convert_to(tmp_path / "model.gguf", checkpoint(case), outtype=outtype)
    source = open_checkpoint(checkpoint(case))
    plan = plan_conversion(source, outtype, check_tokens=False)
    expected = bytearray(plan.header)
    for tensor in plan.tensors:
        expected += b"".join(chunk.tobytes() for chunk in tensor.chunks())
        expected += b"\0" * (-len(expected) % 32)
    source.close()
    assert file.read_bytes() == bytes(expected)
    assert len([*parallel_writer._stretches(plan.tensors, 0)]) > len(plan.tensors)


def test_of_several_wrong_weights_the_first_in_the_file_is_named(checkpoint, tmp_path):
    folder = copy_of(checkpoint("llama"), tmp_path / "model")

    def spoil(weights):
        for name in weights:
            if "mlp" in name:
                weights[name][-1, -1] = np.inf
        return weights

    change_tensors(folder, spoil)
    for _ in range(5):
        with pytest.raises(BadFile, match=r"model\.layers\.0\.mlp\.\w+_proj\.weight") as raised:
            convert_to(tmp_path / "model.gguf", folder)
        assert "down_proj" in str(raised.value)  # llama.cpp's converter takes names as they stand in the file
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_fills_up_amid_the_writing_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    written, pwrite = [], os.pwrite

    def fills_up(descriptor, data, at):
        written.append(at)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data[: max(1, len(data) // 2)], at)  # and in halves before, as systems may

    folder = checkpoint("llama")
    monkeypatch.setattr(os, "pwrite", fills_up)
    with pytest.raises(NotEnough, match="The disk is full"):
        convert_to(tmp_path / "model.gguf", folder)
    assert [*tmp_path.iterdir()] == []


def test_closed_amid_the_writing_no_thread_goes_on(checkpoint, tmp_path):
    job = convert(ConvertConfig(checkpoint("llama"), tmp_path / "model.gguf", "f32", check_tokens=False))
    assert isinstance(next(job), Started)
    next(job)
    next(job)
    job.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("convert")]
    assert [*tmp_path.iterdir()] == []


def test_a_proof_that_fails_after_bytes_were_written_is_the_same_error(checkpoint, tmp_path, monkeypatch):
    from localknobs.convert import to_gguf

    def refuses(plan, processes):
        raise BadFile("llama.cpp would read text differently", "Try another.")

    monkeypatch.setattr(to_gguf, "proved", refuses)
    with pytest.raises(BadFile, match="would read text differently"):
        drain(convert(ConvertConfig(checkpoint("llama"), tmp_path / "model.gguf", "f32")))
    assert [*tmp_path.iterdir()] == []


def test_a_file_gets_its_size_and_its_place(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        parallel_writer.reserve(file.fileno(), 3 << 20)
    found = os.stat(tmp_path / "file")
    assert found.st_size == 3 << 20
    if sys.platform == "linux":
        assert found.st_blocks * 512 >= 3 << 20


def test_a_disk_without_room_for_all_of_it_is_said_before_a_byte_is_written(checkpoint, tmp_path, monkeypatch):
    folder = checkpoint("llama")
    monkeypatch.setattr(parallel_writer, "_fallocate", lambda descriptor, size: errno.ENOSPC)
    monkeypatch.setattr(os, "pwrite", lambda *words: pytest.fail("written"))
    with pytest.raises(NotEnough, match="The disk is full"):
        convert_to(tmp_path / "model.gguf", folder)
    assert [*tmp_path.iterdir()] == []


def test_a_file_system_that_gives_no_place_ahead_is_written_all_the_same(checkpoint, tmp_path, monkeypatch):
    expected = convert_to(tmp_path / "expected.gguf", checkpoint("llama")).read_bytes()
    monkeypatch.setattr(parallel_writer, "_fallocate", lambda descriptor, size: errno.EOPNOTSUPP)
    assert convert_to(tmp_path / "model.gguf", checkpoint("llama")).read_bytes() == expected
