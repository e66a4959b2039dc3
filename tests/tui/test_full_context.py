"""The status line: what the context holds and dropped, the one question when it is full, and how drafts go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from random_model import write_random_model
from scripted_engine import STATS, arrived, finished, until
from textual.widgets import Input, OptionList

from localknobs.conversations import Conversation
from localknobs.engine import ContextDropped, Finished, TextArrived
from localknobs.engine.events import draft_status
from localknobs.errors import ContextFull
from localknobs.knobs.overflow import DROPS
from localknobs.paths import models_folder
from localknobs.tui.screens.picker import Picker
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.status_line import meter_cells

SINKS = ContextDropped(
    policy="sinks", way="shift", held=((0, 400), (800, 1000)), dropped=((400, 800),), total=1000, at_token=3,
    dropped_tokens=400,
)  # fmt: skip
TURNS = ContextDropped(
    policy="turns", way="reread", held=((0, 700),), dropped=(), total=1000, at_token=0, dropped_tokens=300,
    dropped_turns=2,
)  # fmt: skip


async def choose(pilot, words: str) -> None:
    """Take the one choice that has these words."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Picker) and pilot.app.screen.query(OptionList))
    await pilot.pause()
    picker = pilot.app.screen
    picker.query_one(Input).value = words
    await until(pilot, lambda: picker.query_one(OptionList).option_count == 1)
    await pilot.press("enter")


def test_a_meter_shows_where_something_is_missing():
    assert "".join("#" if held else "." for held in meter_cells(SINKS, 10)) == "####....##"
    assert "".join("#" if held else "." for held in meter_cells(TURNS, 10)) == "...#######"
    assert meter_cells(replace(TURNS, total=0, dropped_tokens=0), 2) == [True, True]


async def test_what_was_dropped_is_on_the_meter_said_once_and_forgotten_with_the_conversation(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "long")
        await pilot.press("enter")
        scripted.engine.say(arrived("on and"), SINKS, arrived(" on"), replace(SINKS, dropped_tokens=500), finished())
        await until(pilot, lambda: screen.answer is None)
        line = str(screen.status.render())
        assert "━━━━╌╌╌╌━━" in line and "500 dropped" in line
        assert screen.conversation.branch()[-1].text == "on and on"
        said = [note.message for note in pilot.app._notifications if "context is full" in note.message]
        assert len(said) == 1 and "400 of 1,000 tokens" in said[0]
        await pilot.press("ctrl+n")
        await until(pilot, lambda: screen.status.dropped is None)
        assert "dropped" not in str(screen.status.render())


@pytest.mark.parametrize("choice, words", DROPS)
async def test_the_choice_what_shall_go_is_remembered_as_the_knob(opened, scripted, typed, choice, words):
    async with opened() as (pilot, screen):
        await typed(pilot, "too long")
        await pilot.press("enter")
        scripted.engine.say(ContextFull("The conversation has 2000 tokens, and the context holds 1024"))
        await choose(pilot, words)
        await until(pilot, lambda: len(scripted.engine.asked) == 2)
        assert scripted.engine.settings.context_full == choice and len(scripted.engines) == 1
        assert screen.query_one("#knob-context_full", KnobRow).value == choice
        scripted.engine.answer("it goes on")
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)


async def test_an_answer_that_was_cut_goes_on_where_it_was(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "long")
        await pilot.press("enter")
        scripted.engine.say(arrived("half of"), finished("context"))
        await choose(pilot, "recent window")
        await until(pilot, lambda: len(scripted.engine.asked) == 2)
        assert scripted.engine.asked[1]["continue_last"]
        scripted.engine.answer(" an answer")
        await until(pilot, lambda: screen.answer is None)
        assert screen.conversation.branch()[-1].text == "half of an answer"


@pytest.mark.parametrize(
    "draft, drafted, accepted, gain, shown",
    [
        ("none", 0, 0, 0.0, ""),
        ("auto", 0, 0, 0.0, "auto: no drafts"),
        ("auto", 10, 7, 1.4, "auto: drafts 70% 1.40x"),
        ("ngram", 10, 0, 0.0, "drafts 0%"),
    ],
)
def test_how_drafts_do_in_few_words(draft, drafted, accepted, gain, shown):
    assert draft_status(draft, drafted, accepted, gain) == shown


async def test_drafts_are_in_the_status_line_and_under_the_answer(opened, scripted, typed):
    async with opened() as (pilot, screen):
        screen.query_one("#knob-draft", KnobRow).change("auto")
        await pilot.pause()
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(TextArrived("hi", 2, 14, 250.0, 10, 7))
        await until(pilot, lambda: "auto: drafts 70%" in str(screen.status.render()))
        stats = replace(STATS, drafted_tokens=20, accepted_tokens=15, drafted_by=("ngram",), draft_gain=1.3)
        scripted.engine.say(Finished("end", stats))
        await until(pilot, lambda: screen.answer is None)
        assert scripted.engine.settings.draft == "auto"
        assert "auto: drafts 75% 1.30x" in str(screen.status.render())
        assert "drafts 75% 1.30x" in str(screen.transcript.views[-1].query_one(".foot").render())


async def test_a_draft_model_is_chosen_from_the_library_and_means_auto(opened, scripted, home):
    folder = models_folder()
    folder.mkdir(parents=True)
    write_random_model(folder / "small.gguf")
    async with opened() as (pilot, screen):
        screen.query_one("#knob-model_draft", KnobRow).action_open()
        await choose(pilot, "small")
        await until(pilot, lambda: screen.load_values["model_draft"])
        assert screen.load_values["model_draft"] == str(folder / "small.gguf")
        await until(pilot, lambda: screen.load_values["draft"] == "auto")
        await pilot.press("ctrl+l")
        await until(pilot, lambda: len(scripted.engines) == 2 and screen.bridge.ready)
        assert scripted.engine.settings.model_draft == str(folder / "small.gguf")
        screen.query_one("#knob-model_draft", KnobRow).action_open()
        await choose(pilot, "nobody")
        await until(pilot, lambda: screen.load_values["model_draft"] == "")


async def test_a_conversation_that_is_left_keeps_its_cache_where_the_knob_says(opened, scripted, typed):
    async def answered(pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("hi")
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)

    async with opened() as (pilot, screen):
        await answered(pilot, screen)
        first = screen.conversation
        await pilot.press("ctrl+n")
        await until(pilot, lambda: screen.conversation is not first)
        await answered(pilot, screen)
        assert scripted.engine.parked == [], "off by default"
        screen.load_values["park_cache"] = "disk"
        scripted.engine.parking_note = "There is no room for it."
        second = screen.conversation.path.stem
        screen.open_conversation(Conversation(first.path))
        await until(pilot, lambda: len(scripted.engine.parked) == 2)
        assert scripted.engine.parked == [("save", second), ("restore", first.path.stem)]
        assert scripted.engine.settings.park_cache == "disk"
        await until(pilot, lambda: any("no room" in note.message for note in pilot.app._notifications))
    assert scripted.engine.parked[2:] == [("save", first.path.stem)], "on leaving the program too"
