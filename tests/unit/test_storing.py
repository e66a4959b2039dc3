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
from localknobs.jobs import partial_file, passing_folder, remove_leftovers
from localknobs.storing import cut_off_files, name_and_store, record_of, was_cut_off

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


def write_record(file: Path, run: str) -> None:
    record_of(file).write_text(f"{run} {file.stat().st_ino if file.exists() else 0}")


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
    assert seen == [f"{storing.present_run()} {target.stat().st_ino}"]


def test_a_look_before_the_name_is_given_leaves_the_record(tmp_path, always_large, monkeypatch):
    target, replace = tmp_path / "out", os.replace

    def looked_at(source, name):
        assert not was_cut_off(target) and record_of(target).exists()
        replace(source, name)

    monkeypatch.setattr(storing.os, "replace", looked_at)
    with partial_file(target) as beside:
        beside.write_bytes(b"new")


@pytest.mark.parametrize("why", ["small", "there already", "no number", "in a passing folder"])
def test_others_are_waited_for(tmp_path, monkeypatch, children, why):
    target = tmp_path / "out"
    if why != "small":
        monkeypatch.setattr(storing, "WAITED_BYTES", -1)
    if why == "there already":
        target.write_bytes(b"old")
        write_record(target, "failed")
    if why == "in a passing folder":
        with passing_folder(target) as folder:
            with partial_file(folder / "out") as beside:
                beside.write_bytes(b"new")
            assert [file.name for file in folder.iterdir()] == ["out"] and not children
        return
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


def test_a_file_with_holes_of_an_earlier_run_is_refused_and_can_be_pruned(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(small_gguf())
    with file.open("rb+") as handle:
        handle.truncate(file.stat().st_size + (1 << 20))  # an end that was never written
    write_record(file, OTHER_RUN)
    with pytest.raises(BadFile, match=r"parts of it are lost\. Make it again: localknobs redo"):
        read_header(file)
    assert remove_leftovers(tmp_path) == [], "what has its final name is removed only by who asks for it"
    assert cut_off_files(tmp_path) == [file, record_of(file)]


def test_another_file_under_the_name_is_believed(tmp_path):
    file = tmp_path / "out"
    write_with_a_hole(file)
    write_record(file, OTHER_RUN)
    other = tmp_path / "other"
    write_with_a_hole(other)
    other.replace(file)
    assert not was_cut_off(file) and list(tmp_path.iterdir()) == [file]


def test_one_of_this_run_is_believed(tmp_path):
    file = tmp_path / "out"
    write_with_a_hole(file)
    write_record(file, storing.present_run())
    assert not was_cut_off(file) and cut_off_files(tmp_path) == [] and record_of(file).exists()


def test_a_complete_file_of_an_earlier_run_loses_only_its_record(tmp_path):
    file = tmp_path / "out"
    file.write_bytes(b"x" * 100_000)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    write_record(file, OTHER_RUN)
    assert not was_cut_off(file) and list(tmp_path.iterdir()) == [file]


def test_a_record_without_its_file_goes(tmp_path):
    write_record(tmp_path / "out", OTHER_RUN)
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
    assert record.read_text().startswith("failed ")
    write_record(file, "failed")  # as it is of a file
    assert was_cut_off(file) and cut_off_files(tmp_path) == [file, record]
