"""The screen that makes control vectors: a real job from two lists to a slider, and what is missing before that."""

from __future__ import annotations

from functools import partial

from scripted_engine import PROCESS_S, until
from textual.widgets import Input, Static, TextArea

from localknobs.paths import models_folder
from localknobs.steer.prompts import read_pairs, shipped_prompts
from localknobs.tui.screens.picker import Picker
from localknobs.tui.screens.steering import SteeringScreen, layers_text
from localknobs.tui.widgets.adapter_rows import AdapterRow

waits = partial(until, seconds=PROCESS_S)


async def steering(pilot) -> SteeringScreen:
    """Open it the way a user does."""
    await pilot.press("alt+a")
    await until(pilot, lambda: isinstance(pilot.app.screen, Picker), "the list")
    await pilot.press(*"make", "enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, SteeringScreen), "the screen")
    return pilot.app.screen


def state(screen: SteeringScreen) -> str:
    return str(screen.query_one("#state", Static).render())


def write(screen: SteeringScreen, more: str, less: str, name: str = "") -> None:
    screen.query_one("#positive", TextArea).load_text(more)
    screen.query_one("#negative", TextArea).load_text(less)
    screen.query_one("#name", Input).value = name


async def test_two_lists_become_a_slider(opened, scripted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with opened() as (pilot, screen):
        made = await steering(pilot)
        write(made, "what is love\n\nwhy do dogs bark", "what is a token\nwhat is pruning\n", "unsure")
        await until(pilot, lambda: "2 pairs. Ctrl+S makes unsure.gguf." in state(made))
        await pilot.press("ctrl+s")
        await waits(pilot, lambda: "Made unsure.gguf" in state(made), "the vector")
        assert "layer   5   pairs agree 100%" in str(made.query_one("#table", Static).render())
        output = models_folder() / "unsure.gguf"
        lists = output.with_suffix(".positive.txt"), output.with_suffix(".negative.txt")
        assert read_pairs(*lists) == (("what is love", "why do dogs bark"), ("what is a token", "what is pruning"))
        await pilot.press("ctrl+t")
        await until(pilot, lambda: pilot.app.screen is screen and isinstance(screen.focused, AdapterRow), "the slider")
        assert [(row.kind, row.name, row.scale) for row in screen.rack.rows] == [("control vector", str(output), 1.0)]


async def test_what_is_missing_is_said_and_what_was_written_is_kept(opened, scripted):
    async with opened(size=(80, 24)) as (pilot, screen):
        made = await steering(pilot)
        assert "Write prompts into both lists" in state(made)
        write(made, "one\ntwo", "three")
        await until(pilot, lambda: "2 prompts against 1" in state(made))
        for name in ("", "../up", ".hidden"):
            write(made, "one\ntwo", "three\nfour", name)
            await until(pilot, lambda: "2 pairs. Give it a name" in state(made))
        await pilot.press("ctrl+s", "ctrl+t")
        assert pilot.app.works.items == []
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        again = await steering(pilot)
        assert again.query_one("#negative", TextArea).text == "three\nfour"
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "32 pairs. Ctrl+S makes unsure.gguf" in state(again))
        assert again.query_one("#positive", TextArea).text == shipped_prompts("positive").read_text()


async def test_a_vector_that_cannot_be_made_says_why(opened, scripted):
    async with opened() as (pilot, _screen):
        made = await steering(pilot)
        write(made, "the same", "the same", "nothing")
        await until(pilot, lambda: "1 pair." in state(made))
        await pilot.press("ctrl+s")
        await waits(pilot, lambda: "same states in layer 1" in state(made), "the reason")
        await pilot.press("ctrl+t")
        assert pilot.app.screen is made and not (models_folder() / "nothing.gguf").exists()


def test_what_is_no_result_has_no_layers():
    assert layers_text("") == layers_text("{}") == layers_text("[1]") == ""
