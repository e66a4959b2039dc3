"""What a typed name means: paths, library names, repositories with and without a quantization, Ollama's tags."""

import pytest
from gguf_files import small_gguf
from library_trees import hugging_face, ollama, put, safetensors, shard

from localknobs.errors import BadFile, BadValue, NotFound
from localknobs.library import find_entry, find_model
from localknobs.paths import models_folder


@pytest.fixture
def hub(home):
    return home.parent / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize(
    "typed",
    [
        "org/Repo-GGUF:Q8_0", "ORG/repo-gguf:q8_0", "org/Repo-GGUF@q8_0", "hf.co/org/Repo-GGUF:Q8_0",
        "https://huggingface.co/org/Repo-GGUF:Q8_0", "org/Repo-GGUF/repo-Q8_0", "repo-Q8_0", "repo-q8_0.gguf",
        "Repo-GGUF:Q8_0",
    ],
)  # fmt: skip
def test_a_quantization_of_a_repository_is_found_however_it_is_spelled(hub, typed):
    hugging_face(hub, "org/Repo-GGUF", {"repo-Q4_K_M.gguf": small_gguf("4"), "repo-Q8_0.gguf": small_gguf("8")})
    assert find_model(typed).name == "repo-Q8_0.gguf"


def test_a_repository_alone_means_its_q4_k_m_or_its_only_model(hub):
    hugging_face(hub, "org/Many", {"m-Q4_K_M.gguf": small_gguf("4"), "m-Q8_0.gguf": small_gguf("8")})
    hugging_face(hub, "org/One", {"o-Q2_K.gguf": small_gguf("2")})
    assert find_model("org/Many").name == "m-Q4_K_M.gguf" and find_model("org/one").name == "o-Q2_K.gguf"
    assert find_model("many").name == "m-Q4_K_M.gguf", "the organization may be left out"


def test_several_are_listed_and_none_is_guessed(hub, home):
    hugging_face(hub, "org/Many", {"m-Q5_K_M.gguf": small_gguf("5"), "m-Q8_0.gguf": small_gguf("8")})
    with pytest.raises(BadValue, match="means 2 models.*org/Many:Q5_K_M, org/Many:Q8_0"):
        find_model("org/Many")
    ollama(home.parent / ".ollama" / "models", "llama3:8b", {"model": small_gguf("8b")})
    ollama(home.parent / ".ollama" / "models", "llama3:70b", {"model": small_gguf("70b")})
    with pytest.raises(BadValue, match="llama3:70b, llama3:8b"):
        find_model("llama3")
    with pytest.raises(NotFound, match="Did you mean llama3:8b"):
        find_model("llama3:8bb")


def test_two_files_of_one_name_are_told_apart_by_their_paths(home):
    one, two = put(home.parent / "models" / "same.gguf"), put(home.parent / ".cache" / "llama.cpp" / "same.gguf")
    with pytest.raises(BadValue) as told:
        find_model("same")
    assert str(one) in told.value.hint and str(two) in told.value.hint
    own = put(models_folder() / "same.gguf")
    assert find_model("same") == own, "the own folder comes first"


def test_what_cannot_be_loaded_says_why(hub, home):
    hugging_face(hub, "org/Base", {"config.json": b"{}", "model.safetensors": safetensors({"w": (2, 2)})})
    with pytest.raises(BadFile, match="is a checkpoint.*localknobs quantize"):
        find_model("org/Base")
    assert find_entry("org/Base").kind == "checkpoint"
    put(models_folder() / "big-00002-of-00002.gguf", shard(2, 2))
    with pytest.raises(BadFile, match="big-00001-of-00002.gguf"):
        find_model("big")
    assert find_entry("big").state == "damaged"
    put(home.parent / ".cache" / "llama.cpp" / "half.gguf.downloadInProgress", b"x")
    with pytest.raises(BadFile, match="not finished"):
        find_model("half")
    with pytest.raises(BadFile, match="It is a checkpoint"):
        find_model(str(find_entry("org/Base").path))


def test_a_row_is_found_by_its_path_too(home):
    file = put(models_folder() / "sub" / "m.gguf")
    assert find_entry(str(file)).name == find_entry("sub/m").name == find_entry("m").name == "sub/m"
    assert find_entry("sub/m").identity == str(file)
    with pytest.raises(NotFound):
        find_entry(str(put(home.parent / "elsewhere" / "x.gguf")))


def test_a_split_model_is_found_by_its_name_and_by_its_first_file():
    first = put(models_folder() / "big-00001-of-00002.gguf", shard(1, 2))
    put(models_folder() / "big-00002-of-00002.gguf", shard(2, 2))
    assert find_model("big") == find_model("big-00001-of-00002") == find_model("big-00001-of-00002.gguf") == first
