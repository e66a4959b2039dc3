"""Downloads from a hub that is well, and from one that is not: every byte right, few fetched twice, nothing lost."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
from loopback_hub import COMMIT, Behaviour, LoopbackHub, Repo, git_blob_id

from localknobs.errors import HubFailure, LocalknobsError, NotEnough, Offline
from localknobs.hub import transfer
from localknobs.hub.cache import CachedRepository
from localknobs.hub.download import download
from localknobs.hub.partial import Partial, chunk_size, claimed_bytes
from localknobs.hub.plan import DownloadPlan, plan_download
from localknobs.hub.remote import remote_headers
from localknobs.hub.repository import open_repository
from localknobs.hub.source import Unreachable, retry_after
from localknobs.hub.spec import parse_spec
from localknobs.jobs import Advanced, JobEvent, Noted, Started, Wrote, drain


@pytest.fixture
def big(hub: LoopbackHub, cache: Path, noise: bytes) -> bytes:
    """Return the bytes of `maker/big/big.gguf`, 24 MiB."""
    hub.repos["maker/big"] = Repo({"big.gguf": noise, "notes.md": b"read me"})
    return noise


def plan_of(text: str, **choices: float) -> DownloadPlan:
    spec = parse_spec(text)
    return plan_download(open_repository(spec), spec, **choices)  # type: ignore[arg-type]


def events_of(job) -> tuple[list[JobEvent], Path]:
    events: list[JobEvent] = []
    return events, drain(job, events.append)


def stopped_after(amount: int, plan: DownloadPlan) -> None:
    """Fetch until so many bytes are written, then stop, as a pause does."""
    job, done = download(plan), 0
    for event in job:
        done += event.amount if isinstance(event, Advanced) else 0
        if done >= amount:
            break
    job.close()


def leftovers(cache: Path) -> list[str]:
    return [file.name for file in cache.rglob("*.incomplete")]


# ---- all is well ----------------------------------------------------------------------------------


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


# ---- stopping and going on ------------------------------------------------------------------------


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


# ---- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush_bytes", [2**20, 2**30], ids=["flushed before", "not flushed yet"])
def test_a_part_damaged_on_disk_is_found_and_only_that_fetched_again(big, hub, cache, monkeypatch, flush_bytes):
    monkeypatch.setattr(transfer, "FLUSH_BYTES", flush_bytes)
    stopped_after(len(big) // 2, plan_of("maker/big"))
    partial = next(cache.rglob("*.localknobs.incomplete"))
    with partial.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xaa" * 10)
    events, path = events_of(download(plan_of("maker/big")))
    assert path.read_bytes() == big
    warnings = [event.text for event in events if isinstance(event, Noted) and event.level == "warning"]
    assert len(warnings) == 1 and "64.0 KiB of big.gguf were lost or damaged" in warnings[0]
    refetched = hub.sent_bytes - len(big)
    assert refetched <= 65536 + 8 * transfer.LEAST_SPAN, "one chunk, and what was under way at the pause"


def test_a_part_that_came_wrong_is_found_and_fetched_again(big, hub, cache):
    hub.store.spoil_at, hub.store.spoils = 5_000_000, 1
    events, path = events_of(download(plan_of("maker/big")))
    assert path.read_bytes() == big and leftovers(cache) == []
    assert any("does not have the hash" in event.text for event in events if isinstance(event, Noted))
    assert hub.sent_bytes < 1.5 * len(big), "the piece with the wrong byte, and those before it"


def test_a_server_whose_bytes_are_wrong_is_named_and_nothing_is_kept(big, hub, cache):
    hub.store.spoil_at = 5_000_000
    with pytest.raises(HubFailure, match=r"big\.gguf is not the file the hub announces: its hash is another"):
        drain(download(plan_of("maker/big")))
    assert leftovers(cache) == [] and not list(cache.rglob("snapshots")) and not list(cache.rglob("blobs/*"))


def test_a_small_file_with_another_hash_is_refused(hub, cache):
    hub.repos["maker/bad"] = Repo({"a.json": b"abc", "config.json": b"{}"}, claimed_hashes={"a.json": "0" * 40})
    with pytest.raises(HubFailure, match="its hash is another"):
        drain(download(plan_of("maker/bad/a.json")))


def test_a_file_that_changes_while_it_is_fetched_is_begun_anew(big, hub, cache, noise):
    hub.store.etag = "first"
    stopped_after(len(big) // 3, plan_of("maker/big"))
    hub.store.etag = "second"
    events, path = events_of(download(plan_of("maker/big")))
    assert path.read_bytes() == big
    assert any("another file now" in event.text for event in events if isinstance(event, Noted))


def test_a_file_of_another_size_is_not_taken(hub, cache, noise):
    hub.repos["maker/big"] = Repo({"big.gguf": noise[:5_000_000]})
    plan = plan_of("maker/big")
    hub.repos["maker/big"].files["big.gguf"] = noise[:5_000_001]
    with pytest.raises(HubFailure, match="another size"):
        drain(download(plan))


# ---- servers that misbehave -----------------------------------------------------------------------


def test_a_server_that_ignores_ranges_gives_one_stream_and_the_right_file(big, hub, cache):
    hub.store.ignores_ranges = True
    assert drain(download(plan_of("maker/big"))).read_bytes() == big
    assert hub.sent_bytes <= len(big) + 65536 and len(hub.of("store")) == 1


def test_a_server_that_ignores_ranges_and_breaks_off_still_ends_right(big, hub, cache):
    hub.store = Behaviour(ignores_ranges=True, drop_after=9_000_000, drops=2)
    assert drain(download(plan_of("maker/big"))).read_bytes() == big
    assert len(hub.of("store")) == 3


def test_a_server_that_stops_giving_ranges_half_way(big, hub, cache):
    stopped_after(len(big) // 2, plan_of("maker/big"))
    hub.store.ignores_ranges = True
    assert drain(download(plan_of("maker/big"))).read_bytes() == big


def test_connections_that_break_off_cost_few_bytes(big, hub, cache):
    hub.store = Behaviour(drop_after=700_000, drops=20)
    assert drain(download(plan_of("maker/big"))).read_bytes() == big
    assert hub.sent_bytes <= len(big) + 20 * 65536


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_busy_server_is_asked_again(big, hub, cache, status):
    hub.store.refuse = [(status, {})] * 3
    assert drain(download(plan_of("maker/big"))).read_bytes() == big


def test_retry_after_is_heeded_and_said(big, hub, cache):
    hub.store.refuse = [(429, {"Retry-After": "1"})]
    events, path = events_of(download(plan_of("maker/big")))
    assert path.read_bytes() == big
    assert any(isinstance(event, Noted) and "asks to wait 1 s" in event.text for event in events)


def test_an_hour_is_not_waited_for(big, hub, cache):
    hub.store.refuse = [(503, {"Retry-After": "3600"})]
    with pytest.raises(HubFailure, match="asks to wait 60 minutes"):
        drain(download(plan_of("maker/big")))


def test_retry_after_may_be_a_date():
    assert retry_after("") == retry_after("soon") == retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("7") == 7 and retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e6


def test_an_expired_address_is_asked_for_anew(big, hub, cache):
    hub.store.expire_after = 2
    assert drain(download(plan_of("maker/big"))).read_bytes() == big
    assert len([one for one in hub.of("hub") if "/resolve/" in one.path]) > 2


def test_a_server_that_is_gone_ends_in_one_line_and_keeps_what_came(big, hub, cache, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 1)
    plan = plan_of("maker/big")
    hub.store = Behaviour(drop_after=700_000, drops=4)
    job = download(plan)
    for event in job:
        if isinstance(event, Advanced):
            break
    hub.store.refuse = [(500, {})] * 1000
    with pytest.raises(HubFailure, match=r"big\.gguf cannot be fetched: it answers 500") as caught:
        drain(job)
    assert "kept" in caught.value.hint
    hub.store = Behaviour()
    assert plan_of("maker/big").missing_bytes < len(big)
    assert drain(download(plan_of("maker/big"))).read_bytes() == big


# ---- disks and switches ---------------------------------------------------------------------------


def test_a_name_that_the_disk_refuses_is_told_and_the_bytes_are_kept(big, hub, cache):
    in_the_way = cache / "models--maker--big" / "snapshots"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_bytes(b"a file where the folder belongs")
    with pytest.raises(LocalknobsError, match="cannot be written.*what was fetched is kept"):
        drain(download(plan_of("maker/big")))
    in_the_way.unlink()
    asked = len(hub.of("store"))
    assert drain(download(plan_of("maker/big"))).read_bytes() == big and len(hub.of("store")) == asked


def test_a_flush_that_finds_the_disk_full_is_told(big, cache, monkeypatch):
    def full(_self: Partial) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "FLUSH_BYTES", 2**20)
    monkeypatch.setattr(Partial, "flush", full)
    with pytest.raises(NotEnough, match="disk is full"):
        drain(download(plan_of("maker/big")))


def test_a_full_disk_is_told_beforehand(big, monkeypatch):
    plan = plan_of("maker/big")
    monkeypatch.setattr("localknobs.hardware._known_free_bytes", lambda _folder: 1000)
    with pytest.raises(NotEnough, match="1,000 B free") as caught:
        drain(download(plan))
    assert "HF_HUB_CACHE" in caught.value.hint and caught.value.needed_bytes == len(big)


def test_a_disk_that_fills_up_keeps_what_came(big, cache, monkeypatch):
    written = [0]
    true_pwrite = os.pwrite

    def pwrite(file, data, at):
        written[0] += len(data)
        if written[0] > 3_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return true_pwrite(file, data, at)

    plan = plan_of("maker/big")
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(NotEnough, match="disk is full"):
        drain(download(plan))
    monkeypatch.setattr(os, "pwrite", true_pwrite)
    assert 2_000_000 < len(big) - plan_of("maker/big").missing_bytes <= 3_000_000
    assert drain(download(plan_of("maker/big"))).read_bytes() == big


def test_a_cache_that_cannot_be_written_is_named(big, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(LocalknobsError, match="cannot be written") as caught:
        drain(download(plan_of("maker/big")))
    assert "HF_HUB_CACHE" in caught.value.hint


def test_offline_nothing_is_asked(big, hub, monkeypatch):
    plan = plan_of("maker/big")
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    for work in (lambda: drain(download(plan)), lambda: plan_of("maker/big")):
        with pytest.raises(Offline, match="HF_HUB_OFFLINE is set"):
            work()
    assert len(hub.asked) == asked


def test_the_cache_is_where_the_variables_say(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CachedRepository("a/b").folder == tmp_path / ".cache/huggingface/hub/models--a--b"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert CachedRepository("a/b").root == Path("/xdg/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert CachedRepository("a/b").root == tmp_path / "hf/hub"
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", "/old")
    assert CachedRepository("a/b").root == Path("/old")
    monkeypatch.setenv("HF_HUB_CACHE", "/new")
    assert CachedRepository("a/b").root == Path("/new")


def test_a_connection_that_falls_silent_is_made_again(big, hub, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    hub.store.stall = threading.Event()
    job = download(plan_of("maker/big"))
    for _ in job:
        if len(hub.of("store")) > transfer.CONNECTIONS:  # each has been asked once, and one again
            hub.store.stall.set()
            break
    assert drain(job).read_bytes() == big


def test_names_that_would_leave_the_cache_are_passed_over(hub, cache):
    hub.repos["maker/evil"] = Repo({"../../out.gguf": b"x", "/abs.gguf": b"x", "a\x1b[2J.gguf": b"x", "ok.gguf": b"x"})
    assert [file.path for file in open_repository(parse_spec("maker/evil")).files] == ["ok.gguf"]
    hub.repos["maker/evil"].commit = "../../../../out"
    with pytest.raises(HubFailure, match="says nothing of the files"):
        open_repository(parse_spec("maker/evil"))
    hub.repos["maker/evil"].commit = COMMIT
    hub.repos["maker/evil"].claimed_hashes["ok.gguf"] = "../../out"
    with pytest.raises(HubFailure, match="names no hash"):
        drain(download(plan_of("maker/evil")))


# ---- headers of files that are not here -----------------------------------------------------------


def test_a_header_is_read_by_a_few_ranges(hub, cache, noise):
    from gguf_files import ARRAY, TEXT, U32, gguf_bytes, gguf_key

    words = [f"token number {number}" for number in range(150_000)]
    keys = [
        gguf_key("general.architecture", TEXT, "llama"),
        gguf_key("tokenizer.ggml.tokens", ARRAY, words, TEXT),
        gguf_key("llama.context_length", U32, 4096),
    ]
    data = gguf_bytes(keys, {"token_embd.weight": ((32, 4), 0, 0)}, data=b"\0" * 512)
    hub.repos["maker/wordy"] = Repo({"wordy.gguf": data + noise})
    for ignores in (False, True):
        hub.asked.clear()
        hub.store = Behaviour(ignores_ranges=ignores)
        beginnings: dict[str, bytes] = {}
        plan = plan_of("maker/wordy")
        (header,) = remote_headers(plan.files[0], beginnings)
        assert header.architecture == "llama" and header.context_trained == 4096
        assert len(hub.of("store")) <= 6, "few requests"
        begun = beginnings["wordy.gguf"]
        assert (data + noise).startswith(begun) and len(begun) >= len(data) - 1000
    before = hub.sent_bytes
    hub.store = Behaviour()
    assert drain(download(plan, beginnings)).read_bytes() == data + noise
    assert hub.sent_bytes - before < len(noise) + 3 * 2**20, "what the header took is not fetched again"


def test_the_headers_of_shards_come_together(hub, cache):
    plan = plan_of("maker/small-GGUF:UD-IQ1_S")
    assert [header.path.name for header in remote_headers(plan.files[0])] == [
        f"small-UD-IQ1_S-0000{number}-of-00002.gguf" for number in (1, 2)
    ]


def test_a_header_that_cannot_be_had(hub, cache):
    plan = plan_of("maker/small-GGUF")
    hub.store.refuse = [(500, {})] * 3
    with pytest.raises(Unreachable, match="it answers 500"):
        remote_headers(plan.files[0])
    hub.store.refuse = [(500, {})] * 2
    assert remote_headers(plan.files[0])[0].architecture == "llama"
