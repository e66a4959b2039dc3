"""Quantizing that goes wrong: refusals before anything is written, and nothing half that is left behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from gguf_files import small_gguf
from program import PROGRAM
from random_model import write_random_model

from localknobs.convert.imatrix_file import Entry, Imatrix, write_imatrix
from localknobs.convert.quant_plan import TypeChoice
from localknobs.convert.quantize import QuantizeConfig, plan_quantize, quantize
from localknobs.errors import BadFile, BadValue, LocalknobsError, NotEnough, NotFound, Unsupported
from localknobs.gguf_info import read_header
from localknobs.jobs import drain


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("model") / "model.gguf", width=256, feed_forward=512)


def config(source, *outputs, **fields):
    return QuantizeConfig(source=source, outputs=outputs, threads=1, **fields)


# ---- refused -------------------------------------------------------------------------------------


def test_the_input_is_refused_as_output_under_any_name(model, tmp_path):
    before = model.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    for target in (model, link):
        with pytest.raises(BadValue, match="input itself"):
            plan_quantize(config(model, ("Q4_0", target)))
    assert model.read_bytes() == before


@pytest.mark.parametrize("file_type", ["IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M", "IQ3_XXS", "Q2_K_S"])
def test_types_that_need_importance_are_refused_without_it(model, tmp_path, file_type):
    with pytest.raises(Unsupported, match=rf"{file_type} needs an importance matrix.*localknobs imatrix"):
        plan_quantize(config(model, (file_type, tmp_path / "out.gguf")))


def test_a_type_that_would_end_the_process_without_importance_is_refused_for_the_output_too(model, tmp_path):
    choice = TypeChoice(output_type="IQ2_XS")
    with pytest.raises(Unsupported, match=r"output\.weight would become IQ2_XS"):
        plan_quantize(config(model, ("Q4_K_M", tmp_path / "out.gguf"), choice=choice))


def test_importance_of_another_model_or_of_too_few_tensors(model, tmp_path):
    file, target = tmp_path / "imatrix.gguf", ("IQ2_XS", tmp_path / "out.gguf")
    one = Entry(np.ones((1, 77)), np.array([5]))
    write_imatrix(Imatrix({"blk.0.attn_q.weight": one}, ("text",), 1, 512), file)
    with pytest.raises(BadFile, match=r"of another model: it has 77 columns for blk\.0\.attn_q\.weight, which has 256"):
        plan_quantize(config(model, target, imatrix=file))
    fits = Entry(np.ones((1, 256)), np.array([5]))
    write_imatrix(Imatrix({"blk.0.attn_q.weight": fits}, ("text",), 1, 512), file)
    with pytest.raises(Unsupported, match="needs importance for every tensor, and the matrix has none for blk"):
        plan_quantize(config(model, target, imatrix=file))
    plan = plan_quantize(config(model, ("Q4_K_M", tmp_path / "out.gguf"), imatrix=file))
    assert any("has nothing of 13 tensors" in note for note in plan.files[0].notes)


def test_importance_that_is_not_finite_or_no_importance(model, tmp_path):
    file, target = tmp_path / "imatrix.gguf", ("Q4_K_M", tmp_path / "out.gguf")
    write_imatrix(Imatrix({"blk.0.attn_q.weight": Entry(np.full((1, 256), np.nan), np.array([5]))}), file)
    with pytest.raises(BadFile, match="not finite"):
        plan_quantize(config(model, target, imatrix=file))
    for wrong, error in ((model, BadFile), (tmp_path / "none.gguf", NotFound), (tmp_path, BadFile)):
        with pytest.raises(error):
            plan_quantize(config(model, target, imatrix=wrong))
    file.write_bytes(b"\x03\x00\x00\x00garbage")
    with pytest.raises(BadFile, match="no importance matrix"):
        plan_quantize(config(model, target, imatrix=file))


@pytest.mark.parametrize(
    ("choice", "file_type", "words"),
    [
        ({"tensor_types": (("attn_(", "Q8_0"),)}, "Q4_0", "no regular expression"),
        ({"keep": (("attn_(", "Q8_0"),)}, "Q4_0", "no regular expression"),
        ({"keep": (("attn_x", "Q8_0"),)}, "Q4_0", "No tensor's name matches attn_x"),
        ({"tensor_types": (("attn_v", "Q8_0"),)}, "F16", "F16 takes no types of single tensors"),
    ],
)
def test_options_that_cannot_be_followed(model, tmp_path, choice, file_type, words):
    with pytest.raises(BadValue, match=words):
        plan_quantize(config(model, (file_type, tmp_path / "out.gguf"), choice=TypeChoice(**choice)))


def test_a_pattern_that_matches_nothing_is_said(model, tmp_path):
    choice = TypeChoice(tensor_types=(("attn_x", "Q8_0"),))
    (file,) = plan_quantize(config(model, ("Q4_0", tmp_path / "out.gguf"), choice=choice)).files
    assert "No tensor's name matches attn_x." in file.notes


def test_sources_that_are_no_models(tmp_path):
    broken = tmp_path / "broken.gguf"
    for data in (b"", b"GGUF", small_gguf()[:400], b"<html>"):
        broken.write_bytes(data)
        with pytest.raises(BadFile):
            plan_quantize(config(broken, ("Q4_0", tmp_path / "out.gguf")))
    broken.write_bytes(small_gguf())  # whole, but llama.cpp misses keys in it
    with pytest.raises(LocalknobsError, match="llama.cpp cannot quantize"):
        plan_quantize(config(broken, ("Q4_0", tmp_path / "out.gguf")))
    assert list(tmp_path.iterdir()) == [broken]


# ---- broken off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [1, 2, 5, 10**6])
def test_closed_after_any_event_the_old_files_stay_and_nothing_else(model, tmp_path, taken):
    targets = [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    for target in targets:
        target.write_bytes(b"old")
    running = quantize(plan_quantize(config(model, ("Q4_0", targets[0]), ("Q8_0", targets[1]))))
    done = sum(1 for _ in zip(range(taken), running, strict=False))
    running.close()
    assert sorted(tmp_path.iterdir()) == targets
    finished = done < taken
    assert [target.read_bytes() == b"old" for target in targets] == [not finished] * 2


STARTS_AND_WAITS = """
import sys
from pathlib import Path
from localknobs.convert.quantize import QuantizeConfig, plan_quantize, quantize
source, target = map(Path, sys.argv[1:])
running = quantize(plan_quantize(QuantizeConfig(source=source, outputs=(("Q4_0", target),), threads=1)))
for _ in range(5):
    next(running)
print("half", flush=True)
sys.stdin.read()
"""


def test_killed_half_way_the_old_file_stays_and_the_next_start_cleans_up(model, tmp_path):
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    child = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS, model, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert target.read_bytes() == b"old"
    (left,) = [file for file in tmp_path.iterdir() if file != target]
    assert left.name == f".out.gguf.{child.pid}.partial" and left.stat().st_size
    drain(quantize(plan_quantize(config(model, ("Q4_0", target)))))
    assert list(tmp_path.iterdir()) == [target] and read_header(target).quant == "Q4_0"


def test_a_limit_on_the_size_of_files_is_a_full_disk(model, tmp_path):
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    done = subprocess.run(
        [PROGRAM, "quantize", model, "Q8_0", "-o", target, "-t", "1"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 3 and "disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"old"


def test_too_little_room_is_said_before_anything_is_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 900_000, 100_000))
    plan = plan_quantize(config(model, ("Q8_0", tmp_path / "a.gguf"), ("Q4_0", tmp_path / "b.gguf")))
    with pytest.raises(NotEnough, match=r"a.gguf, b.gguf: .* 97.7 KiB free") as raised:
        drain(quantize(plan))
    assert raised.value.needed_bytes == sum(file.size_bytes for file in plan.files)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 4 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_half_way(model, small_disk):
    target = small_disk / "out.gguf"
    target.write_bytes(b"old")
    running = quantize(plan_quantize(config(model, ("Q8_0", target))))
    for _ in range(3):
        next(running)
    room = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (room.f_bavail * room.f_frsize))
    with pytest.raises(NotEnough, match=r"The disk is full.*out\.gguf"):
        drain(running)
    assert sorted(file.name for file in small_disk.iterdir()) == ["ballast", "out.gguf"]
    assert target.read_bytes() == b"old"


# ---- weights that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["blk.1.ffn_down.weight", "blk.1.ffn_norm.weight"])
def test_weights_that_are_no_numbers_are_refused_by_name(model, tmp_path, value, name):
    broken, target = tmp_path / "broken.gguf", tmp_path / "out.gguf"
    shutil.copy(model, broken)
    header = read_header(broken)
    (tensor,) = [tensor for tensor in header.tensors if tensor.name == name]
    with broken.open("r+b") as file:
        file.seek(header.data_start + tensor.offset + 4 * (tensor.elements - 1))
        file.write(np.float32(value).tobytes())
    with pytest.raises(BadFile, match=rf"broken\.gguf: {name}.*no finite numbers"):
        drain(quantize(plan_quantize(config(broken, ("Q4_0", target)))))
    assert list(tmp_path.iterdir()) == [broken]


def test_weights_beyond_what_a_type_can_hold(model, tmp_path):
    broken, target = tmp_path / "broken.gguf", tmp_path / "out.gguf"
    shutil.copy(model, broken)
    header = read_header(broken)
    (tensor,) = [tensor for tensor in header.tensors if tensor.name == "blk.0.ffn_up.weight"]
    with broken.open("r+b") as file:
        file.seek(header.data_start + tensor.offset)
        file.write(np.float32(1e30).tobytes())
    with pytest.raises(BadFile, match=r"blk\.0\.ffn_up\.weight has weights too large for Q8_0"):
        drain(quantize(plan_quantize(config(broken, ("Q8_0", target)))))
    assert list(tmp_path.iterdir()) == [broken]


def test_a_source_that_is_cut_short_while_it_is_read(model, tmp_path):
    source, target = tmp_path / "source.gguf", tmp_path / "out.gguf"
    shutil.copy(model, source)
    running = quantize(plan_quantize(config(source, ("Q4_0", target))))
    next(running)
    os.truncate(source, source.stat().st_size // 2)
    with pytest.raises(BadFile, match="cut short"):
        drain(running)
    assert list(tmp_path.iterdir()) == [source]
