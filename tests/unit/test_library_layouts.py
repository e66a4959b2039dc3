"""Each program's folders, as it lays them out: what is listed, under which name, and that nothing is written."""

import json
import os
import sys
from pathlib import Path

import pytest
from gguf_files import TEXT, gguf_bytes, gguf_key, small_gguf
from library_trees import COMMIT, OLDER, hugging_face, ollama, projector, put, safetensors, shard

from localknobs import preferences
from localknobs.library import find_model, installed_models, list_models
from localknobs.library.sources import EXTRA_PLACES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the other systems' folders lie elsewhere")


@pytest.fixture
def user(home) -> Path:
    """Return the user's home folder."""
    return home.parent


def rows() -> dict[str, object]:
    return {entry.name: entry for entry in installed_models() if entry.name != "built-in"}


def picture(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return every path of a folder with what would change if it were written to."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")
    }


# ---- Hugging Face, llama.cpp ---------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"])
def test_hugging_face_wherever_its_cache_is(user, tmp_path, monkeypatch, variable):
    root = user / ".cache" / "huggingface" / "hub"
    if variable:
        root = tmp_path / "moved" / "hub"
        monkeypatch.setenv(variable, str(root.parent if variable == "HF_HOME" else root))
    folder = hugging_face(
        root, "org/Small-GGUF", {"small-Q4_K_M.gguf": small_gguf(), "small-Q8_0.gguf": small_gguf("8")}
    )
    before = picture(root)
    found = rows()
    assert list(found) == ["org/Small-GGUF:Q4_K_M", "org/Small-GGUF:Q8_0"] and picture(root) == before
    entry = found["org/Small-GGUF:Q4_K_M"]
    assert entry.path == folder / "snapshots" / COMMIT / "small-Q4_K_M.gguf" and entry.source == "hf" and entry.usable
    assert (entry.title, entry.architecture, entry.context, entry.parameters) == ("Small", "llama", 128, 160)


def test_hugging_face_shards_projectors_folders_and_older_snapshots(user):
    root = user / ".cache" / "huggingface" / "hub"
    big = {f"UD-IQ1_S/big-UD-IQ1_S-0000{number}-of-00002.gguf": shard(number, 2) for number in (1, 2)}
    folder = hugging_face(root, "org/Big", {**big, "UD-IQ1_S/mmproj-F16.gguf": projector()})
    hugging_face(root, "org/Big", {"only-old-Q2_K.gguf": small_gguf("old"), **big}, OLDER)
    (folder / "snapshots" / COMMIT / "gone-Q6_K.gguf").symlink_to("../../blobs/nothing")
    found = rows()
    assert set(found) == {"org/Big:UD-IQ1_S", "org/Big:Q2_K", "org/Big:Q6_K"}
    entry = found["org/Big:UD-IQ1_S"]
    assert [file.parent.parent.name for file in entry.files] == [COMMIT, COMMIT]
    assert entry.projector.name == "mmproj-F16.gguf" and entry.parameters == 512
    assert entry.size_bytes == sum(map(len, big.values())) + len(projector())
    assert found["org/Big:Q6_K"].state == "damaged" and "where there is nothing" in found["org/Big:Q6_K"].trouble


def test_hugging_face_checkpoints_adapters_and_what_is_not_finished(user):
    root = user / ".cache" / "huggingface" / "hub"
    config = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 4096}
    weights = {f"model-0000{n}-of-00002.safetensors": safetensors({f"w{n}": (4, 8)}) for n in (1, 2)}
    folder = hugging_face(root, "org/Base", {"config.json": json.dumps(config).encode(), **weights})
    hugging_face(
        root, "me/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": safetensors({"a": (2, 2)})}
    )
    put(folder / "blobs" / f"{'ab' * 32}.incomplete", b"x" * 2**20)
    put(folder / "blobs" / f"{'cd' * 32}.localknobs.incomplete", b"x" * 2**20)
    put(folder / "blobs" / f"{'cd' * 32}.localknobs-journal.incomplete", b"x" * 2**20)
    put(folder / "blobs" / f"{'ef' * 32}.incomplete", b"a small file, such as a tokenizer")
    os.truncate(folder / "blobs" / f"{'cd' * 32}.localknobs.incomplete", 2**30)  # as long as it will be, with a hole
    found = rows()
    ours = found["org/Base:cdcdcdcdcdcd"]
    assert ours.size_bytes <= 2**21 and "1.0 GiB so far" not in ours.trouble
    base = found["org/Base"]
    assert (base.kind, base.architecture, base.quant, base.context) == ("checkpoint", "Qwen3ForCausalLM", "BF16", 4096)
    assert base.parameters == 64 and base.size_bytes == sum(map(len, weights.values())) and not base.usable
    assert base.path == folder / "snapshots" / COMMIT and found["me/lora"].kind == "adapter"
    assert [entry.name for entry in found.values() if entry.state == "unfinished"] == [
        "org/Base:abababababab", "org/Base:cdcdcdcdcdcd",
    ]  # fmt: skip
    (folder / "snapshots" / COMMIT / "model-00002-of-00002.safetensors").resolve().write_bytes(b"\xff" * 99)
    assert rows()["org/Base"].state == "damaged"


def test_llama_cpp_flat_files_and_the_hubs_layout_under_its_own_root(user, tmp_path, monkeypatch):
    put(user / ".cache" / "llama.cpp" / "org_repo_file-Q4_0.gguf")
    put(user / ".cache" / "llama.cpp" / "other.gguf.downloadInProgress", b"x")
    assert list(rows()) == ["org_repo_file-Q4_0", "other"] and rows()["other"].state == "unfinished"
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cache"))
    hugging_face(tmp_path / "cache", "org/Small", {"s-Q8_0.gguf": small_gguf("of the hub")})
    found = rows()
    assert list(found) == ["org/Small:Q8_0", "org_repo_file-Q4_0", "other"]
    assert {entry.source for entry in found.values()} == {"llama.cpp"}


# ---- LM Studio, Ollama, Jan, GPT4All, folders ----------------------------------------------------


@pytest.mark.parametrize("where", [".lmstudio", ".cache/lm-studio", "pointer", "settings"])
def test_lm_studio_wherever_its_home_is(user, tmp_path, where):
    root = user / where / "models"
    if where == "pointer":
        put(user / ".lmstudio-home-pointer", f"{tmp_path / 'studio'}\n".encode())
        root = tmp_path / "studio" / "models"
    if where == "settings":
        root = tmp_path / "downloads"
        put(user / ".lmstudio" / "settings.json", json.dumps({"downloadsFolder": str(root)}).encode())
    put(root / "publisher" / "repo" / "model-Q4_K_M.gguf")
    put(root / "publisher" / "repo" / "mmproj-model-f16.gguf", projector())
    put(root / "publisher" / "repo" / "model-Q8_0.gguf.part", b"x")
    put(root / "publisher" / "mlx" / "config.json", b"{}")
    put(root / "publisher" / "mlx" / "model.safetensors", safetensors({"w": (2, 2)}))
    found = rows()
    assert set(found) == {"publisher/repo:Q4_K_M", "publisher/repo/model-Q8_0"}
    assert found["publisher/repo:Q4_K_M"].projector.name == "mmproj-model-f16.gguf"
    assert found["publisher/repo:Q4_K_M"].source == "lmstudio"


def test_ollama_names_models_as_its_own_commands_do(user):
    root = user / ".ollama" / "models"
    ollama(root, "llama3:8b", {"model": small_gguf("a"), "template": b"x", "params": b"{}", "projector": projector()})
    ollama(root, "llama3:latest", {"model": small_gguf("a")})
    ollama(root, "mine:v1", {"model": small_gguf("b"), "adapter": small_gguf("c")}, "registry.ollama.ai/user")
    ollama(root, "repo:Q4_K_M", {"model": small_gguf("d")}, "hf.co/org")
    ollama(root, "mlx:latest", {"tensor": b"x", "json": b"{}"})
    put(root / "blobs" / f"sha256-{'12' * 32}-partial", b"x" * 100)
    before = picture(root)
    found = rows()
    assert set(found) == {
        "llama3:8b",
        "user/mine:v1",
        "user/mine:v1/adapter",
        "hf.co/org/repo:Q4_K_M",
        "sha256-121212121212",
    }
    assert picture(root) == before
    llama = found["llama3:8b"]
    assert llama.aliases == ("llama3:latest", "llama3") and llama.projector and llama.usable and llama.title == "a"
    assert found["sha256-121212121212"].state == "unfinished"
    for name in ("llama3:8b", "llama3", "llama3:latest", "LLAMA3:8B"):
        assert find_model(name) == llama.path
    llama.path.unlink()
    assert rows()["llama3:8b"].state == "damaged" and "ollama pull llama3:8b" in rows()["llama3:8b"].trouble


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"layers": 7}', b'{"layers": [{"mediaType": 1}]}', b"[" * 99_999]
)
def test_ollamas_manifest_that_is_none_is_told(user, manifest):
    root = user / ".ollama" / "models"
    file = ollama(root, "bad:latest", {"model": small_gguf()})
    ollama(root, "good:latest", {"model": small_gguf("other")})
    file.write_bytes(manifest)
    listing = list_models()
    assert [entry.name for entry in listing.entries] == ["built-in", "good:latest"]
    assert listing.unreadable == ((file, "it is not a manifest of Ollama's"),)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_told_and_the_rest_is_listed(user):
    closed = user / ".ollama" / "models"
    ollama(closed, "a:latest", {"model": small_gguf()})
    put(user / "models" / "seen.gguf")
    (closed / "manifests").chmod(0)
    try:
        listing = list_models()
    finally:
        (closed / "manifests").chmod(0o755)
    assert listing.unreadable == ((closed / "manifests", "Permission denied"),)
    assert [entry.name for entry in listing.entries] == ["built-in", "seen"]


def test_a_folder_that_refuses_is_told_and_the_rest_is_listed(user, monkeypatch):
    """As a folder of the user `ollama` does; here also for root."""
    closed = user / ".ollama" / "models"
    ollama(closed, "a:latest", {"model": small_gguf()})
    put(user / "models" / "seen.gguf")
    scandir = os.scandir

    def refusing(path):
        if ".ollama" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = list_models()
    assert (closed / "manifests", "Permission denied") in listing.unreadable
    assert [entry.name for entry in listing.entries] == ["built-in", "seen"]


def test_jan_says_in_model_yml_where_the_file_is(user, tmp_path):
    root = user / ".local" / "share" / "Jan" / "data"
    models = root / "llamacpp" / "models"
    put(models / "org" / "repo" / "model.gguf")
    put(models / "org" / "repo" / "model.yml", b'model_path: "llamacpp/models/org/repo/model.gguf"\nsize_bytes: 9\n')
    imported = put(tmp_path / "elsewhere.gguf")
    put(models / "imported" / "model.yml", f"name: x\nmodel_path: {imported}\n".encode())
    put(models / "gone" / "model.yml", b"model_path: llamacpp/models/gone/model.gguf\n")
    put(models / "odd" / "model.yml", b"\xff\xfe: [\n")
    found = rows()
    assert set(found) == {"org/repo", "imported", "gone"} and found["imported"].path == imported
    assert found["org/repo"].usable and found["gone"].state == "damaged"
    moved = tmp_path / "moved"
    put(moved / "llamacpp" / "models" / "m" / "model.yml", f"model_path: {put(moved / 'm.gguf')}\n".encode())
    put(user / ".config" / "Jan" / "settings.json", json.dumps({"data_folder": str(moved)}).encode())
    assert rows()["m"].path == moved / "m.gguf"


def test_gpt4all_and_the_users_own_folders(user, tmp_path):
    put(user / ".local" / "share" / "nomic.ai" / "GPT4All" / "a.Q4_0.gguf")
    put(user / ".local" / "share" / "nomic.ai" / "GPT4All" / "incomplete-b.gguf", b"x")
    put(user / "models" / "home.gguf")
    put(tmp_path / "disk" / "sub" / "extra.gguf")
    put(tmp_path / "one.gguf")
    put(tmp_path / "not-named.gguf")
    preferences.write(**{EXTRA_PLACES: [str(tmp_path / "disk"), str(tmp_path / "one.gguf"), str(tmp_path / "gone")]})
    listing = list_models()
    found = {entry.name: (entry.source, entry.state) for entry in listing.entries}
    assert found == {
        "built-in": ("own", "whole"), "a.Q4_0": ("gpt4all", "whole"), "b": ("gpt4all", "unfinished"),
        "home": ("home", "whole"), "sub/extra": ("extra", "whole"), "one": ("extra", "whole"),
    }  # fmt: skip
    assert listing.unreadable == ((tmp_path / "gone", "it is not there"),)
    assert [entry.name for entry in list_models(["home", "gpt4all"]).entries] == ["a.Q4_0", "b", "home"]


# ---- folding, kinds, bounds ----------------------------------------------------------------------


def test_one_file_that_several_programs_have_is_one_row(user):
    data = small_gguf("same")
    own = user / "localknobs" / "data" / "models"
    hub = hugging_face(user / ".cache" / "huggingface" / "hub", "org/Repo", {"m-Q8_0.gguf": data})
    ollama(user / ".ollama" / "models", "m:latest", {"model": data})  # by hash
    original = put(user / "models" / "one.gguf", small_gguf("linked"))
    own.mkdir(parents=True)
    (own / "linked.gguf").symlink_to(original)  # by inode
    os.link(original, own / "hard.gguf")
    found = rows()
    assert list(found) == ["hard", "org/Repo:Q8_0"]
    assert set(found["hard"].aliases) == {"linked", "one"} and original in found["hard"].also_at
    assert found["org/Repo:Q8_0"].path.is_relative_to(hub) and "m" in found["org/Repo:Q8_0"].aliases
    assert find_model("one") == find_model("hard") == own / "hard.gguf" and find_model("m:latest").name == "m-Q8_0.gguf"


def test_kinds_are_read_from_the_header(user):
    def with_keys(*keys):
        return gguf_bytes(list(keys), {"t": ((32,), 0, 0)}, data=b"\0" * 128)

    folder = user / "models"
    put(folder / "a.gguf", with_keys(gguf_key("general.type", TEXT, "adapter")))
    put(folder / "i.gguf", with_keys(gguf_key("general.type", TEXT, "imatrix")))
    put(folder / "mmproj-p.gguf", projector())
    put(folder / "nothing.gguf", with_keys())
    put(folder / "m.gguf")
    kinds = {name: (entry.kind, entry.usable) for name, entry in rows().items()}
    assert kinds == {
        "a": ("adapter", False), "i": ("imatrix", False), "mmproj-p": ("projector", False), "m": ("model", True),
        "nothing": ("model", False),
    }  # fmt: skip


def test_loops_of_links_end_and_depth_and_count_are_bounded(user, monkeypatch):
    folder = user / "models"
    put(folder / "a" / "m.gguf")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    put(folder / Path(*"deeper" * 9) / "far.gguf")
    assert list(rows()) == ["a/m"]
    monkeypatch.setattr("localknobs.library.walk.MAX_ENTRIES", 3)
    ((_, reason),) = list_models().unreadable
    assert "more than 3 entries" in reason


# ---- what is remembered --------------------------------------------------------------------------


def test_a_header_is_read_once_and_again_when_the_file_changes(user, monkeypatch):
    import localknobs.library.summaries as summaries

    read = []
    original = summaries.read_summary
    monkeypatch.setattr(
        summaries, "read_summary", lambda path, status: read.append(path.name) or original(path, status)
    )
    file = put(user / "models" / "m.gguf", small_gguf("first"))
    assert rows()["m"].title == "first" and read == ["built-in.gguf", "m.gguf"]
    assert rows()["m"].title == "first" and len(read) == 2
    file.write_bytes(small_gguf("other"))  # of the same length
    os.utime(file, ns=(1, 1))
    assert rows()["m"].title == "other" and read[2:] == ["m.gguf"]
    put(user / "models" / "bad.gguf", b"GGUF")
    assert rows()["bad"].state == rows()["bad"].state == "damaged" and read[3:] == ["bad.gguf"], "remembered too"
    file.unlink()
    rows()
    assert "m.gguf" not in (user / "localknobs" / "cache" / "headers.json").read_text()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 99_999, b'{"format": 1}', b'{"format": 99, "files": {}}',
        b'{"format": 1, "files": [1]}', b'{"format": 1, "files": {"/m": 7}}',
        b'{"format": 1, "files": {"/m": [1, 2, {"kind": 3}]}}',
    ],
)  # fmt: skip
def test_a_cache_of_rubbish_is_no_cache(user, rubbish):
    put(user / "models" / "m.gguf", small_gguf("right"))
    cache = put(user / "localknobs" / "cache" / "headers.json", rubbish)
    assert rows()["m"].title == "right" and json.loads(cache.read_bytes())["files"]


def test_without_a_place_for_the_cache_everything_is_listed(user, monkeypatch):
    put(user / "models" / "m.gguf")
    put(user / "localknobs" / "cache", b"a file where the folder should be")
    assert list(rows()) == ["m"]
