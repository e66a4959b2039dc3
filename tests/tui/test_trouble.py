"""What happens at a bad moment: keys on their way, a second load, a resize, damaged files, hostile names."""

from __future__ import annotations

import json

from scripted_engine import FakeEngine, arrived, finished, until
from textual.widgets import Input, Markdown

from localknobs.conversations import Conversation, saved_conversations
from localknobs.errors import ContextFull
from localknobs.tui.screens.picker import Picker
from localknobs.tui.widgets import knob_row
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.knob_panel import KnobPanel
from localknobs.tui.widgets.message_view import MessageView
from localknobs.tui.widgets.transcript import Notice


async def answered(pilot, scripted, screen, typed, question="hello", answer="hi"):
    await typed(pilot, question)
    await pilot.press("enter")
    scripted.engine.answer(answer)
    await until(pilot, lambda: screen.answer is None and screen.transcript.views)
    await until(pilot, lambda: screen.transcript.views[-1].node.text == answer)


async def test_a_key_for_a_message_that_was_just_replaced_does_nothing(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await answered(pilot, scripted, screen, typed)
        gone = screen.transcript.views[-1]
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not screen.transcript.views)
        screen.post_message(MessageView.Moved(gone, -1))
        await pilot.pause()
        assert pilot.app.is_running


async def test_the_focus_leaves_a_panel_that_a_resize_hides(opened):
    async with opened() as (pilot, screen):
        await pilot.press("tab")
        await until(pilot, lambda: screen.query_one(KnobPanel).has_focus_within)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: isinstance(screen.focused, Composer))


async def test_a_message_that_waits_for_the_model_is_taken_back_by_escape(opened, scripted, typed):
    scripted.gate.clear()
    async with opened(wait=False) as (pilot, screen):
        await typed(pilot, "early")
        await pilot.press("enter")
        await until(pilot, lambda: "waiting" in screen.status.activity)
        await pilot.press("escape")
        await until(pilot, lambda: screen.query_one(Composer).text == "early" and not screen.transcript.views)
        scripted.gate.set()
        await until(pilot, lambda: screen.bridge.ready and not screen.status.activity)
        assert scripted.engine.asked == []


async def test_a_waiting_message_does_not_follow_into_a_new_conversation(opened, scripted, typed):
    scripted.gate.clear()
    async with opened(wait=False) as (pilot, screen):
        await typed(pilot, "early")
        await pilot.press("enter")
        await until(pilot, lambda: "waiting" in screen.status.activity)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not screen.transcript.views)
        scripted.gate.set()
        await until(pilot, lambda: screen.bridge.ready and not screen.status.activity)
        assert scripted.engine.asked == [] and len(saved_conversations()) == 1


async def test_continuing_while_the_model_loads_still_continues(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "count")
        await pilot.press("enter")
        scripted.engine.say(arrived("one"), finished("length"))
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)
        scripted.gate.clear()
        screen.action_reload()
        await until(pilot, lambda: screen.bridge.loading)
        await pilot.press("up", "c")
        scripted.gate.set()
        await until(pilot, lambda: len(scripted.engines) == 2 and scripted.engine.asked)
        assert scripted.engine.asked[0]["continue_last"]
        scripted.engine.answer(" two")
        await until(pilot, lambda: screen.transcript.views[-1].query_one(Markdown).source == "one two")


async def test_of_two_loads_the_last_one_counts_and_the_other_is_closed(opened, scripted):
    async with opened() as (pilot, screen):
        scripted.gate.clear()
        screen.load_values["n_ctx"] = 4096
        await screen.load_model("built-in")
        screen.load_values["n_ctx"] = 512
        await screen.load_model("built-in")
        scripted.gate.set()
        await until(pilot, lambda: screen.bridge.ready and len(scripted.engines) == 3)
        assert screen.bridge.engine.settings.n_ctx == 512
        await until(pilot, lambda: [engine.closed for engine in scripted.engines].count(True) == 2)
        await until(pilot, lambda: not screen.reload_pending)
        assert not screen.bridge.engine.closed


async def test_a_file_that_is_no_model_does_not_cost_the_one_in_use(opened, scripted, typed, tmp_path):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"nope")
    async with opened() as (pilot, screen):
        for name in (str(wrong), str(tmp_path / "missing.gguf")):
            screen.use_model(name)
            await until(pilot, lambda: screen.query(Notice))
            await screen.transcript.forget_notices()
        assert screen.bridge.ready and not screen.status.trouble and screen.model_name == "built-in"
        await answered(pilot, scripted, screen, typed)


async def test_an_error_that_nobody_foresaw_is_shown_and_the_screen_goes_on(opened, scripted, typed, monkeypatch):
    async with opened() as (pilot, screen):
        with monkeypatch.context() as broken:
            broken.setattr(FakeEngine, "stream", lambda *_arguments, **_named: 1 / 0)
            await typed(pilot, "hello")
            await pilot.press("enter")
            await until(pilot, lambda: screen.query(Notice))
        assert "ZeroDivisionError" in str(screen.query_one(Notice).render()) and screen.answer is None
    scripted.failure = OSError(12, "Cannot allocate memory")
    async with opened(wait=False) as (pilot, screen):
        await until(pilot, lambda: screen.query(Notice))
        assert "Cannot allocate memory" in str(screen.query_one(Notice).render()) and screen.status.trouble


async def test_a_message_that_does_not_fit_goes_back_into_the_box(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "too long")
        await pilot.press("enter")
        scripted.engine.say(ContextFull("The conversation has 2000 tokens, and the context holds 1024"))
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("escape")
        await until(pilot, lambda: screen.query_one(Composer).text == "too long" and not screen.transcript.views)
        assert screen.conversation.messages() == []


async def test_more_context_answers_the_message_that_did_not_fit(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "too long")
        await pilot.press("enter")
        scripted.engine.say(ContextFull("The conversation has 2000 tokens, and the context holds 1024"))
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        pilot.app.screen.query_one(Input).value = "2,048"
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: len(scripted.engines) == 2 and scripted.engine.asked)
        assert screen.query_one("#knob-n_ctx").value == 2048
        scripted.engine.answer("now it fits")
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)


async def test_a_full_context_does_not_pop_over_another_box(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("on and on"))
        await until(pilot, lambda: screen.answer and screen.answer.node)
        await pilot.press("f5")
        await until(pilot, lambda: pilot.app.screen is not screen)
        box = pilot.app.screen
        scripted.engine.say(finished("context"))
        await until(pilot, lambda: screen.answer is None)
        assert pilot.app.screen is box
        assert any("context is full" in note.message for note in pilot.app._notifications)


async def test_records_of_another_version_and_odd_names_are_shown(opened, scripted):
    odd = Conversation(model="other [/b]\x1b[2J")
    odd.add("user", "[/nonsense] \x1b]0;x\x07")
    node = odd.add("assistant", "text")
    odd.finish(node, "end", {"generated_tokens": 3})
    with odd.path.open("a") as file:
        file.write(json.dumps({"mark": node.id, "at": 2, "changes": {"temp": "warm", "gone": 1}}) + "\n")
    odd.close()
    async with opened() as (pilot, screen):
        screen.open_conversation(Conversation(odd.path))
        await until(pilot, lambda: len(screen.transcript.views) == 2)
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.pause()
        shown = "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())
        assert "\x1b" not in shown and "\x07" not in shown and "[/nonsense]" in shown


async def test_the_conversation_is_saved_as_text_under_a_new_name_only(opened, scripted, typed, tmp_path):
    async with opened() as (pilot, screen):
        await answered(pilot, scripted, screen, typed)
        target = tmp_path / "chat.md"
        for _ in range(2):
            await pilot.press("ctrl+s")
            await until(pilot, lambda: pilot.app.screen is not screen)
            pilot.app.screen.query_one(Input).value = str(target)
            await pilot.press("enter")
            await until(pilot, lambda: pilot.app.screen is screen)
        assert "hi" in target.read_text()
        assert any("exists already" in note.message for note in pilot.app._notifications)


async def test_a_home_that_cannot_be_written_costs_the_saving_and_not_the_chat(opened, scripted, typed, home):
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_text("a file where the folder should be")
    async with opened() as (pilot, screen):
        await answered(pilot, scripted, screen, typed)
        await answered(pilot, scripted, screen, typed, "again", "still here")
        assert len([note for note in pilot.app._notifications if "saved" in note.message]) == 1


async def test_zero_then_enter_is_zero_and_a_typed_number_sends_no_other(opened, scripted, typed, monkeypatch):
    monkeypatch.setattr(knob_row, "ZERO_PAUSE_S", 30.0)
    async with opened() as (pilot, screen):
        temp = screen.query_one("#knob-temp")
        temp.focus()
        await pilot.press("right", "0", "enter")
        assert temp.value == 0.0
        await pilot.press("escape")
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("x"))
        await until(pilot, lambda: screen.answer and screen.answer.node)
        temp.focus()
        await pilot.press("0", ".", "3", "enter")
        await until(pilot, lambda: scripted.engine.changes)
        assert scripted.engine.changes == [{"temp": 0.3}]
        scripted.engine.say(finished())
        await until(pilot, lambda: screen.answer is None)
