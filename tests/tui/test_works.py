"""Long work that belongs to the program and not to a screen, and the menu of screens."""

from __future__ import annotations

import json

from scripted_engine import PROCESS_S, until

from localknobs.jobs import Noted, Started
from localknobs.tui.screens.models import ModelsScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.works import Work


async def ended(pilot, work: Work) -> None:
    await until(pilot, lambda: not work.active, "the end of the work", seconds=PROCESS_S)


async def test_a_verb_runs_on_while_screens_change_and_its_result_is_kept(opened):
    async with opened() as (pilot, _screen):
        app = pilot.app
        heard: list[tuple[str, object]] = []
        app.works.listen(lambda work, event: heard.append((work.state, event)))
        work = app.works.start("ls", "the list", ["ls", "--json"])
        await pilot.press("f3")
        await ended(pilot, work)
        assert work.state == "done" and "built-in" in json.loads(work.output)["models"][0]["name"]
        assert app.works.latest("ls") is work and work.seconds > 0
        assert heard[0] == ("running", None) and heard[-1] == ("done", None)
        app.works.remove(work)
        assert app.works.items == []


async def test_a_failure_says_why_on_whatever_screen_is_shown(opened):
    async with opened() as (pilot, _screen):
        work = pilot.app.works.start("show", "a look", ["show", "no-such-model"])
        await ended(pilot, work)
        assert work.state == "failed" and "no-such-model" in work.error
        await until(pilot, lambda: any("no-such-model" in one.message for one in pilot.app._notifications))


async def test_work_that_is_stopped_says_so(opened):
    async with opened() as (pilot, _screen):
        works = pilot.app.works
        work = works.start("eval", "built-in", ["eval", "built-in", "--suite", "ppl", "--json"])
        await until(pilot, lambda: work.events, "its first event", seconds=PROCESS_S)
        works.stop(work)
        assert work.state == "stopping"
        works.remove(work)
        assert works.items == [work]  # what runs stays on the list
        await ended(pilot, work)
        assert work.state == "stopped"


def test_events_become_a_stage_with_a_share():
    work = Work("eval", "x", ("eval",))
    work.hear(Started("reading", 200, "tokens", done=50))
    assert work.share == 0.25
    work.hear(Noted("careful"))
    assert work.notes == ["careful"] and work.left_s is None


async def test_the_menu_goes_to_a_screen(opened):
    async with opened() as (pilot, _screen):
        await pilot.press("f7")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press(*"models", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
