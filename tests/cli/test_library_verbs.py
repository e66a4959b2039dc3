"""ls --source, import, rm and prune as a person runs them: what is said, asked and refused."""

import json
import os
import re

import pytest
from gguf_files import small_gguf
from library_trees import COMMIT, hugging_face, ollama, projector, put
from repository import REPOSITORY

from localknobs.library import find_entry
from localknobs.paths import models_folder


@pytest.fixture
def own():
    return put(models_folder() / "mine.gguf")


def test_ls_of_one_source_and_of_none_such(run, own, home):
    hugging_face(home.parent / ".cache" / "huggingface" / "hub", "org/Repo", {"m-Q8_0.gguf": small_gguf("hf")})
    (_, row) = run("ls", "--source", "hf").stdout.splitlines()
    assert row.startswith("org/Repo:Q8_0 ") and row.endswith(" hf")
    assert [model["name"] for model in json.loads(run("ls", "--json", "--source", "own").stdout)["models"]] == [
        "built-in", "mine",
    ]  # fmt: skip
    wrong = run("ls", "--source", "olama")
    assert wrong.returncode == 2 and "'ollama'" in wrong.stderr
    assert "no model there" in run("ls", "--source", "jan").stderr


def test_no_token_is_ever_printed(run, own, home):
    """Nothing here has a use for one, and a hub's folder holds it in a file."""
    put(home.parent / ".cache" / "huggingface" / "token", b"hf_secretsecret")
    put(home.parent / ".cache" / "huggingface" / "hub" / "models--o--r" / "blobs" / "x.incomplete", b"x" * 2**20)
    for verb in (("ls",), ("ls", "--json"), ("show", "mine", "--json"), ("prune", "--dry-run"), ("rm", "nothing")):
        done = run(*verb, HF_TOKEN="hf_othersecret")
        assert "secret" not in done.stdout + done.stderr
    for file in home.rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes()


def test_rm_says_what_goes_and_asks(run, terminal, own):
    piped = run("rm", "mine")
    assert piped.returncode == 2 and str(own) in piped.stdout and "--yes" in piped.stderr and own.exists()
    assert "Nothing was removed" in run("rm", "mine", "--dry-run").stderr and own.exists()
    screen = terminal("rm", "mine", columns=200)
    screen.wait_for("[y/N]")
    screen.type("\n")
    assert screen.ends() == 130 and own.exists()
    screen = terminal("rm", "mine", columns=200)
    screen.wait_for("[y/N]")
    screen.type("y\n")
    assert screen.ends() == 0 and not own.exists()


def test_rm_takes_several_or_none(run, own):
    two = put(models_folder() / "two.gguf")
    wrong = run("rm", "mine", "nowhere", "--yes")
    assert wrong.returncode == 3 and own.exists(), "one wrong name, and nothing goes"
    done = run("rm", "mine", "two", "mine", "--yes")
    assert done.returncode == 0 and not own.exists() and not two.exists() and "Removed" in done.stderr


def test_rm_refuses_what_is_anothers(run, home):
    manifest = ollama(home.parent / ".ollama" / "models", "m:1b", {"model": small_gguf("ollama")})
    done = run("rm", "m:1b", "--yes")
    assert done.returncode == 2 and "ollama rm m:1b" in done.stderr and manifest.exists()
    assert run("rm", "built-in", "--yes").returncode == 2


def test_import_in_place_then_copied_then_forgotten(run, tmp_path):
    file = put(tmp_path / "shelf" / "some.gguf")
    assert "No places" in run("import").stderr
    dry = run("import", file.parent, "--dry-run")
    assert "some" in dry.stdout and run("import").stdout == ""
    assert run("import", file.parent).returncode == 0 and run("import").stdout.strip() == str(file.parent)
    assert run("ls").stdout.splitlines()[-1].startswith("some ") and run("ls").stdout.endswith(" extra\n")
    copied = run("import", file, "--copy")
    assert copied.stdout.strip() == str(models_folder() / "some.gguf")
    again = run("import", file, "--copy")
    assert again.returncode == 2 and "nothing is overwritten" in again.stderr
    assert run("import", file.parent, "--forget").returncode == 0 and run("import").stdout == ""
    assert file.exists() and "some" in run("ls").stdout


@pytest.mark.parametrize(
    "arguments", [("/no/such",), ("--link", "--copy", "x"), ("--forget", "/no/such"), ("/etc/hostname",)]
)
def test_import_of_rubbish_is_one_line(run, arguments):
    done = run("import", *arguments)
    assert done.returncode in (2, 3) and done.stderr.count("\n") == 1


def test_prune_shows_and_asks(run, own):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    left = put(models_folder() / f".half.gguf.{pid}.partial", b"x" * 5000)
    dry = run("prune", "--dry-run")
    assert str(left) in dry.stdout and "4.9 KiB" in dry.stdout and left.exists()
    assert json.loads(run("prune", "--json").stdout)["removed"] is False
    assert run("prune").returncode == 2 and left.exists()
    assert run("prune", "--older-than", "-1").returncode == 2
    assert run("prune", "--yes").returncode == 0 and not left.exists() and own.exists()
    assert "nothing to remove" in run("prune").stderr


def test_show_says_where_a_model_came_from_and_what_belongs_to_it(run, own, home):
    cache = home.parent / ".cache" / "huggingface" / "hub"
    hugging_face(cache, "org/Sees", {"m-Q8_0.gguf": small_gguf("sees"), "mmproj-F16.gguf": projector()})
    copy = home.parent / "models" / "other-name.gguf"
    copy.parent.mkdir()
    os.link((cache / "models--org--Sees" / "snapshots" / COMMIT / "m-Q8_0.gguf").resolve(), copy)
    said = run("show", "org/Sees").stdout
    assert re.search(r"found in +Hugging Face cache\n", said) and re.search(r"projector +.*mmproj-F16\.gguf\n", said)
    assert re.search(rf"also at +{re.escape(str(copy))}\n", said)
    told = json.loads(run("show", "org/Sees", "--json").stdout)
    assert told["also_at"] == [str(copy)] and told["projector"].endswith("mmproj-F16.gguf") and told["source"] == "hf"
    stray = put(home / "elsewhere" / "stray.gguf")
    assert "found in" not in run("show", stray).stdout
    assert json.loads(run("show", stray, "--json").stdout)["also_at"] == []


def test_a_checkpoint_of_the_hub_is_quantized_and_converted_by_its_name(run, home, tmp_path):
    cache = home.parent / ".cache" / "huggingface" / "hub"
    made = REPOSITORY / "models" / "checkpoint"
    hugging_face(cache, "org/Base", {file.name: file.read_bytes() for file in made.iterdir() if file.is_file()})
    done = run("quantize", "org/Base", "Q8_0")
    assert done.returncode == 0 and (models_folder() / "Base-Q8_0.gguf").is_file(), done.stderr
    done = run("convert", "org/Base", "-o", tmp_path, "--skip-token-check")
    assert done.returncode == 0 and [file.name for file in tmp_path.glob("Base-*.gguf")], done.stderr
    assert run("fit", "org/Base").stdout.startswith("Base on ")


def test_another_copy_of_a_model_is_found_by_its_path_and_never_removes_the_first(run, home):
    first, copy = put(models_folder() / "first.gguf"), models_folder() / "second.gguf"
    os.link(first, copy)
    entry = find_entry(str(copy))
    assert {entry.path, *entry.also_at} == {first, copy}
    assert "also" in run("show", entry.also_at[0]).stdout.lower()
    refused = run("rm", "--yes", entry.also_at[0])
    assert refused.returncode == 2 and "another copy of" in refused.stderr
    assert first.exists() and copy.exists()
