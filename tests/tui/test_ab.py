"""The A/B screen: two scripted engines side by side, blind until voted; and one run on the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from made_adapters import write_adapter
from scripted_engine import PROCESS_S, FakeEngine, Scripted, arrived, finished, until
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, Markdown, Static

from localknobs.ab.price import BothBills
from localknobs.ab.votes import read_votes, tallies
from localknobs.engine import load as real_load
from localknobs.errors import BadFile, EngineDied
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.tui import contest
from localknobs.tui.app import LocalknobsApp
from localknobs.tui.screens import ab
from localknobs.tui.screens.ab import ABScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.widgets import side_setup
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.duel import AnswerPane, TurnView
from localknobs.tui.widgets.transcript import Notice

GIB = 2**30
A, B = "built-in -c 512", "built-in -c 256 --temp 1.2"


class Priced:
    """Stands for the pricing: bills of one size, and room for so much."""

    def __init__(self) -> None:
        self.free, self.each, self.asked = 16 * GIB, 4 * GIB, 0

    def __call__(self, sides: Any) -> BothBills:
        self.asked += 1
        bill = Bill((DeviceBill("RAM", self.free, weights=self.each),), 1024, "planned")
        return BothBills((bill,) if sides[0].loads_like(sides[1]) else (bill, bill))


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Priced:
    made = Priced()
    monkeypatch.setattr(contest, "price_sides", made)
    monkeypatch.setattr(side_setup, "price_sides", made)
    return made


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, priced: Priced) -> Scripted:
    """The engines of the two sides; the chat has one of its own."""
    made = Scripted()
    monkeypatch.setattr(contest, "load", made.load)
    return made


@asynccontextmanager
async def alone(size: tuple[int, int] = (120, 40)) -> AsyncIterator[tuple[Pilot[Any], ABScreen]]:
    """Open the A/B screen with no chat below it."""
    app = LocalknobsApp()
    app.get_default_screen = Screen  # type: ignore[method-assign]
    async with app.run_test(size=size) as pilot:
        screen = ABScreen()
        await app.push_screen(screen)
        await pilot.pause()
        yield pilot, screen


async def from_the_chat(pilot: Any) -> ABScreen:
    await pilot.press("alt+v")
    await until(pilot, lambda: isinstance(pilot.app.screen, ABScreen))
    return pilot.app.screen


async def begin(pilot: Any, a: str = A, b: str = B) -> ABScreen:
    """Load two sides."""
    screen = pilot.app.screen
    await fill(pilot, screen, a, b)
    await until(pilot, lambda: screen._ready and not said(screen, "#doing"), "both sides", seconds=PROCESS_S)
    return screen


async def fill(pilot: Any, screen: ABScreen, a: str, b: str) -> None:
    screen.query_one("#side-a", Input).value, screen.query_one("#side-b", Input).value = a, b
    await pilot.press("ctrl+l")
    await pilot.pause()


def said(screen: ABScreen, place: str) -> str:
    line = screen.query_one(place, Static)
    return str(line.render()) if line.display else ""


def shown(screen: ABScreen) -> str:
    """Return every text that can be read on the screen."""
    widgets = [one for one in screen.query(Static) if one.display and not one.has_class("how")]
    texts = [str(one.render()) for one in widgets]
    return "\n".join([*texts, *(one.source for one in screen.query(Markdown))])


async def ask(pilot: Any, screen: ABScreen, text: str = "hello") -> TurnView:
    before = screen._turn
    screen.query_one(Composer).focus()
    screen.query_one(Composer).text = text
    await pilot.press("enter")
    await until(pilot, lambda: screen._turn is not before and screen._turn.is_mounted, "the prompt")
    return screen._turn


async def answered(pilot: Any, screen: ABScreen, engines: list[FakeEngine], *texts: str) -> TurnView:
    turn = await ask(pilot, screen)
    for engine, text in zip(engines, texts, strict=True):
        engine.answer(text)
    await until(pilot, lambda: turn.over and screen.has_class("-voting"), "both answers")
    await pilot.pause()
    return turn


def panes(turn: TurnView) -> list[str]:
    return [one.query_one(Markdown).source for one in turn.query(AnswerPane)]


async def test_both_get_the_same_prompt_and_seed_and_answer_side_by_side(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        one, two = engines.engines
        assert (one.settings.n_ctx, two.settings.n_ctx) == (512, 256)
        turn = await ask(pilot, screen)
        one.say(arrived("first "))
        two.say(arrived("second "))
        await until(pilot, lambda: panes(turn) == ["first ", "second "], "both grow")
        assert one.settings.threads == two.settings.threads > 0, "they share the cores"
        one.answer("end")
        two.answer("end")
        await until(pilot, lambda: turn.over)
        assert panes(turn) == ["first end", "second end"]
        assert one.asked[0]["sampler"]["seed"] == two.asked[0]["sampler"]["seed"] == turn.seed
        assert two.asked[0]["sampler"]["temp"] == 1.2
        assert one.asked[0]["messages"] == two.asked[0]["messages"] == [{"role": "user", "content": "hello"}]
        text = shown(screen)
        assert f"A: {A}" in text and f"B: {B}" in text and "5 tokens · 250 tokens/s · first 12 ms" in text


async def test_each_side_goes_on_from_its_own_answers(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        await answered(pilot, screen, engines.engines, "one", "two")
        await pilot.press("escape")  # no vote
        await answered(pilot, screen, engines.engines, "three", "four")
        said_before = [[turn["content"] for turn in engine.asked[1]["messages"]] for engine in engines.engines]
        assert said_before == [["hello", "one", "hello"], ["hello", "two", "hello"]]
        await pilot.press("escape")
        assert read_votes() == []
        await pilot.press("ctrl+r")  # the last prompt once more: without its first answers
        await until(pilot, lambda: len(engines.engines[0].asked) == 3)
        assert [turn["content"] for turn in engines.engines[0].asked[2]["messages"]] == ["hello", "one", "hello"]
        seeds = [asked["sampler"]["seed"] for asked in engines.engines[0].asked]
        assert len(set(seeds)) == 3
        await pilot.press("escape")
        await until(pilot, lambda: screen._turn.over)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not screen.query(TurnView))
        await ask(pilot, screen)
        assert [turn["content"] for turn in engines.engines[1].asked[3]["messages"]] == ["hello"]
        await pilot.press("escape")


@pytest.mark.parametrize(("order", "size"), [((0, 1), (120, 40)), ((1, 0), (80, 24))])
async def test_blind_nothing_on_the_screen_tells_which_is_which_before_the_vote(engines, monkeypatch, order, size):
    monkeypatch.setattr(ab, "drawn_order", lambda: order)
    async with alone(size) as (pilot, screen):
        await begin(pilot)
        await pilot.press("f4")
        turn = await ask(pilot, screen)
        one, two = engines.engines
        one.say(arrived("quick answer "))
        one.say(arrived("that goes on"), finished())
        await until(pilot, lambda: 0 in turn.ends)
        assert panes(turn) == ["", ""], "the faster one waits for the slower"
        two.say(arrived("slow"))
        await until(pilot, lambda: all(panes(turn)))
        assert sorted(map(len, panes(turn))) == [4, 4]
        two.say(arrived("er"), finished())
        await until(pilot, lambda: screen.has_class("-voting"))
        await until(pilot, lambda: "that goes on" in shown(screen))
        text = shown(screen)
        for leak in ("built-in", "-c 512", "--temp", "tokens/s", "A:", "B:", "seed", "5 tokens"):
            assert leak not in text, f"{leak!r} is on the screen"
        assert panes(turn)[order.index(0)] == "quick answer that goes on"
        await pilot.press("left")
        await until(pilot, lambda: f"A: {A}" in shown(screen))
        assert "tokens/s" in shown(screen) and "the left answer is better" in shown(screen)
        await until(pilot, lambda: read_votes())
        vote = read_votes()[0]
        assert vote.choice == vote.left == "ab"[order[0]] and vote.blind
        assert vote.answers == ("quick answer that goes on", "slower") and vote.prompt == "hello"


async def test_votes_of_every_kind_are_counted_and_survive_a_restart(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        for count, key in enumerate(("1", "right", "t", "b"), start=1):
            await answered(pilot, screen, engines.engines, "one", "two")
            await pilot.press(key)
            await until(pilot, lambda count=count: len(read_votes()) == count)
            assert pilot.app.focused is screen.query_one(Composer)
        await until(pilot, lambda: "A 1, B 1, 1 tie, 1 both bad; A better in 50%" in said(screen, "#tally"))
    async with alone() as (pilot, screen):
        await begin(pilot, B, A)  # the other way round
        assert "A 1, B 1, 1 tie, 1 both bad" in said(screen, "#tally")
    assert tallies()[0].votes == 4 and [vote.turn for vote in read_votes()] == [1, 2, 3, 4]


async def test_a_click_votes_too(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        await answered(pilot, screen, engines.engines, "one", "two")
        await pilot.click(screen.query("VoteChoice")[1])
        await until(pilot, lambda: [one.choice for one in read_votes()] == ["b"])


async def test_a_vote_that_cannot_be_kept_says_why(engines, home):
    async with alone() as (pilot, screen):
        await begin(pilot)
        (home / "data" / "votes.jsonl").mkdir(parents=True)
        await answered(pilot, screen, engines.engines, "one", "two")
        await pilot.press("left")
        await until(pilot, lambda: any("votes.jsonl" in one.message for one in pilot.app._notifications))


async def test_two_settings_of_one_model_share_it_and_answer_in_turn(engines):
    async with alone() as (pilot, screen):
        await begin(pilot, "built-in", "built-in --preset creative")
        assert len(engines.engines) == 1
        turn = await ask(pilot, screen)
        engines.engine.answer("steady")
        await until(pilot, lambda: 0 in turn.ends)
        engines.engine.answer("wild")
        await until(pilot, lambda: turn.over)
        assert panes(turn) == ["steady", "wild"]
        assert [asked["sampler"]["temp"] for asked in engines.engine.asked] == [0.8, 1.0]
        assert engines.engine.settings.threads == 0, "each has all cores"
        await pilot.press("escape", "f5")
        assert any("one model serves both" in one.message for one in pilot.app._notifications)


async def test_in_turn_the_second_begins_when_the_first_is_done(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        await pilot.press("f5")
        turn = await ask(pilot, screen)
        one, two = engines.engines
        one.say(arrived("first"))
        await until(pilot, lambda: panes(turn)[0] == "first")
        assert two.asked == [] and "one after the other" in said(screen, "#doing")
        one.say(finished())
        two.answer("second")
        await until(pilot, lambda: turn.over)
        assert one.settings.threads == two.settings.threads == 0


async def test_too_little_memory_for_both_loads_one_after_the_other(opened, engines, priced, scripted):
    async with opened() as (pilot, chat):
        priced.free = 6 * GIB
        await from_the_chat(pilot)
        screen = await begin(pilot)
        assert scripted.engine.closed, "the chat's model made room first"
        assert len(engines.engines) == 1
        turn = await ask(pilot, screen)
        engines.engines[0].answer("first")
        await until(pilot, lambda: len(engines.engines) == 2)
        assert engines.engines[0].closed
        engines.engines[1].answer("second")
        await until(pilot, lambda: turn.over)
        assert panes(turn) == ["first", "second"]
        await pilot.press("left")
        turn = await ask(pilot, screen)
        engines.engines[1].answer("what is loaded goes first")
        await until(pilot, lambda: len(engines.engines) == 3)
        engines.engines[2].answer("then the other")
        await until(pilot, lambda: turn.over)
        assert panes(turn) == ["then the other", "what is loaded goes first"]
        await pilot.press("escape", "escape", "escape")
        await until(pilot, lambda: pilot.app.screen is chat and len(scripted.engines) == 2)
        assert engines.engines[2].closed and chat.bridge is not None
        await until(pilot, lambda: chat.bridge.ready, "the chat's model again")


async def test_a_side_that_cannot_be_loaded_is_said_and_the_other_lives(engines, monkeypatch):
    def load(settings: Any, on_progress: Any) -> FakeEngine:
        if settings.n_ctx == 256:
            raise BadFile("llama.cpp cannot load it", "It may be cut short.")
        return engines.load(settings, on_progress)

    monkeypatch.setattr(contest, "load", load)
    async with alone() as (pilot, screen):
        await begin(pilot)
        assert "B cannot be loaded. llama.cpp cannot load it" in str(screen.query_one(Notice).render())
        turn = await ask(pilot, screen)
        engines.engine.answer("alone")
        await until(pilot, lambda: turn.over)
        assert panes(turn)[0] == "alone" and not screen.has_class("-voting")
        assert "cut short" in str(turn.pane(1).query_one(".trouble").render())
        turn = await ask(pilot, screen, "again")
        engines.engine.answer("still here")
        await until(pilot, lambda: turn.over)
        assert [one["content"] for one in engines.engine.asked[1]["messages"]] == ["hello", "alone", "again"]


async def test_a_worker_that_dies_is_said_on_its_side_and_the_other_goes_on(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        await pilot.press("f4")
        turn = await ask(pilot, screen)
        one, two = engines.engines
        one.say(arrived("begun "), EngineDied("The model's process ended (SIGKILL)"))
        two.say(arrived("alive"))
        await until(pilot, lambda: "SIGKILL" in str(turn.pane(0).query_one(".trouble").render()))
        assert f"A: {A}" in shown(screen), "there will be no vote: nothing is to be hidden"
        two.say(finished())
        await until(pilot, lambda: turn.over)
        assert not screen.has_class("-voting") and turn.pane(1).query_one(Markdown).source == "alive"


async def test_escape_stops_both_and_what_came_can_be_voted_on(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        turn = await ask(pilot, screen)
        for engine in engines.engines:
            engine.say(arrived("half an"))
        await until(pilot, lambda: all(panes(turn)))
        await pilot.press("escape")
        await until(pilot, lambda: turn.over)
        assert [engine.stops for engine in engines.engines] == [1, 1]
        assert "stopped" in shown(screen) and screen.has_class("-voting")
        await pilot.press("escape", "escape")
        assert screen.is_attached and "Esc once more leaves" in [*pilot.app._notifications][-1].message
        await pilot.press("x", "escape")
        assert screen.is_attached, "who goes on writing does not leave"
        await pilot.press("escape")
        await until(pilot, lambda: not screen.is_attached)
        assert all(engine.closed for engine in engines.engines)


async def test_a_prompt_sent_too_early_waits_for_the_models(engines):
    async with alone() as (pilot, screen):
        engines.gate.clear()
        await fill(pilot, screen, A, B)
        await until(pilot, lambda: not screen.has_class("-setup"))
        screen.query_one(Composer).text = "early"
        await pilot.press("enter", "escape")
        assert screen.query_one(Composer).text == "early", "taken back"
        await pilot.press("enter")
        engines.gate.set()
        await until(pilot, lambda: screen._turn is not None and screen._turn.prompt == "early")
        for engine in engines.engines:
            engine.answer("ok")
        await until(pilot, lambda: screen._turn.over)


async def test_what_cannot_be_a_side_is_said_under_the_fields(engines):
    async with alone() as (pilot, screen):
        await until(pilot, lambda: "One model serves both" in said(screen, ".price"), "the price", seconds=PROCESS_S)
        await fill(pilot, screen, "built-in", "built-in --tempp 2")
        await until(pilot, lambda: "B: built-in: There is no flag --tempp" in said(screen, ".price"))
        assert screen.has_class("-setup") and engines.engines == []
        screen.query_one("#side-b").focus()
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.query_one("#side-b", Input).value == "built-in --tempp 2", "its flags stay"
        await pilot.press("escape")
        await until(pilot, lambda: not screen.is_attached)


async def test_other_sides_begin_anew_and_the_same_ones_go_on(engines):
    async with alone() as (pilot, screen):
        await begin(pilot)
        await answered(pilot, screen, engines.engines, "one", "two")
        await pilot.press("left", "f2")
        await until(pilot, lambda: screen.has_class("-setup"))
        await pilot.press("ctrl+l")
        await until(pilot, lambda: not screen.has_class("-setup"))
        assert len(engines.engines) == 2 and screen.query(TurnView)
        await pilot.press("f2")
        await fill(pilot, screen, A, "built-in -c 128")
        await until(pilot, lambda: len(engines.engines) == 4 and screen._ready)
        assert engines.engines[0].closed and engines.engines[1].closed and not screen.query(TurnView)


async def test_leaving_while_a_model_loads_ends_it(engines):
    async with alone() as (pilot, screen):
        engines.gate.clear()
        await fill(pilot, screen, A, B)
        await until(pilot, lambda: "loading" in said(screen, "#doing"))
        await pilot.press("escape")
        await until(pilot, lambda: not screen.is_attached)
        engines.gate.set()
        await until(pilot, lambda: engines.engines and engines.engines[0].closed)
        assert len(engines.engines) == 1


@pytest.mark.parametrize("differs", ["-ctk q8_0", "--lora"])
async def test_the_real_engine_answers_with_two_settings(priced, monkeypatch, tmp_path, built_in, differs):
    loaded = []

    def load(*arguments: Any) -> Any:
        loaded.append(real_load(*arguments))
        return loaded[-1]

    monkeypatch.setattr(contest, "load", load)
    if differs == "--lora":
        differs += f" {write_adapter(tmp_path / 'some.gguf', built_in, strength=1.0)}"
    async with alone() as (pilot, screen):
        common = "built-in -c 256 -t 1 -n 24 --preset deterministic"
        await begin(pilot, common, f"{common} {differs}")
        turn = await ask(pilot, screen, "What does temperature do?")
        await until(pilot, lambda: screen.has_class("-voting"), "two answers", seconds=PROCESS_S)
        assert all(len(text) > 5 for text in turn.texts) and turn.can_be_voted_on
        assert shown(screen).count("tokens/s") == 2
        if "--lora" in differs:
            assert len(loaded) == 1 and turn.texts[0] != turn.texts[1], "one model, with the adapter and without it"
        await pilot.press("t")
        await until(pilot, lambda: [one.choice for one in read_votes()] == ["tie"])
        vote = read_votes()[0]
        assert vote.a.fingerprint == vote.b.fingerprint and differs.split()[0] in vote.b.flags.replace(
            "--cache-type-k", "-ctk"
        )
        assert vote.answers == tuple(turn.texts)
