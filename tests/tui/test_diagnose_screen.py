"""The Diagnose screen: real probes in child processes, with the chat's own knobs, and what is done about a finding."""

from __future__ import annotations

import json
from functools import partial

import pytest
from scripted_engine import PROCESS_S, until
from textual.widgets import Input

from localknobs.diagnose import SYMPTOMS
from localknobs.jobs import Found
from localknobs.tui.screens.diagnose import DiagnoseScreen
from localknobs.tui.screens.measure import MeasureScreen
from localknobs.tui.works import Work

waits = partial(until, seconds=PROCESS_S)


async def diagnose(pilot) -> DiagnoseScreen:
    await pilot.press("alt+s")
    await until(pilot, lambda: isinstance(pilot.app.screen, DiagnoseScreen) and pilot.app.screen.query("#symptoms"))
    await pilot.pause()
    return pilot.app.screen


def mark(screen: DiagnoseScreen, key: str) -> None:
    screen.query_one("#symptoms").mark(key)


def text(screen: DiagnoseScreen, place: str = "#words") -> str:
    return str(screen.query_one(place).render())


def finding(screen: DiagnoseScreen, key: str) -> str:
    return str(screen.query_one("#symptoms").get_row(key)[2])


def told(screen: DiagnoseScreen, key: str, verdict: str = "confirmed", *remedies: dict, **fields) -> None:
    """Put a finding into the session, as if its probe had just ended."""
    found = {"symptom": key, "verdict": verdict, "text": "9 of 10.", "numbers": {"share": 0.9}, "remedies": remedies,
             "command": "", **fields}  # fmt: skip
    work = Work("diagnose", key, tuple(screen._arguments(key)), state="done", output=json.dumps(found))
    screen.app.works.items.insert(0, work)
    screen._gather()


async def test_a_prompt_is_counted_with_the_models_and_the_chats_settings(opened):
    async with opened() as (pilot, chat):
        chat.sampler.set("temp", 1.5)
        chat.load_values["n_ctx"] = 512
        screen = await diagnose(pilot)
        assert screen._arguments("slow")[:3] == ["diagnose", "slow", "built-in"]
        assert screen._arguments("slow")[-5:] == ["--temp", "1.5", "-c", "512", "--json"]
        mark(screen, "long-prompt")
        await until(pilot, lambda: "Enter probes it" in text(screen))
        screen.query_one("#prompt", Input).value = "-a prompt that begins with a dash"
        await pilot.press("enter")
        work = pilot.app.works.latest("diagnose")
        await waits(pilot, lambda: not work.active, "the probe")
        assert work.state == "done", work.error
        assert finding(screen, "long-prompt") == "not confirmed" and "It fits" in text(screen)
        assert "prompt_tokens" in text(screen) and "localknobs context built-in" in text(screen)
        screen.query_one("#prompt", Input).value = "another"
        await until(pilot, lambda: finding(screen, "long-prompt") == "", "a finding of another prompt is not shown")


@pytest.mark.slow
async def test_every_symptom_is_probed_in_one_go_and_what_is_stopped_keeps_the_rest(opened):
    async with opened() as (pilot, chat):
        await diagnose(pilot)
        await pilot.press("p")
        work = pilot.app.works.latest("diagnose")
        await waits(pilot, lambda: any("does not fit" in getattr(one, "what", "") for one in work.events), "the third")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is chat)
        assert work.active
        again = await diagnose(pilot)
        await pilot.press("ctrl+x")
        await waits(pilot, lambda: not work.active, "its end")
        assert work.state == "stopped"
        await until(pilot, lambda: finding(again, "niche") == "open" and finding(again, "slow") == "not confirmed")
        assert finding(again, "facts") == ""


async def test_findings_of_all_symptoms_are_shown_one_by_one(opened):
    async with opened() as (pilot, _chat):
        screen = await diagnose(pilot)
        work = Work("diagnose", "all", tuple(screen._arguments("all")))
        pilot.app.works.items.insert(0, work)
        fields = {"text": "9 of 10.", "numbers": {}, "remedies": [], "command": ""}
        for symptom, verdict in (("slow", "confirmed"), ("loops", "rejected")):
            assert finding(screen, symptom) == ""
            work.hear(event := Found({"symptom": symptom, "verdict": verdict, **fields}))
            pilot.app.works._tell(work, event)
            await until(pilot, lambda symptom=symptom: finding(screen, symptom) != "")
        assert (finding(screen, "slow"), finding(screen, "loops")) == ("confirmed", "not confirmed") and work.active


async def test_what_has_no_lever_says_so_and_is_not_probed(opened):
    async with opened() as (pilot, _chat):
        screen = await diagnose(pilot)
        mark(screen, "facts")
        await until(pilot, lambda: "no lever helps" in text(screen))
        await pilot.press("enter", "d")
        assert pilot.app.works.items == [] and pilot.app.screen is screen
        rows = [screen.query_one("#symptoms").get_row(row.key) for row in SYMPTOMS]
        assert all(
            str(row[1]) == (symptom.lever or "no lever helps") for row, symptom in zip(rows, SYMPTOMS, strict=True)
        )


async def test_a_remedy_turns_the_chats_knobs(opened, scripted):
    async with opened() as (pilot, chat):
        screen = await diagnose(pilot)
        mark(screen, "loops")
        await pilot.pause()
        command = "localknobs chat built-in --dry-multiplier 0.8 -c 768"
        order = list(chat.sampler.values["samplers"])  # as JSON has it
        remedy = {"text": "DRY", "command": command, "values": {"dry_multiplier": 0.8, "n_ctx": 768, "samplers": order}}
        told(screen, "loops", "confirmed", remedy)
        assert "Confirmed. 9 of 10." in text(screen) and screen.query_one("#remedies").display
        await pilot.press("d")
        await until(pilot, lambda: pilot.app.screen is chat)
        assert not any("order" in one.message for one in pilot.app._notifications), "what stays is not said"
        assert chat.sampler.values["samplers"] == tuple(order)
        assert chat.sampler.values["dry_multiplier"] == 0.8 and chat.load_values["n_ctx"] == 768
        await until(pilot, lambda: len(scripted.engines) == 2, "the model is loaded again with its new context")
        assert scripted.engine.settings.n_ctx == 768


async def test_a_remedy_opens_its_screen_and_a_command_without_one_is_copied(opened):
    async with opened() as (pilot, _chat):
        screen = await diagnose(pilot)
        mark(screen, "slow")
        await pilot.pause()
        verify = {"text": "compare", "command": "localknobs verify CHECKPOINT built-in", "values": {}}
        measure = {"text": "measure", "command": "localknobs eval built-in", "values": {}}
        own = {"text": "put it first", "command": "", "values": {}}
        told(screen, "slow", "confirmed", verify, own, measure)
        await pilot.press("d")
        assert pilot.app.screen is screen and pilot.app.clipboard == verify["command"]
        await pilot.press("tab", "tab", "down", "enter")
        assert pilot.app.screen is screen, "what is the user's to do is only said"
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MeasureScreen))


async def test_a_new_finding_leaves_the_marked_remedy_marked(opened):
    async with opened() as (pilot, _chat):
        screen = await diagnose(pilot)
        mark(screen, "slow")
        await pilot.pause()
        remedies = [{"text": f"remedy {at}", "command": "", "values": {}} for at in range(3)]
        told(screen, "slow", "confirmed", *remedies)
        screen.query_one("#remedies").move_cursor(row=2)
        told(screen, "loops", "confirmed", *remedies)
        await pilot.pause()
        assert screen._remedy["text"] == "remedy 2"
        mark(screen, "loops")
        await pilot.pause()
        assert screen._remedy["text"] == "remedy 0", "of another symptom the first is marked"


async def test_a_probe_that_fails_says_why(opened):
    async with opened() as (pilot, _chat):
        screen = await diagnose(pilot)
        screen.query_one("#tasks", Input).value = "nowhere.jsonl"
        await pilot.press("enter")
        await waits(pilot, lambda: "There is no file nowhere.jsonl" in text(screen, "#state"), "the reason")
