"""Downloads that meet damage, servers that misbehave, full disks: every byte right, or one line and nothing lost."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from fetching import events_of, leftovers, plan_of, stopped_after
from loopback_hub import COMMIT, Behaviour, Repo

from localknobs.errors import HubFailure, LocalknobsError, NotEnough, Offline
from localknobs.hub import transfer
from localknobs.hub.cache import CachedRepository
from localknobs.hub.download import download
from localknobs.hub.partial import Partial
from localknobs.hub.repository import open_repository
from localknobs.hub.source import retry_after
from localknobs.hub.spec import parse_spec
from localknobs.jobs import Advanced, Noted, drain

# ---- damage --------------------------------------------------------------------------------------


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


# ---- servers that misbehave ----------------------------------------------------------------------


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


# ---- disks and switches --------------------------------------------------------------------------


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
