"""The Models screen: the list, the filter, the order, the live memory bill, and what is done with a model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from gguf_files import small_gguf
from random_model import write_random_model
from scripted_engine import until
from textual.widgets import Input, Static

from localknobs.library import Listing, list_models
from localknobs.paths import models_folder
from localknobs.tui.screens.forge import ForgeScreen
from localknobs.tui.screens.models import ModelsScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.widgets.fit_bar import FitBar, cells
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.list_table import ListTable


@pytest.fixture
def shelf(home: Path) -> Path:
    """Put three files into the models folder: a model, a small one of another name, and a damaged one."""
    folder = models_folder()
    folder.mkdir(parents=True)
    write_random_model(folder / "alpha.gguf")
    (folder / "beta-Q8_0.gguf").write_bytes(small_gguf("Beta"))
    (folder / "cut-Q4_K_M.gguf").write_bytes(small_gguf()[:100])
    return folder


async def models(pilot) -> ModelsScreen:
    await pilot.press("f3")
    await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen) and pilot.app.screen.marked)
    return pilot.app.screen


def names(screen: ModelsScreen) -> list[str]:
    return [str(screen.query_one(ListTable).get_row_at(row)[0]) for row in range(screen.query_one(ListTable).row_count)]


def text_of(screen: ModelsScreen, place: str) -> str:
    return " ".join(str(screen.query_one(place, Static).render()).split())


async def bill(pilot, screen: ModelsScreen) -> FitBar:
    await until(pilot, lambda: screen.query(FitBar), "the bill", seconds=40)  # a child process begins
    return screen.query(FitBar).first()


async def test_models_are_listed_and_the_loaded_one_is_marked(opened, shelf):
    async with opened() as (pilot, _screen):
        listed = await models(pilot)
        assert names(listed) == ["built-in", "alpha", "beta-Q8_0", "cut-Q4_K_M"]
        assert listed.marked.name == "built-in"
        assert "4 of 4 models" in text_of(listed, "#title")


async def test_a_damaged_model_says_why_and_is_not_chatted_with(opened, shelf, scripted):
    async with opened() as (pilot, screen):
        listed = await models(pilot)
        await pilot.press("G")
        await until(pilot, lambda: listed.marked.name == "cut-Q4_K_M")
        assert "cut short" in text_of(listed, "#about")
        assert not listed.query_one("MemoryBill").display
        await pilot.press("enter")
        await pilot.pause()
        assert pilot.app.screen is listed and len(scripted.engines) == 1


async def test_the_filter_narrows_the_list_and_escape_takes_it_away(opened, shelf, typed):
    async with opened() as (pilot, screen):
        listed = await models(pilot)
        await pilot.press("slash")
        await typed(pilot, "q8_0")
        await until(pilot, lambda: names(listed) == ["beta-Q8_0"])
        await typed(pilot, "zz")
        await until(pilot, lambda: not names(listed))
        assert "No model matches" in text_of(listed, "#name")
        await pilot.press("escape")
        await until(pilot, lambda: len(names(listed)) == 4)
        assert not listed.query_one("#filter", Input).display
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)


async def test_sorting_goes_through_the_columns_and_keeps_the_mark(opened, shelf):
    async with opened() as (pilot, _screen):
        listed = await models(pilot)
        await pilot.press("s", "s")
        assert names(listed) == ["cut-Q4_K_M", "built-in", "beta-Q8_0", "alpha"]
        assert listed.marked.name == "built-in"
        await pilot.press("s")
        by_size = names(listed)
        await pilot.press("s")
        assert names(listed) == by_size[::-1] != by_size


async def test_the_bill_is_planned_and_moves_with_the_sliders_before_anything_is_loaded(opened, shelf, scripted):
    async with opened() as (pilot, _screen):
        listed = await models(pilot)
        await pilot.press("j")
        await until(pilot, lambda: listed.marked.name == "alpha")
        bar = await bill(pilot, listed)
        before = dict(bar.parts)
        assert before["weights"] and before["cache"] and before["compute"] and bar.capacity_bytes
        await pilot.press("tab")
        await until(pilot, lambda: isinstance(listed.focused, KnobRow))
        await pilot.press("right")
        await until(pilot, lambda: bar.parts["cache"] > before["cache"])
        assert bar.parts["weights"] == before["weights"]
        await until(pilot, lambda: "fits" in text_of(listed, ".verdict"))
        await pilot.press("escape")
        assert isinstance(listed.focused, ListTable)
        assert len(scripted.engines) == 1, "the bill loads nothing"


async def test_what_would_crash_is_refused_by_name_instead_of_a_bill(opened, shelf):
    # The random model's heads have 16 values, and a quantized cache needs blocks of 32.
    async with opened() as (pilot, _screen):
        listed = await models(pilot)
        await pilot.press("j")
        await bill(pilot, listed)
        listed.query_one("#knob-cache_type_k", KnobRow).change("q8_0")
        await until(pilot, lambda: "q8_0" in text_of(listed, ".verdict"))


async def test_enter_chats_and_f_goes_to_the_forge(opened, shelf, scripted):
    async with opened() as (pilot, screen):
        listed = await models(pilot)
        await pilot.press("j", "enter")
        await until(pilot, lambda: pilot.app.screen is screen and len(scripted.engines) == 2)
        assert scripted.engine.settings.model == shelf / "alpha.gguf"
        listed = await models(pilot)
        await until(pilot, lambda: listed.marked.name == "alpha", "the loaded model is marked")
        await pilot.press("f")
        await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))
        assert pilot.app.screen.query_one("#source", Input).value == str(shelf / "alpha.gguf")


async def test_deleting_asks_first_and_never_touches_the_built_in_model(opened, shelf):
    async with opened() as (pilot, _screen):
        listed = await models(pilot)
        await pilot.press("d")
        await pilot.pause()
        assert pilot.app.screen is listed, "the built-in model is refused at once"
        await pilot.press("j", "d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is listed)
        assert (shelf / "alpha.gguf").exists()
        await pilot.press("d", "down", "enter")
        await until(pilot, lambda: "alpha" not in names(listed))
        assert not (shelf / "alpha.gguf").exists() and (shelf / "beta-Q8_0.gguf").exists()
        assert listed.marked.name == "beta-Q8_0", "the neighbour is marked, not the first of the list"


async def test_deleting_the_loaded_model_says_what_the_chat_does(opened, shelf, scripted):
    async with opened() as (pilot, screen):
        await models(pilot)
        await pilot.press("j", "enter")
        await until(pilot, lambda: pilot.app.screen is screen and len(scripted.engines) == 2)
        listed = await models(pilot)
        await until(pilot, lambda: listed.marked.name == "alpha")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        assert "It is loaded now" in " ".join(str(part.render()) for part in pilot.app.screen.query(Static))


async def test_a_slow_disk_does_not_stop_the_screen(opened, shelf, monkeypatch):
    gate = threading.Event()

    def slow_list() -> Listing:
        assert gate.wait(20)
        return list_models()

    monkeypatch.setattr("localknobs.tui.screens.models.list_models", slow_list)
    async with opened() as (pilot, screen):
        try:
            await pilot.press("f3")
            await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
            listed = pilot.app.screen
            await pilot.press("slash", "c", "u", "t")
            await until(pilot, lambda: listed.query_one("#filter", Input).value == "cut")
            assert not names(listed)
        finally:
            gate.set()
        await until(pilot, lambda: names(listed) == ["cut-Q4_K_M"])
        gate.clear()
        try:
            listed.action_refresh()
            await pilot.press("escape", "escape")
            await until(pilot, lambda: pilot.app.screen is screen, "one can leave while it looks")
        finally:
            gate.set()


async def test_folders_that_cannot_be_listed_are_told(opened, shelf, monkeypatch):
    def broken() -> Listing:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("localknobs.tui.screens.models.list_models", broken)
    async with opened() as (pilot, _screen):
        await pilot.press("f3")
        await until(pilot, lambda: any("unforeseen" in notice.message for notice in pilot.app._notifications))


async def test_the_marked_row_does_not_move_the_names_out_of_view(opened, shelf):
    async with opened((80, 24)) as (pilot, _screen):
        listed = await models(pilot)
        (shelf / f"{'long-name-' * 9}.gguf").write_bytes(small_gguf())
        listed.action_refresh()
        await until(pilot, lambda: len(names(listed)) == 5)
        await pilot.press("j", "j", "k")
        assert listed.query_one(ListTable).scroll_offset.x == 0


@pytest.mark.parametrize(
    "parts, capacity, expected",
    [
        ({"weights": 50, "cache": 25}, 100, {"weights": 10, "cache": 5}),
        ({"weights": 1, "cache": 0}, 1000, {"weights": 1, "cache": 0}),
        ({"weights": 300, "cache": 100}, 200, {"weights": 15, "cache": 5}),
        ({}, 0, {}),
    ],
    ids=["to scale", "the smallest shows", "more than there is", "nothing"],
)
def test_cells_of_a_bar(parts, capacity, expected):
    assert cells(parts, capacity, 20) == expected
