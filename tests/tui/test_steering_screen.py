"""The screen that makes control vectors: a real job from two lists to a slider, and what is missing before that."""

from __future__ import annotations

import shutil
from functools import partial

from scripted_engine import PROCESS_S, until
from textual.widgets import Checkbox, Input, Static, TextArea

from localknobs.paths import models_folder
from localknobs.steer.prompts import read_pairs, shipped_prompts
from localknobs.tui.screens.picker import Picker
from localknobs.tui.screens.steering import SteeringScreen, layers_text
from localknobs.tui.widgets.adapter_rows import AdapterRow
from localknobs.tui.works import Work

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


async def test_no_model_is_replaced_and_what_comes_next_is_said_also_after_a_run(opened, scripted, built_in):
    async with opened() as (pilot, _screen):
        work = Work("control-vector", "other.gguf", ("control-vector", "/m/other.gguf"), state="running")
        done = Work("control-vector", "calm.gguf", ("control-vector", "built-in"), state="done", output="{}")
        pilot.app.works.items += [work, done]
        made = await steering(pilot)
        models_folder().mkdir(parents=True, exist_ok=True)
        shutil.copy(built_in, models_folder() / "model.gguf")
        write(made, "one", "two", "model")
        await until(pilot, lambda: "Made calm.gguf" in state(made) and "is no control vector" in state(made))
        await pilot.press("ctrl+s")
        assert pilot.app.works.items == [work, done], "nothing was started"
        assert [file.name for file in models_folder().iterdir()] == ["model.gguf"]
        (models_folder() / "calm.gguf").write_bytes(b"")
        write(made, "one", "two", "calm")
        await until(pilot, lambda: "makes calm.gguf, in place of the one there is" in state(made))
        write(made, "one", "two", "n" * 300)
        await until(pilot, lambda: f"makes {'n' * 300}.gguf." in state(made).replace("\n", ""))
        await pilot.press("ctrl+s")
        await until(pilot, lambda: any("too long" in one.message for one in pilot.app._notifications))
        assert pilot.app.works.items == [work, done]


async def test_the_example_can_be_undone_and_how_lines_are_read_is_kept(opened, scripted):
    async with opened() as (pilot, screen):
        made = await steering(pilot)
        await pilot.press(*"mine", "ctrl+o")
        area = made.query_one("#positive", TextArea)
        assert area.text == shipped_prompts("positive").read_text()
        area.move_cursor(area.document.end)
        await pilot.press("ctrl+z")
        assert area.text == "mine"
        made.query_one("#chat", Checkbox).value = False
        await pilot.pause()
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert not (await steering(pilot)).query_one("#chat", Checkbox).value


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
