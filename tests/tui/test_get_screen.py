"""The Get screen against a hub on loopback: search, files with their fit, downloads that are paused and go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from gguf_files import small_gguf
from loopback_hub import LoopbackHub, Repo
from random_model import write_random_model
from scripted_engine import PROCESS_S, until
from textual.message import Message
from textual.widgets import Static

from localknobs.tui.child_job import ChildJob, JobEnded
from localknobs.tui.downloads import Download
from localknobs.tui.screens.get import GetScreen, Searched
from localknobs.tui.widgets.list_table import ListTable


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        kinds = {"small-Q8_0.gguf": "Q8_0", "small-F16.gguf": "F16"}
        models = {name: write_random_model(tmp_path / name, kind=kind).read_bytes() for name, kind in kinds.items()}
        hub.repos["maker/small-GGUF"] = Repo(dict(models))
        hub.repos["maker/large-GGUF"] = Repo({"large-Q8_0.gguf": small_gguf() + random.Random(1).randbytes(24 * 2**20)})
        yield hub


async def get(pilot) -> GetScreen:
    await pilot.press("f12")
    await until(pilot, lambda: isinstance(pilot.app.screen, GetScreen))
    return pilot.app.screen


def rows(screen: GetScreen, table: str) -> list[list[str]]:
    shown = screen.query_one(f"#{table}", ListTable)
    return [[str(cell) for cell in shown.get_row_at(row)] for row in range(shown.row_count)]


def said(screen: GetScreen) -> str:
    return " ".join(str(screen.query_one("#advice", Static).render()).split())


def asked_bytes(hub: LoopbackHub, after: int) -> int:
    """Return how many bytes the requests to the store asked for, those before `after` left out."""
    ranges = [str(one.headers["Range"]).removeprefix("bytes=").split("-") for one in hub.of("store")[after:]]
    return sum(int(last) - int(first) + 1 for first, last in ranges)


waits = partial(until, seconds=PROCESS_S)


async def test_searching_opening_and_fetching_ends_in_a_chat(opened, hub, scripted, typed, tmp_path):
    async with opened() as (pilot, screen):
        found = await get(pilot)
        await typed(pilot, "small")
        await pilot.press("enter")
        await waits(pilot, lambda: rows(found, "repositories"))
        assert [row[2] for row in rows(found, "repositories")] == ["maker/small-GGUF"]
        await pilot.press("enter")
        await waits(pilot, lambda: len(rows(found, "files")) == 2)
        await waits(pilot, lambda: any(row[2] == "yes" for row in rows(found, "files")), "the verdict")
        found.query_one("#files", ListTable).mark("small-F16.gguf")
        await pilot.press("enter")
        await waits(pilot, lambda: [row[-1] for row in rows(found, "queue")] == ["done"], "the download")
        found.query_one("#queue", ListTable).focus()
        await pilot.press("t")
        await until(pilot, lambda: pilot.app.screen is screen and len(scripted.engines) == 2)
        assert scripted.engine.settings.model.name == "small-F16.gguf"
        assert (tmp_path / "hub-cache") in scripted.engine.settings.model.parents


async def test_a_download_goes_on_when_the_screen_is_left_and_after_a_pause(opened, hub, typed):
    hub.store.bytes_per_s = 1e6
    async with opened() as (pilot, screen):
        found = await get(pilot)
        await typed(pilot, "maker/large-GGUF")
        await pilot.press("enter")
        await waits(pilot, lambda: rows(found, "files"))
        await pilot.press("enter")
        one = pilot.app.downloads.items[0]
        await waits(pilot, lambda: one.done_bytes > one.total_bytes // 4, "a good part of it")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert one.state == "running"
        again = await get(pilot)
        again.query_one("#queue", ListTable).focus()
        await pilot.press("p")
        await waits(pilot, lambda: one.job is None, "the end of its process")
        assert one.state == "paused" and 0 < one.done_bytes < one.total_bytes
        hub.store.bytes_per_s, before = 0.0, len(hub.of("store"))
        await pilot.press("p")
        await waits(pilot, lambda: one.state == "done", "the rest")
        assert 0 < asked_bytes(hub, before) < one.total_bytes, "what was fetched is not fetched again"


async def test_what_is_not_there_is_said_and_nothing_is_fetched(opened, hub, typed):
    async with opened() as (pilot, _screen):
        found = await get(pilot)
        await typed(pilot, "maker/nothing")
        await pilot.press("enter")
        await waits(pilot, lambda: "maker/nothing" in said(found))
        assert not rows(found, "files") and not pilot.app.downloads.items


async def test_a_failed_download_says_why_and_can_be_tried_again(opened, hub, typed):
    async with opened() as (pilot, _screen):
        found = await get(pilot)
        await typed(pilot, "maker/large-GGUF")
        await pilot.press("enter")
        await waits(pilot, lambda: rows(found, "files"))
        gone = hub.repos["maker/large-GGUF"].files
        hub.repos["maker/large-GGUF"].files = {"README.md": b"nothing here any more"}
        await pilot.press("enter")
        one = pilot.app.downloads.items[0]
        await waits(pilot, lambda: one.state == "failed", "the failure")
        assert "large-Q8_0.gguf" in one.trouble
        hub.repos["maker/large-GGUF"].files = gone
        found.query_one("#queue", ListTable).focus()
        await pilot.press("p")
        await waits(pilot, lambda: one.state == "done", "the second try")


async def test_offline_is_said_at_once(opened, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with opened() as (pilot, _screen):
        found = await get(pilot)
        assert "HF_HUB_OFFLINE" in said(found)


async def test_an_older_search_that_is_answered_later_is_not_shown(opened, hub, typed):
    async with opened() as (pilot, _screen):
        found = await get(pilot)
        await typed(pilot, "small")
        await pilot.press("enter")
        await waits(pilot, lambda: rows(found, "repositories"))
        found.post_message(Searched("sma", []))
        await pilot.pause()
        assert [row[2] for row in rows(found, "repositories")] == ["maker/small-GGUF"]


async def test_what_was_taken_off_the_list_can_be_fetched_again_at_once(opened, hub, typed):
    hub.store.bytes_per_s = 1e6
    async with opened() as (pilot, _screen):
        found = await get(pilot)
        await typed(pilot, "maker/large-GGUF")
        await pilot.press("enter")
        await waits(pilot, lambda: rows(found, "files"))
        await pilot.press("enter")
        first = pilot.app.downloads.items[0]
        await waits(pilot, lambda: first.done_bytes > 0, "its beginning")
        hub.store.bytes_per_s, queue = 0.0, pilot.app.downloads
        found.action_remove()
        assert not queue.items and first.job
        again = queue.add(Download(first.title, first.spec, first.revision, first.total_bytes))
        assert again is not first and again.state == "waiting", "the first one still holds the file's lock"
        await waits(pilot, lambda: again.state in ("done", "failed"), "the download")
        assert again.state == "done", again.trouble


async def test_a_job_that_was_stopped_keeps_nobody_waiting():
    ended: list[Message] = []
    job = ChildJob(["knobs"], ended.append)
    job.stop()
    deadline = job._deadline
    assert deadline and deadline.daemon, "a program that is left does not wait for it"
    for _ in range(200):
        if any(isinstance(message, JobEnded) for message in ended):
            break
        await asyncio.sleep(0.1)
    deadline.join(5)
    assert not deadline.is_alive(), "the job is over, and its deadline with it"
