"""Writing, answering, stopping and what can go wrong, on a scripted engine."""

from __future__ import annotations

import json
from dataclasses import replace

from scripted_engine import STATS, arrived, finished, until
from textual.widgets import Input, Markdown, OptionList

from localknobs.conversations import Conversation, saved_conversations
from localknobs.engine import Finished, Noted, PromptRead
from localknobs.errors import BadFile, ContextFull, EngineDied
from localknobs.measured_speeds import measured_speeds
from localknobs.tui.screens.models import ModelsScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.transcript import Notice


def shown(screen):
    return "\n".join(strip.text for strip in screen._compositor.render_strips())


def answers(screen):
    return [view.query_one(Markdown).source for view in screen.transcript.views if view.node.role == "assistant"]


async def test_a_message_is_answered_and_both_are_on_disk(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Good "), arrived("day.", 2), finished())
        await until(pilot, lambda: screen.answer is None and answers(screen) == ["Good day."])
        assert scripted.engine.asked[0]["messages"] == [{"role": "user", "content": "hello"}]
        assert "250 tokens/s" in screen.status.speed and "12 ms" in screen.status.speed
        assert screen.status.context == (17, 1024)
        saved = Conversation(saved_conversations()[0].path)
    assert [(node.role, node.text, node.reason) for node in saved.branch()] == [
        ("user", "hello", ""),
        ("assistant", "Good day.", "end"),
    ]


async def test_text_is_on_disk_while_the_answer_is_still_being_written(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Once upon"))
        await until(pilot, lambda: answers(screen) == ["Once upon"])
        lines = [json.loads(line) for line in screen.conversation.path.read_text().splitlines()]
        assert lines[-1]["text"] == "Once upon"
        scripted.engine.say(finished())
        await until(pilot, lambda: screen.answer is None)


async def test_what_is_written_while_the_model_loads_is_answered_when_it_is_ready(opened, scripted, typed):
    scripted.gate.clear()
    async with opened(wait=False) as (pilot, screen):
        await typed(pilot, "early")
        await pilot.press("enter")
        await until(pilot, lambda: "waiting" in screen.status.activity)
        scripted.gate.set()
        await until(pilot, lambda: scripted.engines and scripted.engine.asked)
        scripted.engine.answer("Here I am.")
        await until(pilot, lambda: answers(screen) == ["Here I am."])


async def test_escape_stops_and_what_was_written_stays(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Half an ans"))
        await until(pilot, lambda: answers(screen) == ["Half an ans"])
        await pilot.press("escape")
        await until(pilot, lambda: screen.answer is None)
        assert scripted.engine.stops == 1
        assert screen.conversation.branch()[-1].reason == "stopped"


async def test_a_message_sent_during_an_answer_is_kept_in_the_box(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "one")
        await pilot.press("enter")
        scripted.engine.say(arrived("..."))
        await until(pilot, lambda: answers(screen))
        await typed(pilot, "two")
        await pilot.press("enter")
        assert screen.query_one(Composer).text == "two"
        scripted.engine.say(finished())
        await until(pilot, lambda: screen.answer is None)
        await pilot.press("enter")
        await until(pilot, lambda: len(scripted.engine.asked) == 2)
        scripted.engine.answer("done")
        await until(pilot, lambda: screen.answer is None)


async def test_again_keeps_the_old_answer_as_a_branch(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("first")
        await until(pilot, lambda: screen.answer is None and answers(screen) == ["first"])
        await pilot.press("ctrl+r")
        scripted.engine.answer("second")
        await until(pilot, lambda: answers(screen) == ["second"] and screen.answer is None)
        assert len(scripted.engine.asked[1]["messages"]) == 1, "the old answer is not part of the prompt"
        await pilot.press("up")
        await pilot.press("left")
        await until(pilot, lambda: answers(screen) == ["first"])
        await pilot.press("left")
        await until(pilot, lambda: answers(screen) == ["second"])


async def test_an_edited_message_is_answered_as_a_branch(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "old")
        await pilot.press("enter")
        scripted.engine.answer("to old")
        await until(pilot, lambda: screen.answer is None and answers(screen))
        await pilot.press("up", "up", "e")
        await until(pilot, lambda: pilot.app.screen is not screen)
        await pilot.press("ctrl+a", "ctrl+k")
        await typed(pilot, "new")
        await pilot.press("ctrl+s")
        scripted.engine.answer("to new")
        await until(pilot, lambda: answers(screen) == ["to new"])
        assert scripted.engine.asked[1]["messages"] == [{"role": "user", "content": "new"}]
        assert {node.text for node in screen.conversation.nodes.values()} == {"old", "to old", "new", "to new"}


async def test_an_edited_answer_is_continued_from_its_end(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "count")
        await pilot.press("enter")
        scripted.engine.answer("one two")
        await until(pilot, lambda: screen.answer is None and answers(screen))
        await pilot.press("up", "e")
        await until(pilot, lambda: pilot.app.screen is not screen)
        await typed(pilot, " three")
        await pilot.press("ctrl+s")
        scripted.engine.answer(" four")
        await until(pilot, lambda: answers(screen) == ["one two three four"])
        asked = scripted.engine.asked[1]
        assert asked["continue_last"] and asked["messages"][-1] == {"role": "assistant", "content": "one two three"}


async def test_a_cut_answer_is_continued(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "count")
        await pilot.press("enter")
        scripted.engine.say(arrived("one"), finished("length"))
        await until(pilot, lambda: screen.answer is None and answers(screen))
        await pilot.press("up", "c")
        scripted.engine.answer(" two")
        await until(pilot, lambda: answers(screen) == ["one two"])
        assert len(screen.conversation.branch()) == 2


async def test_a_dead_engine_is_a_notice_and_the_next_try_works(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(
            arrived("Go"), EngineDied("The engine was ended by signal SIGKILL", log_tail=("last words",))
        )
        await until(pilot, lambda: screen.query(Notice))
        notice = str(screen.query_one(Notice).render())
        assert "SIGKILL" in notice and "last words" in notice and "Ctrl+R" in notice
        assert screen.conversation.branch()[-1].interrupted
        await pilot.press("ctrl+r")
        scripted.engine.answer("Better.")
        await until(pilot, lambda: answers(screen) == ["Better."])
        assert not screen.query(Notice)


async def test_a_full_context_cuts_nothing_and_offers_room(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "long")
        await pilot.press("enter")
        scripted.engine.say(ContextFull("The conversation has 2000 tokens, and the context holds 1024"))
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        assert screen.conversation.branch()[-1].text == "long"
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: len(scripted.engines) == 2 and scripted.engine.asked)
        assert scripted.engine.settings.n_ctx == 2048
        scripted.engine.answer("it fits")
        await until(pilot, lambda: screen.answer is None)


async def test_an_answer_that_fills_the_context_says_so(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "long")
        await pilot.press("enter")
        scripted.engine.say(arrived("and on"), finished("context"))
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not screen.transcript.views)
        assert saved_conversations()[0].messages == 2


async def test_a_model_that_cannot_be_loaded_is_said_and_another_can_be_chosen(opened, scripted, typed):
    scripted.failure = BadFile("x.gguf is damaged", "Download it again.")
    async with opened(wait=False) as (pilot, screen):
        await until(pilot, lambda: screen.query(Notice))
        assert "Download it again" in str(screen.query_one(Notice).render())
        await typed(pilot, "kept")
        scripted.failure = None
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen) and pilot.app.screen.marked)
        await pilot.press("enter")
        await until(pilot, lambda: screen.bridge.ready)
        assert screen.query_one(Composer).text == "kept"
        assert not screen.status.trouble


async def test_an_interrupted_conversation_is_found_again(opened, scripted):
    crashed = Conversation(model="built-in")
    crashed.add("user", "what was I saying")
    crashed.grow(crashed.add("assistant", ""), "You were say")
    crashed.close()
    async with opened() as (pilot, screen):
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        assert "interrupted" in str(pilot.app.screen.query_one(OptionList).get_option_at_index(0).prompt)
        await pilot.press("enter")
        await until(pilot, lambda: answers(screen) == ["You were say"])
        assert "interrupted" in str(screen.transcript.views[-1].query_one(".foot").render())
        await pilot.press("up", "c")
        scripted.engine.answer("ing hello.")
        await until(pilot, lambda: answers(screen) == ["You were saying hello."])


async def test_deleting_a_conversation_asks_first(opened):
    kept = Conversation()
    kept.add("user", "keep me")
    kept.close()
    async with opened() as (pilot, _screen):
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "Delete" in str(pilot.app.screen.query(".title").first().render()))
        await pilot.press("enter")
        await pilot.pause()
        assert kept.path.exists()
        await until(pilot, lambda: "Saved" in str(pilot.app.screen.query(".title").first().render()))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "Delete" in str(pilot.app.screen.query(".title").first().render()))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not kept.path.exists())


async def test_a_new_conversation_stops_the_answer_and_leaves_it_saved(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("A long"))
        await until(pilot, lambda: answers(screen))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not screen.transcript.views)
        saved = Conversation(saved_conversations()[0].path).branch()
        assert saved[-1].text == "A long" and saved[-1].reason == "stopped"


async def test_nothing_a_model_writes_steers_the_terminal(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("\x1b[2J\x1b]0;owned\x07 [bold]plain[/bold]")
        await until(pilot, lambda: "[bold]plain[/bold]" in shown(screen))
        assert "\x1b" not in shown(screen) and "\x07" not in shown(screen) and "owned" in shown(screen)
        assert screen.conversation.branch()[-1].text.startswith("\x1b"), "what was said is kept as it was"


async def test_a_link_is_never_opened(opened, scripted, typed, monkeypatch):
    opened_links = []
    async with opened() as (pilot, screen):
        monkeypatch.setattr(pilot.app, "open_url", lambda url, **_: opened_links.append(url))
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("[click](https://example.org)")
        await until(pilot, lambda: screen.answer is None and answers(screen))
        await pilot.click(screen.query_one("MarkdownParagraph"), offset=(1, 0))
        await pilot.pause()
    assert opened_links == []


async def test_notes_and_prompt_progress_are_shown(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(PromptRead(512, 2048, 0))
        await until(pilot, lambda: "512 of 2,048" in screen.status.activity)
        scripted.engine.say(Noted("A plain template is used.", "warning"), arrived("hi"), finished())
        await until(pilot, lambda: screen.answer is None)
        assert any("plain template" in note.message for note in pilot.app._notifications)


async def test_a_long_conversation_shows_its_end_first_and_the_rest_on_request(opened, scripted):
    long = Conversation()
    for number in range(50):
        long.add("user", f"question {number}")
        long.finish(long.add("assistant", f"answer {number}"), "end")
    long.close()
    async with opened() as (pilot, screen):
        screen.open_conversation(Conversation(long.path))
        await until(pilot, lambda: len(screen.transcript.views) == 40)
        assert screen.transcript.views[-1].node.text == "answer 49"
        await pilot.press("up", "home")
        await until(pilot, lambda: len(screen.transcript.views) == 80)
        assert screen.focused.node.text == "answer 29"
        await pilot.press("home")
        await until(pilot, lambda: len(screen.transcript.views) == 100)
        assert not screen.query("EarlierMessages") and screen.transcript.views[0].node.text == "question 0"


async def test_the_system_prompt_is_sent(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await pilot.press("f5")
        await until(pilot, lambda: pilot.app.screen is not screen)
        await typed(pilot, "be kind")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: pilot.app.screen is screen)
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("Dear friend.")
        await until(pilot, lambda: screen.answer is None and answers(screen))
        assert scripted.engine.asked[0]["messages"][0] == {"role": "system", "content": "be kind"}


async def test_shell_keys_stay_free_in_the_message_box(opened, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "one two")
        await pilot.press("ctrl+a")
        await typed(pilot, "0 ")
        assert screen.query_one(Composer).text == "0 one two"
        await pilot.press("ctrl+e", "ctrl+w")
        assert screen.query_one(Composer).text == "0 one "
        await pilot.press("ctrl+u", "ctrl+j")
        await typed(pilot, "x")
        assert screen.query_one(Composer).text == "\nx"


async def test_a_full_disk_is_said_once_and_the_answer_stays_on_the_screen(opened, scripted, typed, monkeypatch):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Saved"))
        await until(pilot, lambda: answers(screen) == ["Saved"])

        def refuse(*_arguments):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr("localknobs.journal.Journal._write", refuse)
            scripted.engine.say(arrived(" and not"))
            await until(pilot, lambda: screen.query(Notice))
            scripted.engine.say(arrived(" saved."), finished())
            await until(pilot, lambda: screen.answer is None)
        assert answers(screen) == ["Saved and not saved."]
        assert len(screen.query(Notice)) == 1 and "No space left" in str(screen.query_one(Notice).render())


async def test_a_conversation_deleted_meanwhile_costs_no_message(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("hi")
        await until(pilot, lambda: screen.answer is None and answers(screen))
        screen.conversation.close()
        screen.conversation.path.unlink()
        await typed(pilot, "still here")
        await pilot.press("enter")
        await until(pilot, lambda: screen.query(Notice))
        assert screen.query_one(Composer).text == "still here"


async def test_the_chosen_theme_is_remembered(opened):
    async with opened() as (pilot, _screen):
        pilot.app.theme = "nord"
        await pilot.pause()
    async with opened() as (pilot, _screen):
        assert pilot.app.theme == "nord"


async def test_another_conversation_is_chosen_while_an_answer_is_written(opened, scripted, typed):
    other = Conversation()
    other.add("user", "the other one")
    other.close()
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Half"))
        await until(pilot, lambda: answers(screen) == ["Half"])
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        pilot.app.screen.query_one(Input).value = "the other"
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: [view.node.text for view in screen.transcript.views] == ["the other one"])
        assert scripted.engine.stops == 1
        assert {entry.title for entry in saved_conversations()} == {"hello", "the other one"}


async def test_again_on_a_message_while_its_answer_is_written(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("Half"))
        await until(pilot, lambda: answers(screen) == ["Half"])
        await pilot.press("up", "r")
        await until(pilot, lambda: len(scripted.engine.asked) == 2)
        scripted.engine.answer("Whole")
        await until(pilot, lambda: answers(screen) == ["Whole"] and screen.answer is None)


async def test_two_pieces_at_once_are_both_shown_though_nothing_follows(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("one"), arrived(" two", 2))
        await until(pilot, lambda: answers(screen) == ["one two"])
        scripted.engine.say(arrived(" three", 3))
        await until(pilot, lambda: answers(screen) == ["one two three"])
        scripted.engine.say(finished())
        await until(pilot, lambda: screen.answer is None)


async def test_the_shown_conversation_is_deleted_and_an_empty_one_follows(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "forget me")
        await pilot.press("enter")
        scripted.engine.say(arrived("Half"))
        await until(pilot, lambda: answers(screen) == ["Half"])
        path = screen.conversation.path
        await pilot.press("f4")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "Delete" in str(pilot.app.screen.query(".title").first().render()))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not path.exists() and not screen.transcript.views)
        assert screen.conversation.path != path and screen.answer is None


async def test_the_speed_of_a_long_answer_is_kept_for_the_estimates_of_fit(opened, scripted, typed):
    async with opened() as (pilot, screen):
        for tokens in (5, 200):  # a short one tells nothing
            scripted.engine.say(arrived("Words."), Finished("end", replace(STATS, generated_tokens=tokens)))
            before = len(screen.conversation.branch())
            await typed(pilot, "go")
            await pilot.press("enter")
            await until(pilot, lambda before=before: len(screen.conversation.branch()) == before + 2)
            await until(pilot, lambda: screen.answer is None)
        (record,) = measured_speeds()
        assert record.model == scripted.engine.info.path and record.generated_tokens == 200
