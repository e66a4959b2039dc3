"""The curves of a training are whole after a stop, a crash or a torn line, and are read while they grow."""

from __future__ import annotations

import json

import pytest

from localknobs.cli.curves_bar import curve_lines, sparkline
from localknobs.errors import LocalknobsError
from localknobs.tune.curves import CurveLog, CurveReader, Curves, curves_file, read_curves, thinned
from localknobs.tune.picture import draw_curves, picture_of


def told(first: int, last: int):
    """Messages of steps as the training process sends them, with a look at every tenth."""
    for step in range(first, last + 1):
        yield {"step": step, "loss": 3.0 / step, "rate": 0.001, "tokens": 100, "took": 0.5}
        if step % 10 == 0:
            yield {"look": {"held_out": 4.0 / step, "general": 2.0, "next_token": 0.5}, "at": step}
            yield {"samples": [["ask \udcff", f"answer {step}"]], "at": step}  # a prompt may be no UTF-8


def begun(log: CurveLog, step: int = 0) -> None:
    log.take({"begun": step, "steps": 40})
    if not step:
        log.take({"before": {"held_out": 3.0, "general": 2.0, "next_token": 0.1, "right": float("nan")}})


def test_a_run_that_goes_on_has_one_curve(tmp_path):
    file = curves_file(tmp_path / "adapter")
    log = CurveLog(file)
    begun(log)
    for message in told(1, 25):
        log.take(message)
    log._journal.close()  # killed: what it wrote past its last state, step 18, is computed again
    with file.open("ab") as torn:
        torn.write(b'{"step": 26, "lo')
    reader = CurveReader(file)
    assert reader.read() and reader.curves.step == 25
    log = CurveLog(file)
    begun(log, 18)
    for message in told(19, 40):
        log.take(message)
    log.take({"finished": {"step": 40, "best_step": 30}})
    for curves in (read_curves(file), reader.curves if reader.read() else None):
        assert [step for step, _ in curves.loss] == list(range(1, 41))
        assert [step for step, _ in curves.held_out] == [0, 10, 20, 30, 40]
        assert [sample.answer for sample in curves.samples] == ["answer 10", "answer 20", "answer 30", "answer 40"]
        assert (curves.steps, curves.kept, curves.tokens_per_s) == (40, 30, 200.0)
        assert curves.best == (40, 0.1)


def test_a_new_run_begins_a_new_file(tmp_path):
    file = curves_file(tmp_path / "adapter")
    for last in (5, 3):
        log = CurveLog(file)
        begun(log)
        for message in told(1, last):
            log.take(message)
        log.take({"finished": {"step": last, "best_step": 0}})
    assert [step for step, _ in read_curves(file).loss] == [1, 2, 3]
    assert "nan" not in file.read_text().lower()


def test_two_trainings_do_not_write_to_one_file(tmp_path):
    file = curves_file(tmp_path / "adapter")
    log = CurveLog(file)
    begun(log)
    with pytest.raises(LocalknobsError, match="open in another window"):
        begun(CurveLog(file))
    log.take({"step": 1, "loss": 1.0})
    assert read_curves(file).step == 1


def test_a_file_is_read_while_it_grows_and_half_lines_wait(tmp_path):
    file = tmp_path / "x.curves.jsonl"
    reader = CurveReader(file)
    assert not reader.read() and reader.curves == Curves()
    file.write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2, "l')
    assert reader.read() and reader.curves.step == 1
    assert not reader.read()
    with file.open("ab") as more:
        more.write(b'oss": 1.0}\nrubbish\n[1]\n{"step": "x"}\n')
    assert reader.read() and reader.curves.loss == [(1, 2.0), (2, 1.0)]


def test_the_picture_is_beside_the_adapter_and_where_it_was_asked_for(tmp_path):
    file = curves_file(tmp_path / "mine")
    draw_curves(file)
    assert list(tmp_path.iterdir()) == [], "nothing was trained"
    file.write_text("".join(json.dumps({"step": step, "loss": 3 / step, "rate": 0.1}) + "\n" for step in range(1, 90)))
    draw_curves(file, tmp_path / "also.png")
    assert "<svg" in (tmp_path / "mine.curves.svg").read_text()
    assert (tmp_path / "also.png").read_bytes().startswith(b"\x89PNG")
    draw_curves(file, tmp_path / "nowhere" / "x.png")  # a folder that is made


def test_a_picture_of_one_step_can_be_drawn():
    curves = Curves(steps=10)
    curves.add({"step": 1, "loss": 2.0, "rate": 0.1, "tokens": 10, "took": 0.1})
    assert picture_of(curves, "svg").startswith(b"<?xml")


def test_curves_fit_a_line_each(tmp_path):
    reader = CurveReader(tmp_path / "x.curves.jsonl")
    log = CurveLog(tmp_path / "x.curves.jsonl")
    begun(log)
    for message in told(1, 20):
        log.take(message)
    reader.read()
    lines = curve_lines(reader.curves, 79)
    assert [line.split("  ")[0] for line in lines] == ["loss", "held-out loss", "general loss", "learning rate"]
    assert all(len(line) <= 79 for line in lines)
    assert "200 tokens/s" in lines[0] and "lowest at step 20" in lines[1] and "+0.0%" in lines[2]


@pytest.mark.parametrize(
    ("points", "drawn"),
    [
        ([(1, 0.0), (2, 1.0), (3, 0.5), (4, 0.0)], "▁█▅▁"),
        ([(0, 1.0), (10, 0.0)], "███▁"),
        ([(5, 2.0)], "▁▁"),
        ([(0, 2.0)], "▁"),
    ],
)
def test_a_sparkline_goes_as_far_as_the_training(points, drawn):
    steps = {4: 4, 10: 10, 5: 10, 0: 10}[points[-1][0]]
    assert sparkline(points, 4, steps) == drawn


def test_many_points_become_few():
    points = [(step, float(step)) for step in range(1, 101)]
    assert thinned(points, 4) == [(25, 13.0), (50, 38.0), (75, 63.0), (100, 88.0)]
    assert thinned(points[:3], 4) == points[:3]
