"""The models on this machine: names, shards, broken files, near names."""

import pytest
from gguf_files import TEXT, gguf_bytes, gguf_key, small_gguf

from localknobs.errors import BadFile, LocalknobsError, NotFound
from localknobs.library import find_model, installed_models
from localknobs.paths import built_in_model, models_folder


@pytest.fixture
def put():
    def put(name: str, data: bytes | None = None):
        file = models_folder() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(small_gguf() if data is None else data)
        return file

    return put


def names() -> list[str]:
    return [entry.name for entry in installed_models() if entry.name != "built-in"]


def test_the_built_in_model_comes_first_and_needs_no_folder(built_in):
    first = installed_models()[0]
    assert first.name == "built-in" and first.kind == "model" and first.size_bytes == built_in.stat().st_size
    assert find_model("built-in") == built_in_model() and not models_folder().exists()


def test_files_are_named_by_their_place_in_the_folder(put):
    one, two = put("one.gguf"), put("org/two.gguf")
    put("notes.txt", b"x")
    put(".half.gguf.partial", b"x")
    put(".hidden.gguf")
    assert names() == ["one", "org/two"]
    assert find_model("one") == one and find_model("one.gguf") == one and find_model("ONE") == one
    assert find_model("org/two") == two


def test_a_path_is_taken_as_it_is(put, tmp_path, monkeypatch):
    file = tmp_path / "here.gguf"
    file.write_bytes(small_gguf())
    monkeypatch.chdir(tmp_path)
    assert find_model(str(file)) == file and find_model("here.gguf").samefile(file)


def test_a_model_called_built_in_does_not_hide_the_shipped_one(put):
    own = put("built-in.gguf")
    assert find_model("built-in") == built_in_model() != own
    assert [find_model(name) for name in names()] == [own], "and is reached by the name that is listed"


def test_shards_are_one_model_of_their_summed_size(put):
    keys = [gguf_key("general.architecture", TEXT, "llama"), gguf_key("split.count", 2, 2)]
    first = put("big-00001-of-00002.gguf", gguf_bytes(keys))
    second = put("big-00002-of-00002.gguf", gguf_bytes(keys, data=b"\0" * 100))
    (entry,) = [entry for entry in installed_models() if entry.name != "built-in"]
    assert entry.path == first and entry.size_bytes == first.stat().st_size + second.stat().st_size
    second.unlink()
    (entry,) = [entry for entry in installed_models() if entry.name != "built-in"]
    assert (entry.name, entry.state) == ("big", "damaged") and "big-00002-of-00002.gguf" in entry.trouble


def test_later_shards_need_no_architecture(put):
    put("big-00001-of-00002.gguf", gguf_bytes([gguf_key("general.architecture", TEXT, "llama"),
                                               gguf_key("split.no", 2, 0), gguf_key("split.count", 2, 2)]))  # fmt: skip
    put("big-00002-of-00002.gguf", gguf_bytes([gguf_key("split.no", 2, 1), gguf_key("split.count", 2, 2)]))
    (entry,) = [entry for entry in installed_models() if entry.name != "built-in"]
    assert (entry.name, entry.state, entry.trouble) == ("big", "whole", "")


@pytest.mark.parametrize(
    "data", [b"", b"<html>", small_gguf()[:200], small_gguf()[:-1]], ids=["empty", "web page", "header", "weights"]
)
def test_a_broken_file_is_listed_with_its_trouble(put, data):
    put("bad.gguf", data)
    put("good.gguf")
    bad, good = [entry for entry in installed_models() if entry.name != "built-in"]
    assert (bad.kind, bad.state) == ("unknown", "damaged") and "bad.gguf" in bad.trouble and bad.size_bytes == len(data)
    assert good.kind == "model" and not good.trouble


def test_a_link_to_nothing_is_told_and_a_folder_called_gguf_does_no_harm(put):
    put("good.gguf")
    (models_folder() / "gone.gguf").symlink_to(models_folder() / "nowhere")
    (models_folder() / "folder.gguf").mkdir()
    gone, good = installed_models()[1:]
    assert (gone.name, gone.state, good.name) == ("gone", "damaged", "good") and "nowhere" in gone.trouble
    with pytest.raises(BadFile, match="nowhere"):
        find_model("gone")


@pytest.mark.parametrize(("typed", "near"), [("bilt-in", "built-in"), ("llama-3b", "Llama-3B"), ("org/tow", "org/two")])
def test_an_unknown_model_names_the_near_one(put, typed, near):
    put("Llama-3B-Q4.gguf")
    put("org/two.gguf")
    with pytest.raises(NotFound, match=rf"Did you mean {near}"):
        find_model(typed)


@pytest.mark.parametrize("name", ["", "nothing-like-it", "/no/such/file.gguf", "a" * 5000, "~nobody-here/x.gguf"])
def test_what_is_nowhere_is_one_plain_error(name):
    with pytest.raises(LocalknobsError) as told:
        find_model(name)
    assert told.value.hint
