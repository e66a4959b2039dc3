"""The cards of levers and knobs: searching, reading, turning what was found, and what was measured here."""

from __future__ import annotations

import pytest
from scripted_engine import until
from textual.widgets import Markdown, OptionList, Static

from localknobs.measured_effects import MeasuredEffect, remember_effects
from localknobs.tui.screens.cards import CardsScreen
from localknobs.tui.screens.chat import ChatScreen
from localknobs.tui.widgets.knob_row import KnobRow


async def cards(pilot) -> CardsScreen:
    await until(pilot, lambda: pilot.app.screen.query("#knob-temp"))
    await pilot.press("f10")
    await until(pilot, lambda: isinstance(pilot.app.screen, CardsScreen) and title(pilot.app.screen))
    return pilot.app.screen


def title(screen: CardsScreen) -> str:
    return str(screen.query_one("#title", Static).render())


def text(screen: CardsScreen) -> str:
    return screen.query_one(Markdown).source


async def test_a_lever_comes_first_with_its_four_boxes(opened):
    async with opened() as (pilot, _screen):
        screen = await cards(pilot)
        assert title(screen) == "Fine-tune"
        for question in ("What changes", "When", "Where it lives", "Trade-off", "What it costs", "How it fails"):
            assert f"**{question}:**" in text(screen)
        assert "Nothing yet" in text(screen)


async def test_a_search_finds_a_knob_by_its_flag_and_turns_it_in_the_chat(opened):
    async with opened() as (pilot, _screen):
        screen = await cards(pilot)
        await pilot.press("slash", *"-ctk", "enter")
        await until(pilot, lambda: "cache_type_k" in title(screen))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await until(pilot, lambda: isinstance(pilot.app.focused, KnobRow))
        assert pilot.app.focused.row.name == "cache_type_k"


async def test_the_card_says_what_was_measured_here_and_by_which_command(opened):
    remember_effects([
        MeasuredEffect(
            lever="decode", settings={"temp": "1.5"}, model="m[1]", against="temp 0", text="1 of 5 *alike*",
            command="localknobs determinism m -p Hi", when="2026-01-02T03:04:05+00:00",
        )
    ])  # fmt: skip
    async with opened() as (pilot, _screen):
        await until(pilot, lambda: pilot.app.screen.query("#knob-temp"))
        pilot.app.screen.query_one("#knob-temp", KnobRow).focus()
        screen = await cards(pilot)
        assert title(screen) == "temperature (temp)"
        assert "temp 1.5" in text(screen) and "`localknobs determinism m -p Hi`" in text(screen)
        assert "1 of 5 \\*alike\\*. (2026-01-02)" in text(screen)


@pytest.mark.parametrize("typed", ["[/]", "no such knob", "((("])
async def test_a_search_without_a_hit_says_so(opened, typed):
    async with opened() as (pilot, _screen):
        screen = await cards(pilot)
        await pilot.press("slash", *("space" if letter == " " else letter for letter in typed))
        await until(pilot, lambda: "Nothing" in title(screen))
        await pilot.press("escape")
        await until(pilot, lambda: screen.query_one(OptionList).option_count > 80)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
