"""The Jobs screen: what runs and what ran in one list, and what can be done with it."""

from __future__ import annotations

import json
from pathlib import Path

from scripted_engine import PROCESS_S, until
from textual.widgets import Static

from localknobs.jobs import Advanced, Started, Wrote
from localknobs.tui.downloads import Download
from localknobs.tui.screens.context import ContextScreen
from localknobs.tui.screens.forge import ForgeScreen
from localknobs.tui.screens.jobs import JobsScreen
from localknobs.tui.widgets.list_table import ListTable
from localknobs.tui.work_text import progress_text, summary_text
from localknobs.tui.works import Work


async def jobs(pilot) -> JobsScreen:
    await pilot.press("alt+j")
    await until(pilot, lambda: isinstance(pilot.app.screen, JobsScreen))
    return pilot.app.screen


def rows(screen: JobsScreen) -> list[list[str]]:
    table = screen.query_one(ListTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def details(screen: JobsScreen) -> str:
    return str(screen.query_one("#about", Static).render())


async def test_an_empty_list_says_what_will_be_in_it(opened):
    async with opened() as (pilot, screen):
        shown = await jobs(pilot)
        assert rows(shown) == [] and "Nothing runs" in details(shown)
        await pilot.press("s", "r", "x", "t", "y", "enter")
        assert pilot.app.screen is shown
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)


async def test_work_is_stopped_run_again_and_taken_off(opened):
    async with opened() as (pilot, _screen):
        words = ["eval", "built-in", "--suite", "ppl", "-t", "1", "--json"]
        work = pilot.app.works.start("eval", "measuring built-in", words)
        shown = await jobs(pilot)
        await until(pilot, lambda: work.events, "its first event", seconds=PROCESS_S)
        assert rows(shown)[0][0] == "measuring built-in" and "--suite ppl" in details(shown)
        await pilot.press("x")
        assert pilot.app.works.items == [work], "what runs is not taken off"
        await pilot.press("s")
        await until(pilot, lambda: not work.active, "the end", seconds=PROCESS_S)
        await until(pilot, lambda: rows(shown)[0][1] == "stopped")
        await pilot.press("r")
        await until(pilot, lambda: len(rows(shown)) == 2)
        again = pilot.app.works.items[0]
        assert again.arguments == work.arguments and again.active
        pilot.app.works.stop(again)
        await until(pilot, lambda: not again.active, "the end", seconds=PROCESS_S)
        await until(pilot, lambda: [row[1] for row in rows(shown)] == ["stopped", "stopped"])
        await pilot.press("x")
        await until(pilot, lambda: len(rows(shown)) == 1)


async def test_a_failure_says_why_and_the_command_is_copied(opened):
    async with opened() as (pilot, _screen):
        work = pilot.app.works.start("show", "a look", ["show", "no such model"])
        shown = await jobs(pilot)
        await until(pilot, lambda: not work.active, seconds=PROCESS_S)
        await until(pilot, lambda: rows(shown)[0][1] == "failed")
        assert "There is no model" in details(shown)
        await pilot.press("y")
        assert pilot.app.clipboard == "localknobs show 'no such model'"
        await pilot.press("enter")
        assert pilot.app.screen is shown, "a verb without a screen"


async def test_the_file_a_job_made_is_chatted_with_and_its_screen_is_gone_to(opened, scripted, tmp_path):
    async with opened() as (pilot, screen):
        target = tmp_path / "longer.gguf"
        words = ["context", "built-in", "--target-ctx", "2048", "-o", str(target), "--json"]
        work = pilot.app.works.start("context", target.name, words)
        shown = await jobs(pilot)
        await until(pilot, lambda: not work.active, seconds=PROCESS_S)
        await until(pilot, lambda: str(target) in details(shown))
        await until(pilot, lambda: rows(shown)[0][1] == "done")
        assert json.loads(work.output)["written"]
        await pilot.press("t")
        await until(pilot, lambda: pilot.app.screen is screen and len(scripted.engines) == 2)
        assert scripted.engine.settings.model == target
        await jobs(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ContextScreen))


async def test_a_file_that_is_no_model_is_not_chatted_with(opened, scripted, tmp_path):
    async with opened() as (pilot, _screen):
        (tmp_path / "x.gguf").write_bytes(b"not one")
        work = Work("quantize", "x", ("quantize", "x", "Q8_0"), state="done")
        work.hear(Wrote(tmp_path / "x.gguf"))
        pilot.app.works.items.append(work)
        shown = await jobs(pilot)
        await until(pilot, lambda: rows(shown))
        await pilot.press("t")
        await until(pilot, lambda: pilot.app._notifications)
        assert pilot.app.screen is shown and len(scripted.engines) == 1
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))


async def test_downloads_are_in_the_list_and_are_paused_and_gone_on_with(opened, monkeypatch):
    async with opened() as (pilot, _screen):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # it fails at once, in words
        one = pilot.app.downloads.add(Download("maker/small Q8_0", "maker/small/f.gguf", "0" * 40, 2**20))
        shown = await jobs(pilot)
        await until(pilot, lambda: one.state == "failed", seconds=PROCESS_S)
        await until(pilot, lambda: rows(shown)[0][1] == "failed")
        assert "ffline" in details(shown)
        await pilot.press("r")
        await until(pilot, lambda: one.state in ("running", "failed") and rows(shown))
        await until(pilot, lambda: one.state == "failed", seconds=PROCESS_S)
        await pilot.press("x")
        await until(pilot, lambda: not rows(shown))


def test_progress_and_summary_as_text():
    work = Work("quantize", "x", ("quantize",))
    assert progress_text(work) == "starting …" and summary_text([work], []) == "1 job: starting …"
    work.hear(Started("quantizing", 200, "bytes"))
    work.hear(Advanced(80))
    assert "quantizing" in progress_text(work) and " 40%" in progress_text(work)
    other = Work("eval", "y", ("eval",))
    other.hear(Started("reading", 10, "tokens", done=5))
    assert summary_text([work, other], []) == "2 jobs: quantizing 40%, reading 50%"
    download = Download("z", "z", "", 100, state="running", done_bytes=10)
    assert summary_text([work], [download]) == "2 jobs: quantizing 40%, fetching 10%"
    done = Work("eval", "y", ("eval",), state="done", wrote=[Path("a")])
    assert summary_text([done], []) == ""
