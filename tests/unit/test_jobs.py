"""Jobs: draining, stopping, and files that are whole or not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localknobs.errors import BadValue, NotEnough
from localknobs.jobs import (
    Advanced,
    Measured,
    Noted,
    Rate,
    Started,
    Wrote,
    drain,
    event_as_mapping,
    event_from_mapping,
    partial_file,
    refuse_same_file,
    remove_leftovers,
    without_files,
)


def job(target: Path, pieces: int):
    yield Started("writing", pieces, "pieces")
    with partial_file(target) as beside, beside.open("wb") as file:
        for _ in range(pieces):
            file.write(b"x")
            yield Advanced(1)
    yield Wrote(target)
    return pieces


def test_a_drained_job_returns_its_result_and_leaves_its_file(tmp_path):
    events = []
    assert drain(job(tmp_path / "out", 3), events.append) == 3
    assert (tmp_path / "out").read_bytes() == b"xxx" and list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert [type(event) for event in events] == [Started, Advanced, Advanced, Advanced, Wrote]


@pytest.mark.parametrize("taken", range(5))
def test_a_job_closed_after_any_event_leaves_the_old_file_and_nothing_beside_it(tmp_path, taken):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    running = job(target, 3)
    for _ in range(taken):
        next(running)
    running.close()
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_part_of_a_larger_job_keeps_its_files_to_itself(tmp_path):
    events = []
    assert drain(without_files(job(tmp_path / "out", 3)), events.append) == 3
    assert [type(event) for event in events] == [Started, Advanced, Advanced, Advanced]
    inner = job(tmp_path / "other", 3)
    outer = without_files(inner)
    assert [next(outer), next(outer)] == [Started("writing", 3, "pieces"), Advanced(1)]
    outer.close()
    assert inner.gi_frame is None, "it is stopped with the larger one"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_whatever_interrupts_a_drained_job_also_stops_it(tmp_path):
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drain(job(tmp_path / "out", 3), interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "event", [Started("a", 2, "bytes"), Advanced(3), Noted("b", "warning"), Measured("loss", 0.5, 7), Wrote(Path("/x"))]
)
def test_events_survive_a_pipe(event):
    assert event_from_mapping(event_as_mapping(event)) == event


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    stale, alive = tmp_path / f".out.{dead.pid}.partial", tmp_path / f".out.{os.getppid()}.partial"
    other = tmp_path / ".out.partial"
    for file in (stale, alive, other):
        file.touch()
    assert remove_leftovers(tmp_path) == [stale]
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])


def test_a_full_disk_is_a_plain_error_and_leaves_nothing(tmp_path):
    with pytest.raises(NotEnough, match="disk is full"), partial_file(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_input_is_refused_as_output_under_any_name(tmp_path):
    source, link = tmp_path / "a", tmp_path / "b"
    source.touch()
    link.symlink_to(source)
    for target in (source, link):
        with pytest.raises(BadValue, match="input itself"):
            refuse_same_file(source, target)
    refuse_same_file(source, tmp_path / "c")


def test_a_rate_is_of_what_was_done_lately():
    rate = Rate(over_s=10)
    begin = rate._since
    for second in range(1, 31):
        rate.add(100, begin + second)
    assert rate.per_second(begin + 30) == pytest.approx(100, rel=0.15)
    for second in range(31, 61):
        rate.add(10, begin + second)
    assert rate.per_second(begin + 60) == pytest.approx(10, rel=0.15), "what was fast before is forgotten"
    assert rate.per_second(begin + 160) < 2, "nothing has come since"


def test_a_rate_of_few_large_steps_is_their_average():
    rate = Rate(over_s=10)
    begin = rate._since
    for step in range(1, 5):
        rate.add(1, begin + 60 * step)
    assert rate.per_second(begin + 240) == pytest.approx(1 / 60)
    rate.add(-5, begin + 241)
    assert rate.per_second(begin + 240) == pytest.approx(1 / 60), "what turned out not to be done is no speed"
