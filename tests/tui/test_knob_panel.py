"""Knobs on the screen: keys, mouse, typed values, presets, and what reaches the answer being written."""

from __future__ import annotations

import pytest
from scripted_engine import arrived, finished, until
from textual.widgets import Input, Markdown

from localknobs.knobs import KNOBS
from localknobs.presets import preset
from localknobs.tui.screens.chat import ACTIONS
from localknobs.tui.widgets import knob_row
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.knob_panel import KnobPanel, PresetRow
from localknobs.tui.widgets.knob_row import LABEL_WIDTH, KnobRow
from localknobs.tui.widgets.message_view import inline_mark


def row(screen, name) -> KnobRow:
    return screen.query_one(f"#knob-{name}", KnobRow)


async def test_every_knob_has_a_row_that_shows_its_name_and_value(opened):
    async with opened() as (_pilot, screen):
        for name, knob in KNOBS.items():
            line = row(screen, name).render_line(0).text
            assert knob.label in line and row(screen, name).value_text()[:8] in line
            assert len(knob.label) + 2 * (knob.applies == "reload") <= LABEL_WIDTH, "the name is cut"


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("right",), 0.85),
        (("left", "left"), 0.7),
        (("shift+right",), 1.3),
        (("end",), 2.0),
        (("home",), 0.0),
        (("1", ".", "2", "enter"), 1.2),
        (("0", ".", "3", "enter"), 0.3),
        ((".", "3", "enter"), 0.3),
        (("right", "0", "tab"), 0.8),
        (("right", "backspace"), 0.8),
        (("3", "escape"), 0.8),
        (("3", "backspace", "1", "enter"), 1.0),
        (("9", "enter"), 0.8),
        (("-", "1", "enter"), 0.8),
    ],
)
async def test_keys_on_a_slider(opened, keys, value, monkeypatch):
    monkeypatch.setattr(knob_row, "ZERO_PAUSE_S", 30.0)
    async with opened() as (pilot, screen):
        row(screen, "temp").focus()
        await pilot.press(*keys)
        assert row(screen, "temp").value == screen.sampler.values["temp"] == value


async def test_a_refused_value_names_the_range(opened):
    async with opened() as (pilot, screen):
        row(screen, "temp").focus()
        await pilot.press("9", "enter")
        await pilot.pause()
        assert any("0 to 5" in note.message for note in pilot.app._notifications)


async def test_the_mouse_drags_a_slider(opened):
    async with opened() as (pilot, screen):
        temp = row(screen, "temp")
        bar = temp._bar_width()
        left = temp.gutter.left + LABEL_WIDTH + 1
        await pilot.click(temp, offset=(left + bar - 1, 0))
        assert temp.value == 2.0
        await pilot.mouse_down(temp, offset=(left, 0))
        assert temp.value == 0.0
        await pilot.hover(temp, offset=(left + (bar - 1) // 2, 0))
        assert 0.8 <= temp.value <= 1.2
        await pilot.mouse_up(temp)


async def test_a_logarithmic_slider_has_its_default_in_sight(opened):
    async with opened() as (pilot, screen):
        top_k = row(screen, "top_k")
        assert 0.4 < top_k._fraction() < 0.7
        top_k.focus()
        await pilot.press("shift+right")
        assert top_k.value == 60


async def test_a_slider_moved_during_an_answer_acts_and_is_marked(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Warm words"))
        await until(pilot, lambda: screen.transcript.views[-1].node.text == "Warm words")
        row(screen, "temp").focus()
        await pilot.press("left")
        await until(pilot, lambda: scripted.engine.changes == [{"temp": 0.75}])
        scripted.engine.say(arrived(" and cold ones"), finished())
        await until(pilot, lambda: screen.answer is None)
        shown = screen.transcript.views[-1].query_one(Markdown).source
        assert shown == "Warm words`◆ temperature 0.75` and cold ones"
        node = screen.conversation.branch()[-1]
        assert node.text == "Warm words and cold ones" and node.marks == [(10, {"temp": 0.75})]


async def test_a_drag_sends_its_last_value(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("x"))
        await until(pilot, lambda: screen.answer and screen.answer.node)
        row(screen, "temp").focus()
        await pilot.press(*["right"] * 8)
        await until(pilot, lambda: scripted.engine.changes and scripted.engine.changes[-1] == {"temp": 1.2})
        assert len(scripted.engine.changes) <= 8
        scripted.engine.say(finished())
        await until(pilot, lambda: screen.answer is None)


async def test_the_next_answer_uses_the_knobs(opened, scripted, typed):
    async with opened() as (pilot, screen):
        row(screen, "top_k").focus()
        await pilot.press("7", "enter", "escape")
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("hi")
        await until(pilot, lambda: screen.answer is None)
        assert scripted.engine.asked[0]["sampler"]["top_k"] == 7


async def test_presets_by_arrow_and_by_list_and_changed_is_shown(opened):
    async with opened() as (pilot, screen):
        line = screen.query_one(PresetRow)
        line.focus()
        await pilot.press("right")
        first = line.preset
        assert first != "default" and screen.sampler.values["temp"] == preset(first).values["temp"]
        row(screen, "temp").focus()
        await pilot.press("right")
        assert line.changed and "(changed)" in line.render()
        await pilot.press("f8")
        await until(pilot, lambda: pilot.app.screen is not screen)
        pilot.app.screen.query_one(Input).value = "brainstorm"
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: line.preset == "brainstorm")
        assert row(screen, "temp").value == 1.2 and row(screen, "top_p").value == 0.98 and not line.changed


async def test_a_preset_of_ones_own_is_saved_and_refused_names_are_said(opened, typed):
    async with opened() as (pilot, screen):
        row(screen, "temp").focus()
        await pilot.press("1", ".", "1", "enter", "f9")
        await until(pilot, lambda: pilot.app.screen is not screen)
        await typed(pilot, "chat")
        await pilot.press("enter")
        await pilot.pause()
        assert "preset of the program" in str(pilot.app.screen.query_one(".trouble").render())
        await pilot.press("ctrl+a", "ctrl+k")
        await typed(pilot, "mine")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert preset("mine").values["temp"] == 1.1 and screen.query_one(PresetRow).preset == "mine"


async def test_a_text_knob_is_edited_in_a_box_that_checks_it(opened, typed):
    async with opened() as (pilot, screen):
        row(screen, "samplers").focus()
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is not screen)
        pilot.app.screen.query_one(Input).value = "warmth"
        await pilot.press("enter")
        await pilot.pause()
        assert "warmth" in str(pilot.app.screen.query_one(".trouble").render())
        pilot.app.screen.query_one(Input).value = "temperature;top_k"
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.sampler.values["samplers"] == ("temperature", "top_k")


async def test_a_loading_knob_waits_for_the_reload(opened, scripted):
    async with opened() as (pilot, screen):
        row(screen, "n_ctx").focus()
        await pilot.press("5", "1", "2", "enter")
        assert screen.reload_pending and "Ctrl+L" in screen.status.trouble
        assert len(scripted.engines) == 1
        await pilot.press("escape", "ctrl+l")
        await until(pilot, lambda: len(scripted.engines) == 2 and screen.bridge.ready)
        assert scripted.engine.settings.n_ctx == 512 and scripted.engines[0].closed
        await until(pilot, lambda: not screen.reload_pending)


async def test_threads_are_used_from_the_next_answer_on(opened, scripted, typed):
    async with opened() as (pilot, screen):
        row(screen, "threads").focus()
        await pilot.press("2", "enter", "escape")
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("hi")
        await until(pilot, lambda: screen.answer is None)
        assert scripted.engine.settings.threads == 2 and len(scripted.engines) == 1


async def test_help_on_a_knob_is_its_card(opened):
    async with opened() as (pilot, screen):
        row(screen, "min_p").focus()
        await pilot.press("f1")
        await until(pilot, lambda: pilot.app.screen is not screen)
        card = pilot.app.screen.query_one(Markdown).source
        assert KNOBS["min_p"].help in card and "arXiv:2407.01082" in card


async def test_help_and_palette_name_every_action(opened):
    async with opened() as (pilot, screen):
        commands = [command.title for command in pilot.app.get_system_commands(screen)]
        for action in ACTIONS:
            if action.name not in ("stop", "reload"):
                assert action.label in commands
        await pilot.press("f1")
        await until(pilot, lambda: pilot.app.screen is not screen)
        text = pilot.app.screen.query_one(Markdown).source
        for action in ACTIONS:
            assert action.help in text


async def test_a_small_terminal_begins_without_knobs_and_f2_brings_them(opened):
    async with opened((80, 24)) as (pilot, screen):
        panel = screen.query_one(KnobPanel)
        assert not panel.display
        await pilot.press("f2")
        await until(pilot, lambda: panel.display and panel.has_focus_within)
        await pilot.press("f2")
        await until(pilot, lambda: not panel.display)


async def test_tab_goes_round(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("hi")
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)
        seen = []
        for _ in range(3):
            await pilot.press("tab")
            seen.append(type(screen.focused).__name__)
        assert seen == ["KnobRow", "MessageView", "Composer"]


async def test_no_key_of_an_action_is_taken_by_the_message_box(opened):
    async with opened() as (_pilot, screen):
        taken = {key for key, bindings in screen.query_one(Composer)._bindings}
        assert not taken & {action.key for action in ACTIONS if not action.first}
        assert len({action.key for action in ACTIONS}) == len(ACTIONS), "two actions want one key"


@pytest.mark.parametrize(
    ("before", "mark"),
    [
        ("words", "`◆ temperature 0.2`"),
        ("**", "`◆ temperature 0.2`"),
        ("text\n-", " `◆ temperature 0.2`"),
        ("1.", " `◆ temperature 0.2`"),
        ("```python\nx =", " ◆ temperature 0.2 "),
        ("```\nx\n```\n", "`◆ temperature 0.2`"),
    ],
)
def test_a_mark_leaves_the_markdown_around_it_whole(before, mark):
    assert inline_mark(before, {"temp": 0.2}) == mark
