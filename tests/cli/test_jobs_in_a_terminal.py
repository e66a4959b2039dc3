"""The long jobs at the command line: the bar, Ctrl+C, words that are wrong, what is printed."""

import json

import pytest
from random_model import write_random_model

from localknobs.cli.progress import run_job
from localknobs.errors import Stopped
from localknobs.jobs import Advanced, Measured, Noted, Started
from localknobs.units import time_text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("model") / "model-F32.gguf", width=256, feed_forward=512)


def test_words_on_the_command_line(run, model, tmp_path):
    for arguments, code, words in (
        (("Q9",), 2, "There is no quantization Q9"),
        (("Q4_0", "--keep", "attn"), 2, "write PATTERN=TYPE"),
        (("Q4_0", "--tensor-type", "attn=Q9_K"), 2, "There is no tensor type Q9_K"),
        (("Q4_0", "Q8_0", "-o", tmp_path / "one.gguf"), 2, "Name a folder"),
        (("IQ2_XS", "-o", tmp_path / "one.gguf"), 3, "importance matrix"),
        (("Q4_0", "-t", "-1", "-o", tmp_path / "one.gguf"), 2, "threads"),
    ):
        done = run("quantize", model, *arguments)
        assert done.returncode == code and words in done.stderr and done.stdout == "", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_quantize_says_what_it_wrote_and_names_files_after_the_source(run, model, home):
    target = model.with_name("model-Q4_0.gguf")
    done = run("quantize", model, "q4_0", "-t", "1")
    assert done.returncode == 0 and done.stdout.startswith(f"{target}  ") and "bits per weight" in done.stdout
    assert "quantizing: " in done.stderr and f"localknobs chat {target}" in done.stderr
    run("quantize", "built-in", "q8_0", "-t", "1")
    assert (home / "data" / "models" / "built-in-Q8_0.gguf").is_file()
    assert "built-in-Q8_0" in run("ls").stdout


def test_imatrix_then_quantize_with_it(run, model, tmp_path):
    text, matrix = tmp_path / "text.txt", tmp_path / "imatrix.gguf"
    text.write_text("A text that is read. " * 20, encoding="utf-8")
    done = run("imatrix", model, "--text", text, "-o", matrix, "-c", "64", "-t", "1", "--json")
    found = json.loads(done.stdout)
    assert found["entries"] == 14 and found["chunks"] == 9 and found["datasets"] == ["text.txt"]
    done = run("quantize", model, "Q4_K_M", "--imatrix", matrix, "-o", tmp_path / "out.gguf", "-t", "1")
    assert done.returncode == 0, done.stderr
    shown = json.loads(run("show", tmp_path / "out.gguf", "--json").stdout)
    assert shown["quant"] == "Q4_K_M"


def test_ctrl_c_stops_a_job_and_leaves_nothing(terminal, tmp_path):
    source = write_random_model(tmp_path / "large.gguf", width=512, feed_forward=1536, layers=4, fillers=8000)
    types = ("IQ4_NL", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q5_1", "Q4_1")
    screen = terminal("quantize", source, *types, "-t", "1", columns=100)
    screen.wait_for("quantizing  [")
    screen.type("\x03")
    assert screen.ends() == 130 and "Stopped. Nothing was written." in screen.text
    assert list(tmp_path.iterdir()) == [source]


# ---- the bar itself ------------------------------------------------------------------------------


def scripted(events, ended):
    try:
        yield from events
        return "the result"
    finally:
        ended.append(True)


def test_events_become_lines_where_there_is_no_terminal(capsys):
    heard, ended = [], []
    events = [Started("working", 4, "tensors"), Advanced(1), Noted("careful"), Measured("loss", 0.5), Advanced(3)]
    assert run_job(scripted(events, ended), on_event=heard.append) == "the result"
    out, err = capsys.readouterr()
    assert out == "" and err == "working: 4 tensors\nnote: careful\n"
    assert heard == events and ended == [True]


def test_an_interrupt_closes_the_job_and_says_what_is_left():
    ended = []

    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(Stopped, match="The rest is kept"):
        run_job(scripted([Started("working", 0, "steps")], ended), stopped="The rest is kept.", on_event=interrupt)
    assert ended == [True]


def test_an_error_of_the_job_comes_through_as_it_is():
    def failing():
        yield Started("working", 0, "steps")
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        run_job(failing())


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (754, "12:34"), (3723, "1:02:03")])
def test_durations(seconds, text):
    assert time_text(seconds) == text
