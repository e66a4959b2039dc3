"""Small parts that every screen uses: names of keys, lists with marks, and lists read from a slow disk."""

from __future__ import annotations

import threading

import pytest
from scripted_engine import until
from textual.app import App, ComposeResult
from textual.widgets import OptionList
from textual.widgets._footer import FooterKey
from textual.widgets.selection_list import Selection

from localknobs.library import Listing
from localknobs.tui.actions import key_text
from localknobs.tui.places import PLACES
from localknobs.tui.screens import dialogs
from localknobs.tui.screens.chat import ACTIONS
from localknobs.tui.screens.measure import MeasureScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.widgets.key_footer import KeyFooter
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.mark_list import MarkList


@pytest.mark.parametrize(
    ("key", "said"),
    [("f7", "F7"), ("ctrl+t", "Ctrl+T"), ("alt+u", "Alt+U"), ("escape", "Esc"), ("a", "a"), ("shift+f1", "Shift+F1")],
)
def test_keys_are_written_as_the_texts_write_them(key, said):
    assert key_text(key) == said


def test_the_menu_names_the_keys_that_work():
    keys = {row.name: key_text(row.key) for row in ACTIONS}
    assert {place.action: place.key for place in PLACES} == {place.action: keys[place.action] for place in PLACES}


class Marks(App[None]):
    def compose(self) -> ComposeResult:
        yield MarkList(Selection("one", "1", True), Selection("two", "2"), Selection("three", "3", disabled=True))


async def test_marks_are_told_apart_without_colour():
    async with Marks().run_test() as pilot:
        marks = pilot.app.query_one(MarkList)
        drawn = [marks.render_line(line).text.strip() for line in range(3)]
        assert drawn == ["▐x▌ one", "▐ ▌ two", "▐–▌ three"]
        await pilot.press("space", "down", "space")
        drawn = [marks.render_line(line).text.strip() for line in range(3)]
        assert drawn == ["▐ ▌ one", "▐x▌ two", "▐–▌ three"]


async def test_draft_models_on_a_slow_disk_hold_nobody_up(opened, monkeypatch):
    read = threading.Event()

    def slowly() -> Listing:
        assert read.wait(30)
        return Listing(())

    monkeypatch.setattr(dialogs, "list_models", slowly)
    async with opened() as (pilot, screen):
        screen.query_one("#knob-model_draft", KnobRow).action_open()
        await pilot.press("f1")
        await until(pilot, lambda: pilot.app.screen is not screen, "the help, meanwhile")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        read.set()
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker), "the list")


async def test_the_footer_cuts_no_key_and_keeps_the_way_back(opened):
    async with opened(size=(80, 24)) as (pilot, _chat):
        await pilot.press("alt+m")
        await until(pilot, lambda: isinstance(pilot.app.screen, MeasureScreen))
        footer = pilot.app.screen.query_one(KeyFooter)
        for width in (80, 60, 130):
            await pilot.resize_terminal(width, 24)
            await until(pilot, lambda w=width: footer.size.width == w and footer.query(FooterKey))
            await pilot.pause()
            assert footer.virtual_size.width <= width
            shown = {key.key for key in footer.query(FooterKey)}
            assert "escape" in shown and ("ctrl+p" in shown) == (width == 130)


async def test_the_menu_has_one_line_a_screen_in_a_narrow_terminal(opened):
    async with opened(size=(80, 24)) as (pilot, _chat):
        await pilot.press("f7")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        listed = pilot.app.screen.query_one(OptionList)
        await until(pilot, lambda: listed.size.height > 0)
        assert listed.virtual_size.height == len(PLACES)
