"""Large files get their name before the disk has their bytes; what a machine that stops leaves is seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import small_gguf

from localknobs import storing
from localknobs.errors import BadFile
from localknobs.gguf_info import read_header
from localknobs.jobs import partial_file, remove_leftovers
from localknobs.storing import name_and_store, record_of, was_cut_off

pytestmark = pytest.mark.skipif(not storing.present_run(), reason="this system does not number its runs")
OTHER_RUN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def always_large(monkeypatch):
    monkeypatch.setattr(storing, "WAITED_BYTES", -1)


@pytest.fixture
def children(monkeypatch):
    """The processes that are left behind."""
    begun = []

    class Kept(subprocess.Popen):
        def __init__(self, *words, **named):
            super().__init__(*words, **named)
            begun.append(self)

    monkeypatch.setattr(storing.subprocess, "Popen", Kept)
    return begun


def write_with_a_hole(file: Path) -> None:
    with file.open("wb") as handle:
        handle.write(b"x" * 4096)
        handle.truncate(1 << 20)


def test_a_large_file_has_its_name_at_once_and_its_record_until_it_is_stored(tmp_path, always_large, children):
    target = tmp_path / "out file"
    with partial_file(target) as beside:
        beside.write_bytes(b"new" * 100_000)
    assert target.read_bytes() == b"new" * 100_000
    (child,) = children
    assert child.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == [target], "the record goes when the file is stored"


def test_the_record_is_there_before_the_name(tmp_path, always_large, monkeypatch):
    target, seen = tmp_path / "out", []
    replace = os.replace

    def looked_at(source, name):
        seen.append(record_of(target).read_text())
        replace(source, name)

    monkeypatch.setattr(storing.os, "replace", looked_at)
    with partial_file(target) as beside:
        beside.write_bytes(b"new")
    assert seen == [storing.present_run()]


@pytest.mark.parametrize("why", ["small", "there already", "no number"])
def test_others_are_waited_for(tmp_path, monkeypatch, children, why):
    target = tmp_path / "out"
    if why != "small":
        monkeypatch.setattr(storing, "WAITED_BYTES", -1)
    if why == "there already":
        target.write_bytes(b"old")
    if why == "no number":
        monkeypatch.setattr(storing, "_RUN_FILE", tmp_path / "nothing")
    with partial_file(target) as beside:
        beside.write_bytes(b"new")
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target] and not children


def test_a_name_that_cannot_be_given_leaves_no_record(tmp_path, always_large):
    beside = tmp_path / "beside"
    beside.write_bytes(b"new")
    with pytest.raises(OSError):
        name_and_store(beside, tmp_path / "missing" / "out")
    (tmp_path / "folder").mkdir()
    assert sorted(tmp_path.iterdir()) == [beside, tmp_path / "folder"]


def test_where_no_process_can_be_left_behind_the_file_is_waited_for(tmp_path, always_large, monkeypatch):
    def refuse(*_words, **_named):
        raise BlockingIOError

    monkeypatch.setattr(storing.subprocess, "Popen", refuse)
    with partial_file(tmp_path / "out") as beside:
        beside.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_file_with_holes_of_an_earlier_run_is_refused_and_removed(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(small_gguf())
    with file.open("rb+") as handle:
        handle.truncate(file.stat().st_size + (1 << 20))  # an end that was never written
    record_of(file).write_text(OTHER_RUN)
    with pytest.raises(BadFile, match=r"parts of it are lost\. Make it again: localknobs redo"):
        read_header(file)
    assert remove_leftovers(tmp_path) == sorted([file, record_of(file)])
    assert list(tmp_path.iterdir()) == []


def test_one_of_this_run_is_believed(tmp_path):
    file = tmp_path / "out"
    write_with_a_hole(file)
    record_of(file).write_text(storing.present_run())
    assert not was_cut_off(file) and remove_leftovers(tmp_path) == [] and record_of(file).exists()


def test_a_complete_file_of_an_earlier_run_loses_only_its_record(tmp_path):
    file = tmp_path / "out"
    file.write_bytes(b"x" * 100_000)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    record_of(file).write_text(OTHER_RUN)
    assert not was_cut_off(file) and list(tmp_path.iterdir()) == [file]


def test_a_record_without_its_file_goes(tmp_path):
    record_of(tmp_path / "out").write_text(storing.present_run())
    assert not was_cut_off(tmp_path / "out") and list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_to_store_is_remembered(tmp_path):
    """A pipe cannot be stored, as a disk with a fault cannot."""
    file = tmp_path / "out"
    file.write_bytes(b"x")
    read_end, write_end = os.pipe()
    record = record_of(file)
    words = (sys.executable, "-I", "-S", "-c", storing._STORE, str(write_end), str(record))
    subprocess.run(words, pass_fds=(write_end,), check=True)
    os.close(read_end), os.close(write_end)
    assert was_cut_off(file)
    assert remove_leftovers(tmp_path) == sorted([file, record])
