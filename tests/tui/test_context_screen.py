"""The Context screen: the length moves the rows, the rows move picture and bill; apply, write, refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf_files import small_gguf
from random_model import write_random_model
from scripted_engine import until
from textual.widgets import Input, Static

from localknobs.gguf_info import read_header
from localknobs.paths import models_folder
from localknobs.tui.screens.context import ContextScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.widgets.fit_bar import FitBar
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.memory_bill import MemoryBill
from localknobs.tui.widgets.plot import Plot
from localknobs.tui.widgets.transcript import Notice


@pytest.fixture(autouse=True)
def unpriced(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Price nothing, which takes a child process, but in the test that is about it."""
    if "bill" not in request.node.name:
        monkeypatch.setattr(MemoryBill, "price", lambda *_: None)


async def context(pilot) -> ContextScreen:
    await pilot.press("f6")
    await until(pilot, lambda: isinstance(pilot.app.screen, ContextScreen) and pilot.app.screen.query(Plot))
    await pilot.pause()
    return pilot.app.screen


def row(screen: ContextScreen, name: str) -> KnobRow:
    return screen.query_one(f"#knob-{name}", KnobRow)


def text_of(screen: ContextScreen, place: str) -> str:
    return " ".join(str(screen.query_one(place, Static).render()).split())


async def test_f6_opens_it_from_the_message_box_and_escape_changes_nothing(opened, scripted):
    async with opened() as (pilot, screen):
        before = dict(screen.load_values)
        shown = await context(pilot)
        assert row(shown, "target_ctx").value == 1024 and row(shown, "way").value == "model"
        assert "every rotation is as training saw it" in text_of(shown, "#about")
        row(shown, "target_ctx").change(4096)
        await pilot.pause()
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.load_values == before and len(scripted.engines) == 1


async def test_the_length_proposes_method_factor_and_original_length_and_says_the_price(opened):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        await pilot.press("4", "0", "9", "6", "enter")
        await until(pilot, lambda: row(shown, "way").value == "yarn")
        assert (row(shown, "rope_scaling").value, row(shown, "rope_scale").value) == ("yarn", 4)
        assert row(shown, "yarn_orig_ctx").value == 1024
        about = text_of(shown, "#about")
        assert "Short prompts change a little" in about and "12.0 MiB when full" in about
        assert "Unscaled, 14 of 32 pairs" in about and "scaled, none" in about


async def test_the_method_moves_factor_and_base_and_stays_when_the_length_moves(opened):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        row(shown, "target_ctx").change(2048)
        await until(pilot, lambda: row(shown, "way").value == "yarn")
        row(shown, "way").change("ntk")
        await until(pilot, lambda: row(shown, "rope_freq_base").value > 10_000)
        assert row(shown, "rope_scaling").value == "none" and row(shown, "rope_scale").value == 0
        base = row(shown, "rope_freq_base").value
        row(shown, "target_ctx").change(4096)
        await until(pilot, lambda: row(shown, "rope_freq_base").value > base)
        assert row(shown, "way").value == "ntk"
        row(shown, "rope_freq_base").change(50_000.0)
        await until(pilot, lambda: row(shown, "way").value == "by hand")
        row(shown, "target_ctx").change(512)
        await until(pilot, lambda: row(shown, "way").value == "model")
        assert row(shown, "rope_freq_base").value == 0
        row(shown, "way").change("linear")
        await until(pilot, lambda: row(shown, "way").value == "model", "no scaling within the trained length")


async def test_the_picture_follows_and_shows_another_pair(opened):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        row(shown, "target_ctx").change(2048)
        await until(pilot, lambda: "2,048" in shown.query_one("#by-pair", Plot).picture.title)
        unscaled, scaled = shown.query_one("#by-pair", Plot).picture.lines
        assert len(scaled.points) == 32 and scaled.points[-1][1] == pytest.approx(unscaled.points[-1][1] / 2)
        assert "pair 18" in shown.query_one("#by-position", Plot).picture.title
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "pair 19" in shown.query_one("#by-position", Plot).picture.title)
        drawn = str(shown.query_one("#by-pair", Plot).render())
        assert any("⠀" < letter <= "⣿" for letter in drawn)


async def test_on_a_narrow_screen_p_shows_the_other_picture(opened):
    async with opened(size=(80, 24)) as (pilot, _screen):
        shown = await context(pilot)
        by_pair, by_position = shown.query_one("#by-pair"), shown.query_one("#by-position")
        assert by_pair.display and not by_position.display
        await pilot.press("p")
        assert by_position.display and not by_pair.display


async def test_apply_loads_the_model_again_with_the_rows(opened, scripted):
    async with opened() as (pilot, screen):
        shown = await context(pilot)
        row(shown, "target_ctx").change(4096)
        row(shown, "cache_type_k").change("q8_0")
        await until(pilot, lambda: shown.values["rope_scale"] == 4)
        await pilot.press("ctrl+l")
        await until(pilot, lambda: len(scripted.engines) == 2 and screen.bridge.ready)
        settings = scripted.engine.settings
        assert (settings.n_ctx, settings.rope_scaling, settings.rope_scale) == (4096, "yarn", 4)
        assert settings.cache_type_k == "q8_0" and not screen.reload_pending
        assert (await context(pilot)).values["rope_scaling"] == "yarn", "it opens as things are"


async def test_what_needs_no_load_is_taken_without_one(opened, scripted):
    async with opened() as (pilot, screen):
        shown = await context(pilot)
        row(shown, "context_full").change("sinks")
        await pilot.press("ctrl+l")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.load_values["context_full"] == "sinks" and len(scripted.engines) == 1


async def test_a_combination_that_would_crash_is_refused_by_name_and_not_applied(opened, scripted):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        row(shown, "cache_type_v").change("q8_0")
        row(shown, "flash_attn").change("off")
        await until(pilot, lambda: "cache_type_v (-ctv) q8_0 does not go with flash_attn" in text_of(shown, "#trouble"))
        await pilot.press("ctrl+l")
        await pilot.press("w")
        await pilot.pause()
        assert pilot.app.screen is shown and len(scripted.engines) == 1
        row(shown, "flash_attn").change("auto")
        await until(pilot, lambda: not shown.query_one("#trouble").display)


async def test_a_shift_that_would_corrupt_the_cache_is_refused_and_another_method_takes_it_back(opened):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        row(shown, "target_ctx").change(2048)
        row(shown, "drop_by").change("shift")
        await until(pilot, lambda: "drop_by (--drop-by) cannot be shift: with YaRN" in text_of(shown, "#trouble"))
        assert not shown.query_one(MemoryBill).display
        row(shown, "way").change("linear")
        await until(pilot, lambda: not shown.query_one("#trouble").display)
        assert shown.query_one(MemoryBill).display


async def test_enter_lists_the_choices_of_a_row(opened):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        row(shown, "cache_type_k").focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press(*"q8", "enter")
        await until(pilot, lambda: shown.values["cache_type_k"] == "q8_0")


async def test_the_bill_moves_with_the_length_and_nothing_is_loaded(opened, scripted):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        await until(pilot, lambda: shown.query(FitBar), seconds=40)  # a child process begins
        bar = shown.query(FitBar).first()
        cache = bar.parts["cache"]
        row(shown, "target_ctx").change(4096)
        await until(pilot, lambda: bar.parts["cache"] == 4 * cache)
        assert len(scripted.engines) == 1


async def test_w_writes_a_file_that_reaches_further_and_it_can_be_chatted_with(opened, scripted):
    async with opened() as (pilot, screen):
        shown = await context(pilot)
        row(shown, "target_ctx").change(2048)
        await until(pilot, lambda: shown.values["rope_scale"] == 2)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        assert pilot.app.screen.query_one(Input).value == str(models_folder() / "built-in-2048.gguf")
        await pilot.press("enter")
        await until(pilot, lambda: "Written to" in text_of(shown, "#progress"), seconds=40)  # a child process begins
        written = models_folder() / "built-in-2048.gguf"
        assert read_header(written).context_trained == 2048
        await pilot.press("ctrl+t")
        await until(pilot, lambda: len(scripted.engines) == 2 and screen.bridge.ready)
        settings = scripted.engine.settings
        assert settings.model == written and (settings.rope_scaling, settings.n_ctx) == ("model", 0)


async def test_m_measures_what_the_scaling_does_shows_it_and_keeps_it_for_the_cards(opened, home: Path):
    folder = models_folder()
    folder.mkdir(parents=True)
    write_random_model(folder / "small.gguf", context=512)
    async with opened() as (pilot, screen):
        screen.wanted_name = "small"
        shown = await context(pilot)
        await pilot.press("m")
        await until(pilot, lambda: "nothing is scaled" in text_of(shown, "#progress"), seconds=40)
        row(shown, "target_ctx").change(1024)
        await until(pilot, lambda: shown.values["rope_scale"] == 2)
        await pilot.press("m")
        await until(pilot, lambda: "x stops, what was measured is kept" in text_of(shown, "#progress"))
        await pilot.press("w")
        await pilot.pause()
        assert pilot.app.screen is shown, "one work at a time"
        await until(pilot, lambda: "reading with" in text_of(shown, "#progress"), seconds=40)
        await pilot.press("x")
        await until(pilot, lambda: "Stopped; m goes on." in text_of(shown, "#progress"), seconds=40)
        found = {"flags": "--rope-scale 2", "against": "small", "lines": [["short prompts", "KLD"]], "notes": ["Why."]}
        work = pilot.app.works.items[0]
        assert work.arguments[-2:] == ("--measure", "--json") and "--rope-scaling" in work.arguments
        work.state, work.output = "done", json.dumps({"written": None, "measured": found})
        shown._show_work()
        assert "Measured: --rope-scale 2, against small" in text_of(shown, "#progress")
        assert "short prompts: KLD ! Why." in text_of(shown, "#progress") and not shown.check_action("chat", ())


async def test_a_file_that_cannot_be_written_says_why(opened, home: Path):
    async with opened() as (pilot, _screen):
        shown = await context(pilot)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        await pilot.press("enter")
        await until(pilot, lambda: "stay as it is" in text_of(shown, "#progress"), seconds=40)  # a child process begins
        assert not list(models_folder().glob("*.gguf"))
        assert not shown.check_action("chat", ())


async def test_a_model_that_scales_already_is_told_apart_and_longrope_is_refused(opened, home: Path):
    folder = models_folder()
    folder.mkdir(parents=True)
    scaling = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    write_random_model(folder / "scaled.gguf", keys=scaling)
    write_random_model(folder / "long.gguf", keys={**scaling, "llama.rope.scaling.type": "longrope"})
    async with opened() as (pilot, screen):
        screen.wanted_name = "scaled"
        shown = await context(pilot)
        assert "yarn, factor" in text_of(shown, "#about")
        row(shown, "target_ctx").change(8 * row(shown, "target_ctx").value)
        await until(pilot, lambda: "replaced, not multiplied" in text_of(shown, "#about"))
        await pilot.press("escape")
        screen.wanted_name = "long"
        shown = await context(pilot)
        row(shown, "target_ctx").change(65_536)
        await until(pilot, lambda: "compound" in text_of(shown, "#trouble"))
        await pilot.press("ctrl+l")
        await pilot.pause()
        assert pilot.app.screen is shown


async def test_a_damaged_model_says_why_instead_of_opening(opened, home: Path):
    folder = models_folder()
    folder.mkdir(parents=True)
    (folder / "cut.gguf").write_bytes(small_gguf()[:100])
    async with opened() as (pilot, screen):
        screen.wanted_name = "cut"
        await pilot.press("f6")
        await until(pilot, lambda: "cut short" in " ".join(str(one.render()) for one in screen.query(Notice)))
        assert pilot.app.screen is screen
