"""Files and settings that cannot be loaded: one clear error each, and no worker left behind."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest
from gguf_files import TEXT, U32, gguf_bytes, gguf_key, small_gguf
from random_model import write_random_model

from localknobs.engine import LoadSettings, load
from localknobs.errors import BadFile, LocalknobsError, NotEnough, NotFound, Unsupported


@pytest.fixture(autouse=True)
def no_worker_stays():
    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    before = children() if Path("/proc/self").is_dir() else ""
    yield
    assert not before or children() == before


def attempt(path: Path, **settings) -> LocalknobsError:
    with pytest.raises(LocalknobsError) as caught:
        load(LoadSettings(**{"model": path, "threads": 1, **settings})).close()
    assert str(path.name) in str(caught.value) or isinstance(caught.value, NotEnough)
    assert caught.value.hint
    return caught.value


def test_no_such_file(tmp_path):
    assert isinstance(attempt(tmp_path / "none.gguf"), NotFound)


def test_a_folder(tmp_path):
    assert isinstance(attempt(tmp_path), (NotFound, BadFile))


@pytest.mark.parametrize("data", [b"", b"GGUF", b"not a model at all", b"<!doctype html><html>", b"\0" * 4096])
def test_not_a_gguf(tmp_path, data):
    path = tmp_path / "wrong.gguf"
    path.write_bytes(data)
    assert isinstance(attempt(path), BadFile)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9999])
def test_cut_short(built_in, tmp_path, share):
    path = tmp_path / "cut.gguf"
    data = built_in.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert isinstance(attempt(path), BadFile)


def test_an_adapter(tmp_path):
    path = tmp_path / "adapter.gguf"
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("general.type", TEXT, "adapter"),
        gguf_key("adapter.type", TEXT, "lora"),
    ]
    path.write_bytes(gguf_bytes(keys))
    error = attempt(path)
    assert isinstance(error, BadFile) and "adapter" in error.message


def test_a_rope_scaling_that_llama_cpp_would_abort_on(tmp_path):
    path = write_random_model(tmp_path / "rope.gguf", keys={"llama.rope.scaling.type": "dynamic"})
    error = attempt(path)
    assert isinstance(error, Unsupported) and "dynamic" in error.message and "yarn" in error.hint


def test_a_missing_shard(tmp_path):
    path = tmp_path / "model-00001-of-00002.gguf"
    keys = [gguf_key("general.architecture", TEXT, "llama"), gguf_key("split.count", U32, 2)]
    path.write_bytes(gguf_bytes(keys))
    error = attempt(path)
    assert isinstance(error, BadFile) and "model-00002-of-00002.gguf" in error.message


def test_an_unknown_architecture_is_named(tmp_path):
    path = tmp_path / "future.gguf"
    path.write_bytes(small_gguf().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lamma", 1))
    error = attempt(path)
    assert isinstance(error, BadFile) and "unknown model architecture: 'lamma'" in error.message


def test_a_model_with_missing_parts_is_refused_with_llama_cpps_reason(tmp_path):
    path = tmp_path / "parts.gguf"
    path.write_bytes(small_gguf())
    error = attempt(path)
    assert isinstance(error, BadFile) and len(error.message) > len(f"llama.cpp cannot load {path}: ")


def test_a_header_that_lies_about_the_shape(tmp_path):
    path = write_random_model(tmp_path / "shape.gguf")
    data = path.read_bytes()
    key = b"llama.embedding_length" + struct.pack("<I", U32)
    at = data.index(key) + len(key)
    path.write_bytes(data[:at] + struct.pack("<I", 96) + data[at + 4 :])
    assert isinstance(attempt(path), BadFile)


def test_a_context_larger_than_memory_names_both_sizes_and_a_smaller_one(built_in):
    error = attempt(built_in, n_ctx=16_777_216)
    assert isinstance(error, NotEnough)
    assert error.needed_bytes > error.available_bytes > 0
    assert "GiB" in error.message and "-c" in error.hint


def test_a_context_beyond_the_trained_one_loads_with_a_note(random_model, open_engine):
    engine = open_engine(random_model, n_ctx=4096)
    assert engine.info.context_size == 4096 and engine.info.context_trained == 2048
    assert any("2,048" in note for note in engine.info.notes)


def test_what_a_loaded_model_says_of_itself(random_model, open_engine):
    info = open_engine(random_model).info
    assert (info.architecture, info.name, info.vocabulary_size) == ("llama", "random", 261)
    assert info.parameters > 0 and info.size_bytes == 4 * info.parameters  # F32
    assert info.devices and all(info.devices)
    if "CUDA" not in info.system_info and sys.platform == "linux":  # else the names of real devices
        assert info.devices == ("CPU",)
    assert info.chat_template and "im_start" in info.chat_template and "CPU" in info.system_info


def test_progress_goes_from_nothing_to_all(built_in, open_engine):
    seen: list[float] = []
    load(LoadSettings(model=built_in, threads=1), seen.append).close()
    assert seen == sorted(seen) and seen[-1] == 1.0 and 0 <= seen[0] < 1
