"""Removing, pruning, importing: a plan first, then the act; nothing of others is ever touched."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf_files import small_gguf
from library_trees import COMMIT, OLDER, hugging_face, ollama, projector, put, safetensors, shard

from localknobs.errors import BadFile, BadValue, NotEnough, NotFound
from localknobs.jobs import Advanced, Wrote
from localknobs.library import extra_places, find_entry, installed_models, plan_removal, remove
from localknobs.library.fetched import remember_fetched
from localknobs.library.importing import forget_place, import_models, plan_import
from localknobs.library.pruning import plan_pruning, prune
from localknobs.paths import data_folder, models_folder


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def names() -> list[str]:
    return [entry.name for entry in installed_models() if entry.name != "built-in"]


# ---- removing ------------------------------------------------------------------------------------


def test_all_shards_and_the_projector_go_and_then_the_empty_folder(home):
    for number in (1, 2):
        put(models_folder() / "org" / "big" / f"big-0000{number}-of-00002.gguf", shard(number, 2))
    put(models_folder() / "org" / "big" / "mmproj-F16.gguf", projector())
    other = put(models_folder() / "other.gguf")
    plan = plan_removal(find_entry("org/big/big"))
    assert len(plan.paths) == 3 and plan.freed_bytes == sum(path.stat().st_size for path in plan.paths)
    assert names() == ["org/big/big", "other"], "a plan does nothing"
    remove(plan)
    assert below(models_folder()) == {other.name}
    remove(plan)  # what is gone is gone


def test_a_projector_that_another_model_uses_stays():
    for quant in ("Q4_0", "Q8_0"):
        put(models_folder() / "vl" / f"vl-{quant}.gguf", small_gguf(quant))
    put(models_folder() / "vl" / "mmproj.gguf", projector())
    plan = plan_removal(find_entry("vl/vl-Q4_0"))
    assert [path.name for path in plan.paths] == ["vl-Q4_0.gguf"] and "mmproj.gguf stays" in plan.remarks[0]
    remove(plan)
    remove(plan_removal(find_entry("vl/vl-Q8_0")))
    assert below(models_folder()) == set()


def test_of_links_only_the_link_goes(home):
    file = put(home.parent / "models" / "m.gguf")
    models_folder().mkdir(parents=True)
    (models_folder() / "link.gguf").symlink_to(file)
    plan = plan_removal(find_entry("link"))
    assert plan.freed_bytes == 0 and str(file) in plan.remarks[0]
    remove(plan)
    assert file.is_file() and names() == ["m"]
    os.link(file, models_folder() / "hard.gguf")
    plan = plan_removal(find_entry("hard"))
    assert plan.freed_bytes == 0
    remove(plan)
    assert file.is_file() and names() == ["m"]


def test_a_damaged_one_a_half_one_and_a_checkpoint_can_go():
    put(models_folder() / "torn.gguf", b"GGUF")
    put(models_folder() / "half.gguf.part", b"x")
    put(models_folder() / "base" / "config.json", b"{}")
    put(models_folder() / "base" / "model.safetensors", safetensors({"w": (2, 2)}))
    for name in ("torn", "half", "base"):
        remove(plan_removal(find_entry(name)))
    assert below(models_folder()) == set()


def test_what_is_not_ours_stays_and_the_owner_is_named(home, monkeypatch):
    user = home.parent
    hugging_face(user / ".cache" / "huggingface" / "hub", "org/Repo", {"m-Q8_0.gguf": small_gguf("hf")})
    ollama(user / ".ollama" / "models", "m:1b", {"model": small_gguf("ollama")})
    put(user / ".lmstudio" / "models" / "org" / "repo" / "x-Q2_K.gguf", small_gguf("lm"))
    elsewhere = put(user / "other" / "behind.gguf").parent
    models_folder().mkdir(parents=True)
    (models_folder() / "linked").symlink_to(elsewhere)
    before = below(user)
    for name, owner in (
        ("org/Repo:Q8_0", "Hugging Face.*hf cache rm"), ("m:1b", "Ollama.*ollama rm m:1b"),
        ("org/repo:Q2_K", "LM Studio"), ("linked/behind", "behind the link"), ("built-in", "belongs to the program"),
    ):  # fmt: skip
        with pytest.raises(BadValue, match=owner):
            plan_removal(find_entry(name))
    assert below(user) - {"localknobs/cache", "localknobs/cache/headers.json"} == before


def test_what_was_fetched_into_the_hubs_cache_by_us_can_go_and_nothing_else(home):
    root = home.parent / ".cache" / "huggingface" / "hub"
    shards = {f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf": shard(n, 2) for n in (1, 2)}
    folder = hugging_face(
        root, "org/Repo", {**shards, "m-Q4_0.gguf": small_gguf("theirs"), "m-Q2_K.gguf": small_gguf("old")}
    )
    hugging_face(root, "org/Repo", {"m-Q2_K.gguf": small_gguf("old")}, OLDER)
    links = [folder / "snapshots" / COMMIT / path for path in (*shards, "m-Q2_K.gguf")]
    for link in links:
        remember_fetched(link.resolve())
    put(data_folder() / "fetched.jsonl", (data_folder() / "fetched.jsonl").read_bytes() + b"{rubbish\n[1]\n")
    with pytest.raises(BadValue, match="localknobs pull did not fetch it"):
        plan_removal(find_entry("org/Repo:Q4_0"))
    plan = plan_removal(find_entry("org/Repo:Q8_0"))
    assert len(plan.paths) == 4 and plan.freed_bytes == sum(map(len, shards.values()))
    remove(plan)
    assert names() == ["org/Repo:Q2_K", "org/Repo:Q4_0"] and not (folder / "snapshots" / COMMIT / "Q8_0").exists()
    plan = plan_removal(find_entry("org/Repo:Q2_K"))
    assert plan.freed_bytes == 0 and "Another snapshot" in plan.remarks[0]
    remove(plan)
    assert names() == ["org/Repo:Q2_K", "org/Repo:Q4_0"], "the older snapshot has it still"
    hugging_face(root, "org/Repo", {path: data for path, data in shards.items()})
    with pytest.raises(BadValue, match="did not fetch it"):
        plan_removal(find_entry("org/Repo:Q8_0"))  # whoever fetched it again is its owner


def test_of_a_repository_that_was_fetched_whole_nothing_is_left(home):
    root = home.parent / ".cache" / "huggingface" / "hub"
    files = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": safetensors({"w": (2, 2)})}
    folder = hugging_face(root, "org/Base", files)
    for path in files:
        remember_fetched((folder / "snapshots" / COMMIT / path).resolve())
    remove(plan_removal(find_entry("org/Base")))
    assert not folder.exists() and root.is_dir() and names() == []


# ---- pruning -------------------------------------------------------------------------------------


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_only_what_the_dead_left_behind_is_pruned(home):
    gone, alive = dead_pid(), os.getpid()
    old_job = put(models_folder() / "org" / f".m.gguf.{gone}.partial", b"x" * 5000)
    old_folder = put(data_folder() / f".c.{gone}.partial" / "inside", b"x" * 3000).parent
    blobs = home.parent / ".cache" / "huggingface" / "hub" / "models--o--r" / "blobs"
    given_up = [put(blobs / f"aa.localknobs{end}.incomplete", b"x" * 9000) for end in ("", "-journal")]
    kept = [
        put(models_folder() / f".n.gguf.{alive}.partial", b"x"), put(models_folder() / "m.gguf"),
        put(blobs / "bb.localknobs.incomplete", b"x"), put(blobs / "cc.incomplete", b"x"),
        put(models_folder() / ".notes.partial", b"x"),
    ]  # fmt: skip
    week_ago = time.time() - 8 * 86_400
    for file in (*given_up, kept[3]):
        os.utime(file, (week_ago, week_ago))
    plan = plan_pruning()
    assert {each.path for each in plan} == {old_job, old_folder, *given_up}
    assert {each.path: each.size_bytes for each in plan}[old_folder] == 3000 and all(each.reason for each in plan)
    assert old_job.exists(), "a plan does nothing"
    prune(plan)
    assert not any(os.path.lexists(each.path) for each in plan) and all(map(Path.exists, kept))
    assert plan_pruning() == ()
    assert [each.path for each in plan_pruning(0)] == [kept[2]], "and never another program's"


def test_a_download_that_another_process_holds_goes_on(home):
    root = home.parent / ".cache" / "huggingface" / "hub"
    half = put(root / "models--o--r" / "blobs" / "aa.localknobs.incomplete", b"x")
    lock = put(root / ".locks" / "models--o--r" / "aa.lock", b"")
    os.utime(half, (1, 1))
    holding = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert plan_pruning(0) == ()
        holder.stdin.close()
    assert [each.path for each in plan_pruning(0)] == [half]


def test_a_download_whose_journal_is_fresh_goes_on(home):
    blobs = home.parent / ".cache" / "huggingface" / "hub" / "models--o--r" / "blobs"
    old = put(blobs / "aa.localknobs.incomplete", b"x")
    put(blobs / "aa.localknobs-journal.incomplete", b"x")
    os.utime(old, (1, 1))
    assert plan_pruning() == ()


# ---- importing -----------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    put(folder / "one.gguf")
    for number in (1, 2):
        put(folder / "split" / f"big-0000{number}-of-00002.gguf", shard(number, 2))
    put(folder / "split" / "mmproj.gguf", projector())
    put(folder / "base" / "config.json", b"{}")
    put(folder / "base" / "tokenizer.json", b"{}")
    put(folder / "base" / "model.safetensors", safetensors({"w": (2, 2)}))
    put(folder / "notes.txt", b"x")
    return folder


def run(plan):
    job, events = import_models(plan), []
    while True:
        try:
            events.append(next(job))
        except StopIteration as end:
            return end.value, events


def test_a_place_is_remembered_and_forgotten_and_nothing_is_written_there(shelf):
    before = below(shelf)
    assert run(plan_import(shelf, "place"))[0] == () and extra_places() == [shelf]
    assert names() == ["base", "one", "split/big"] and below(shelf) == before
    with pytest.raises(BadValue, match="in the library already"):
        plan_import(shelf, "place")
    forget_place(shelf)
    assert names() == [] and extra_places() == [] and below(shelf) == before
    with pytest.raises(NotFound, match="list is empty"):
        forget_place(shelf)
    run(plan_import(shelf / "split" / "big-00002-of-00002.gguf", "place"))
    assert names() == ["big"], "any shard stands for its model"


@pytest.mark.parametrize("how", ["link", "hardlink", "copy"])
def test_a_folder_comes_with_everything_its_models_need(shelf, how):
    plan = plan_import(shelf, how)
    assert not models_folder().exists(), "a plan does nothing"
    made, events = run(plan)
    assert below(models_folder() / "shelf") == below(shelf) - {"notes.txt"}
    assert names() == ["shelf/base", "shelf/one", "shelf/split/big"]
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == plan.size_bytes
    assert [event.path for event in events if isinstance(event, Wrote)] == list(made)
    one = models_folder() / "shelf" / "one.gguf"
    assert one.is_symlink() == (how == "link") and one.samefile(shelf / "one.gguf") == (how != "copy")
    assert one.read_bytes() == (shelf / "one.gguf").read_bytes()
    for name in names():
        remove(plan_removal(find_entry(name)))
    assert below(models_folder()) == set() and (shelf / "base" / "model.safetensors").is_file()


def test_a_file_comes_with_its_shards(shelf):
    run(plan_import(shelf / "split" / "big-00002-of-00002.gguf", "copy"))
    assert below(models_folder()) == {"big-00001-of-00002.gguf", "big-00002-of-00002.gguf"} and names() == ["big"]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_stopped_anywhere_nothing_is_there(shelf, after):
    job = import_models(plan_import(shelf, "copy"))
    for _ in range(after + 1):
        next(job)
    job.close()
    assert below(models_folder()) == set()


def test_failing_at_the_last_file_nothing_is_there(shelf, monkeypatch):
    plan = plan_import(shelf, "copy")
    put(plan.files[-1][1], b"came in between")
    with pytest.raises(BadValue, match="exists by now"):
        run(plan)
    assert [file for file in models_folder().rglob("*") if file.is_file()] == [plan.files[-1][1]]


def test_what_cannot_be_imported_is_told_before_anything_is_written(shelf, tmp_path, monkeypatch):
    put(tmp_path / "torn.gguf", small_gguf()[:-1])
    put(tmp_path / "noname", small_gguf())
    put(tmp_path / "incomplete" / "big-00001-of-00002.gguf", shard(1, 2))
    put(tmp_path / "empty" / "notes.txt", b"x")
    own = put(models_folder() / "shelf" / "one.gguf")
    before = below(models_folder())
    for path, error, says in (
        ("torn.gguf", BadFile, "cut short"), ("noname", BadFile, "does not end in .gguf"),
        ("nowhere", NotFound, "There is no"), ("incomplete", BadFile, "missing: big-00002"),
        ("empty", BadFile, "holds no model"), ("shelf", BadValue, "exists already"),
    ):  # fmt: skip
        with pytest.raises(error, match=says):
            plan_import(tmp_path / path, "copy")
    for inside in (own, models_folder()):
        with pytest.raises(BadValue, match="in the library already"):
            plan_import(inside, "link")
    monkeypatch.setattr("localknobs.hardware._known_free_bytes", lambda folder: 10)
    with pytest.raises(NotEnough, match="10 B free"):
        plan_import(shelf / "split", "copy")
    plan_import(shelf / "split", "link")  # takes no room
    assert below(models_folder()) == before
