"""Downloads from a hub that is well, and what a pause or a power cut leaves: every byte right, few fetched twice."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from fetching import events_of, leftovers, plan_of, stopped_after
from loopback_hub import COMMIT, Repo, git_blob_id

from localknobs.errors import HubFailure
from localknobs.hub.download import download
from localknobs.hub.partial import Partial, chunk_size, claimed_bytes
from localknobs.hub.plan import plan_download
from localknobs.hub.repository import open_repository
from localknobs.hub.spec import parse_spec
from localknobs.jobs import Advanced, Started, Wrote, drain

# ---- all is well ---------------------------------------------------------------------------------


def test_the_file_lies_where_other_programs_look_for_it(big, cache):
    events, path = events_of(download(plan_of("maker/big")))
    assert path.read_bytes() == big
    digest = hashlib.sha256(big).hexdigest()
    folder = cache / "models--maker--big"
    assert path == folder / "snapshots" / COMMIT / "big.gguf"
    assert path.is_symlink() and not os.path.isabs(os.readlink(path)) and path.resolve() == folder / "blobs" / digest
    assert (folder / "refs" / "main").read_text() == COMMIT
    assert leftovers(cache) == [] and sorted(os.listdir(folder)) == ["blobs", "refs", "snapshots"]
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == len(big)
    assert events[0] == Started("fetching big.gguf", len(big), "bytes") and events[-1] == Wrote(path)


def test_huggingface_hub_finds_it_without_a_connection(big, cache, hub):
    path = drain(download(plan_of("maker/big")))
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    asked = len(hub.asked)
    assert try_to_load_from_cache("maker/big", "big.gguf", cache_dir=cache) == str(path)
    report = scan_cache_dir(cache)
    assert [repo.repo_id for repo in report.repos] == ["maker/big"] and report.warnings == []
    assert len(hub.asked) == asked


def test_what_huggingface_hub_fetched_is_not_fetched_again(big, cache, hub):
    from huggingface_hub import hf_hub_download

    theirs = hf_hub_download("maker/big", "big.gguf", endpoint=hub.address, cache_dir=cache, token=False)
    before = hub.sent_bytes
    assert plan_of("maker/big").missing_bytes == 0
    assert drain(download(plan_of("maker/big"))) == Path(theirs)
    assert hub.sent_bytes == before


def test_several_connections_fetch_each_byte_once(big, hub):
    drain(download(plan_of("maker/big")))
    assert hub.sent_bytes == len(big)
    ranges = [one.headers["Range"] for one in hub.of("store")]
    assert len(ranges) == len(set(ranges)) > 4
    assert len([one for one in hub.of("hub") if "/resolve/" in one.path]) == 1, "the signed address is used again"


def test_a_small_file_is_proved_by_gits_own_hash(big, cache, hub):
    path = drain(download(plan_of("maker/big/notes.md")))
    assert path.read_bytes() == b"read me" and path.resolve().name == git_blob_id(b"read me")


def test_an_empty_file_needs_no_request(cache, hub):
    hub.repos["maker/empty"] = Repo({"config.json": b"", "model.safetensors": b"x"}, tags=("safetensors",))
    folder = drain(download(plan_of("maker/empty")))
    assert (folder / "config.json").read_bytes() == b"" and (folder / "model.safetensors").read_bytes() == b"x"


def test_a_checkpoint_comes_as_a_folder(cache, hub):
    files = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"w" * 5000, "tf_model.h5": b"no"}
    hub.repos["maker/raw"] = Repo(files, tags=("safetensors",))
    folder = drain(download(plan_of("maker/raw")))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: data for name, data in files.items() if name != "tf_model.h5"
    }


def test_shards_come_together_and_the_projector_on_request(cache, hub):
    spec = parse_spec("maker/small-GGUF/UD-IQ1_S")
    plan = plan_download(open_repository(spec), spec, projector=True)
    path = drain(download(plan))
    assert path.name == "small-UD-IQ1_S-00001-of-00002.gguf"
    assert (path.parent / "small-UD-IQ1_S-00002-of-00002.gguf").is_file()
    assert (path.parent.parent / "mmproj-F16.gguf").is_file()


def test_without_links_the_file_itself_lies_in_the_snapshot(big, cache, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    path = drain(download(plan_of("maker/big")))
    assert not path.is_symlink() and path.read_bytes() == big
    before = hub.sent_bytes
    assert drain(download(plan_of("maker/big"))) == path and hub.sent_bytes == before


def test_a_hub_that_redirects_nowhere_serves_as_well(big, hub):
    hub.redirects = False
    assert drain(download(plan_of("maker/big"))).read_bytes() == big


def test_a_limited_rate_is_kept(hub, cache):
    hub.repos["maker/slow"] = Repo({"slow.gguf": b"s" * 600_000})
    from time import monotonic

    began = monotonic()
    drain(download(plan_of("maker/slow", rate_limit=1_000_000)))
    assert monotonic() - began >= 0.5, "600 kB at 1 MB/s"


# ---- stopping and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_paused_download_goes_on_where_it_was(big, hub, cache, share):
    stopped_after(int(len(big) * share), plan_of("maker/big"))
    partial = leftovers(cache)
    assert len(partial) == 2 and not list(cache.rglob("snapshots"))
    plan = plan_of("maker/big")
    assert len(big) * share <= len(big) - plan.missing_bytes < len(big)
    before = hub.sent_bytes
    events, path = events_of(download(plan))
    assert path.read_bytes() == big and leftovers(cache) == []
    assert events[0] == Started("fetching big.gguf", len(big), "bytes", done=len(big) - plan.missing_bytes)
    assert sum(event.amount for event in events if isinstance(event, Advanced)) == plan.missing_bytes
    assert hub.sent_bytes - before == plan.missing_bytes


def test_a_pause_does_not_wait_for_a_silent_server(big, hub, cache):
    hub.store.stall = threading.Event()
    job = download(plan_of("maker/big"))
    for event in job:
        if isinstance(event, Advanced) and event.amount == 0:  # nothing comes any more, and yet we are asked
            break
    before = threading.active_count()
    job.close()
    assert threading.active_count() < before, "the threads that were reading have ended"
    hub.store.stall.set()


def test_two_at_once_do_not_disturb_each_other(big, hub, cache):
    hub.store.stall = threading.Event()
    first = download(plan_of("maker/big"))
    for event in first:
        if isinstance(event, Advanced):
            break
    with pytest.raises(HubFailure, match="being fetched by another process"):
        drain(download(plan_of("maker/big")))
    hub.store.stall.set()
    assert drain(first).read_bytes() == big


def test_a_power_cut_takes_only_what_was_not_flushed(tmp_path):
    """The journal came to the disk, the bytes after the last mark did not: as a file system may do it."""
    size, chunk = 10 * 65536, 65536
    assert chunk_size(size) == chunk
    file, journal = tmp_path / "file", tmp_path / "journal"
    partial = Partial(file, journal, size, {})
    for at in range(3):
        partial.write(at, bytes([at]) * chunk)
    partial.flush()
    for at in range(3, 6):
        partial.write(at, bytes([at]) * chunk)
    partial.close()
    assert claimed_bytes(file, journal, size) == 6 * chunk
    with file.open("r+b") as handle:
        handle.seek(4 * chunk)
        handle.write(b"\0" * chunk)
    again = Partial(file, journal, size, {})
    assert again.missing() == [4, 6, 7, 8, 9]
    again.close()


def test_a_torn_or_foreign_journal_is_not_believed(tmp_path):
    size, chunk = 4 * 65536, 65536
    file, journal = tmp_path / "file", tmp_path / "journal"
    partial = Partial(file, journal, size, {})
    partial.write(0, b"a" * chunk)
    partial.write(1, b"b" * chunk)
    partial.close()
    journal.write_bytes(journal.read_bytes()[:-10])
    again = Partial(file, journal, size, {})
    assert again.missing() == [1, 2, 3]
    again.close()
    other = Partial(file, journal, size + 1, {})
    assert other.missing() == [0, 1, 2, 3, 4]
    other.close()
    journal.write_bytes(
        b'{"format": 1, "size": 262144, "chunk": 65536}\n{"chunk": 99, "line": 0, "hash": "zz"}\n[1]\n\xff\n'
    )
    rubbish = Partial(file, journal, size, {})
    assert rubbish.missing() == [0, 1, 2, 3]
    rubbish.close()


def test_progress_of_a_version_that_cut_otherwise_counts(big, cache):
    with pytest.MonkeyPatch.context() as other:
        other.setattr("localknobs.hub.partial.SMALLEST_CHUNK", 2**19)
        stopped_after(len(big) // 2, plan_of("maker/big"))
    plan = plan_of("maker/big")
    assert plan.missing_bytes <= len(big) // 2
    assert drain(download(plan)).read_bytes() == big
