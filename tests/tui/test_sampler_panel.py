"""The sampler view on the screen, branches and colours, on the real engine with a model that writes the alphabet."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from random_model import END, byte_tokens, write_random_model, write_scripted_model
from scripted_engine import arrived, finished, until
from textual.widgets import Markdown, Static

from localknobs.engine import TokensScored
from localknobs.tui.app import LocalknobsApp
from localknobs.tui.screens.chat import ChatScreen
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.sampler_panel import Candidates, Stages
from localknobs.tui.widgets.tint_legend import TintLegend

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "alphabet.gguf"
    return write_scripted_model(path, [*byte_tokens(ALPHABET), END], context=256, template="{{ messages[-1].content }}")


@asynccontextmanager
async def chatting(model, question="w", size=(120, 40)):
    """Open the app on a model, ask one question, and open the sampler view."""
    app = LocalknobsApp(str(model))
    async with app.run_test(size=size) as pilot:
        screen: Any = app.screen
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.bridge.ready and screen.query("KnobRow"))
        screen.load_values["threads"] = 1
        await pilot.press(*question, "enter")
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2, "the answer")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: screen.panel and screen.panel.view, "the view")
        yield pilot, screen


async def test_every_token_of_the_answer_can_be_looked_at(alphabet):
    async with chatting(alphabet) as (pilot, screen):
        assert screen.conversation.branch()[-1].text == "xyz"
        assert screen.panel.view.drawn == END and isinstance(screen.focused, Candidates)
        await pilot.press("home")
        await until(pilot, lambda: screen.panel.view.place == 0)
        assert "token 1 of 4: x" in str(screen.panel.query_one(".about", Static).render())
        await pilot.press("right")
        await until(pilot, lambda: screen.panel.view.place == 1)
        await pilot.press("left", "left", "left")
        await until(pilot, lambda: screen.panel.view.place == 0)
        await pilot.press("end")
        await until(pilot, lambda: screen.panel.view.place == 3)


async def test_the_view_follows_a_slider_and_the_engine_computes_nothing_anew(alphabet):
    async with chatting(alphabet) as (pilot, screen):
        context = screen.status.context
        await pilot.press("home")
        row = screen.query_one("#knob-top_k", KnobRow)
        row.focus()
        await pilot.press("5", "enter")
        await until(pilot, lambda: screen.panel.view.stages[3].after == 5)
        assert screen.panel.query_one(Stages).lines[3].plain.split()[:2] == ["top-k", "5"]
        assert screen.status.context == context and len(screen.transcript.views) == 2


async def test_enter_on_a_candidate_branches_and_the_old_answer_stays(alphabet):
    async with chatting(alphabet) as (pilot, screen):
        await pilot.press("home")
        await until(pilot, lambda: screen.panel.view.place == 0)
        candidates = screen.panel.query_one(Candidates)
        wanted = next(at for at, one in enumerate(screen.panel.view.candidates) if one.text not in ("x", "y", "z"))
        letter = screen.panel.view.candidates[wanted].text
        candidates.cursor = wanted
        await pilot.press("enter")
        await until(pilot, lambda: screen.answer is None and screen.conversation.branch()[-1].text != "xyz")
        await until(pilot, lambda: screen.conversation.branch()[-1].reason)
        answer = screen.conversation.branch()[-1]
        assert answer.text.startswith(letter.encode().decode("unicode_escape") if "\\" in letter else letter)
        assert sorted(node.text for node in screen.conversation.siblings(answer))[-1] == "xyz"
        assert [node.role for node in screen.conversation.branch()] == ["user", "assistant"]


async def test_an_answer_that_was_continued_branches_with_its_beginning(alphabet):
    async with chatting(alphabet, "t") as (pilot, screen):
        await pilot.press("home")
        await until(pilot, lambda: screen.panel.view.place == 0)
        screen.sampler.set("n_predict", 2)
        screen.branch(2, byte_tokens("w")[0])
        await until(pilot, lambda: screen.conversation.branch()[-1].text == "uvwxy")
        await until(pilot, lambda: screen.answer is None)
        view = screen.transcript.views[-1]
        view.focus()
        await pilot.press("c")
        await until(pilot, lambda: screen.answer is None and screen.conversation.branch()[-1].text == "uvwxyz")
        await until(pilot, lambda: screen.conversation.branch()[-1].reason == "end")
        screen.branch(0, byte_tokens("m")[0])
        await until(pilot, lambda: screen.conversation.branch()[-1].text == "uvwxymno")
        await until(pilot, lambda: screen.answer is None)
        assert len(screen.conversation.siblings(screen.conversation.branch()[-1])) == 3


async def test_a_stage_moves_and_the_cursor_with_it(alphabet):
    async with chatting(alphabet) as (pilot, screen):
        stages = screen.panel.query_one(Stages)
        stages.focus()
        stages.cursor = 8
        await pilot.press("shift+up")
        await until(pilot, lambda: [stage.name for stage in screen.panel.view.stages][7] == "temperature")
        assert screen.sampler.values["samplers"][7] == "temperature" and stages.cursor == 7
        await pilot.press("enter")
        await until(pilot, lambda: screen.focused is screen.query_one("#knob-temp"))


async def test_the_next_token_of_a_stopped_answer_can_be_chosen(alphabet):
    async with chatting(alphabet, "p") as (pilot, screen):
        screen.sampler.set("n_predict", 3)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: screen.answer is None and screen.conversation.branch()[-1].text == "qrs")
        await until(pilot, lambda: screen.conversation.branch()[-1].reason == "length")
        await pilot.press("n")
        await until(pilot, lambda: screen.panel.view.place == 3 and screen.panel.view.drawn is None)
        assert screen.panel.view.candidates[0].text == "t"


async def test_small_terminals_show_the_view_alone_and_ctrl_t_closes_it(alphabet):
    async with chatting(alphabet, size=(80, 24)) as (pilot, screen):
        assert not screen.transcript.display and screen.panel.size.width > 60
        await pilot.press("ctrl+t")
        await until(pilot, lambda: screen.panel is None and screen.transcript.display)


async def test_colours_come_with_the_answer_and_for_one_that_is_there(alphabet):
    async with chatting(alphabet, "k") as (pilot, screen):
        await pilot.press("ctrl+t", "alt+t")
        view = screen.transcript.views[-1]
        tinted = view.query_one(".tinted", Static)
        await until(pilot, lambda: tinted.display and not view.query_one(Markdown).display)
        legend = screen.query_one(TintLegend)
        assert legend.display and "≥ 90%" in str(legend.render())
        await pilot.press("alt+t")
        assert "bits" in str(legend.render())
        await pilot.press("alt+t")
        assert not legend.display and view.query_one(Markdown).display and not tinted.display


async def test_scores_of_a_stream_colour_the_text_as_it_grows(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await pilot.press("alt+t")
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.say(arrived("one two"), TokensScored(0, ((3, 0.95, 0.1), (7, 0.2, 3.0))))
        await until(pilot, lambda: screen.transcript.views[-1].query(".tinted"))
        view = screen.transcript.views[-1]
        await until(pilot, lambda: view.query_one(".tinted").display)
        content = view.query_one(".tinted", Static).content
        assert content.plain == "one two" and [(span.start, span.end) for span in content.spans] == [(3, 7)]
        assert scripted.engine.asked[0]["plan"].score
        scripted.engine.say(finished())
        await until(pilot, lambda: screen.answer is None)


async def test_without_view_and_colours_nothing_is_scored(opened, scripted, typed):
    async with opened() as (pilot, screen):
        await typed(pilot, "hello")
        await pilot.press("enter")
        scripted.engine.answer("hi")
        await until(pilot, lambda: screen.answer is None)
        assert not scripted.engine.asked[0]["plan"].score


async def test_looks_during_an_answer_do_not_disturb_it(tmp_path):
    model = write_random_model(tmp_path / "long.gguf", context=2048, never_ends=True, fillers=500)
    app = LocalknobsApp(str(model))
    async with app.run_test(size=(120, 40)) as pilot:
        screen: Any = app.screen
        await until(pilot, lambda: screen.bridge.ready and screen.query("KnobRow"))
        screen.load_values["threads"] = 1
        screen.sampler.set("n_predict", 1500)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: screen.panel)
        screen.focused.screen.query_one("#composer").focus()
        await pilot.press("x", "enter")
        await until(pilot, lambda: screen.panel.view, "a view while it writes")
        for value in (3, 4, 5):
            screen.turn("top_k", value)
        await until(pilot, lambda: screen.answer is None, "the end")
        await until(pilot, lambda: screen.panel.view.stages[3].after == 5)
        assert screen.conversation.branch()[-1].reason == "length"
