"""The Measure screen: real evaluations in child processes, stopped, gone on with, read again, written to a file."""

from __future__ import annotations

import shlex
from functools import partial

import pytest
from random_model import nudged, write_random_model
from scripted_engine import PROCESS_S, until
from textual.widgets import Input, Tabs

from localknobs.engine import LoadSettings
from localknobs.errors import BadValue
from localknobs.evaluate.config import EvalConfig, Variant
from localknobs.evaluate.kept_reports import keep_report, kept_reports
from localknobs.evaluate.run import evaluate, plan_eval
from localknobs.jobs import drain
from localknobs.tui.measure_form import MeasureForm
from localknobs.tui.screens.measure import REPORT, MeasureScreen
from localknobs.tui.screens.measure_reports import _check_target
from localknobs.tui.screens.picker import Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.widgets.candidates import Candidates
from localknobs.tui.widgets.mark_list import MarkList
from localknobs.tui.widgets.report_view import ReportView

waits = partial(until, seconds=PROCESS_S)
TEXT = "".join(chr(33 + (at * at + 7 * at) % 90) for at in range(800))


@pytest.fixture
def shelf(home):
    """Put a parent and two changed copies into the models folder, and a text beside it."""
    folder = home / "data" / "models"
    folder.mkdir(parents=True)
    base = write_random_model(folder / "some-F32.gguf", fillers=8)
    near = nudged(base, folder / "some-Q8_0.gguf", 0.02)
    far = nudged(base, folder / "some-Q4_K_M.gguf", 0.3)
    for child in (near, far):  # a parent is larger than what is made from it
        assert child.stat().st_size <= base.stat().st_size
    with base.open("ab") as file:
        file.write(b"\0" * 4096)
    (home / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


def small(home) -> str:
    return f"--chunk 64 -ngl 0 -t 1 -f {shlex.quote(str(home / 'text.txt'))}"


async def measure(pilot, model, home, suites=("ppl", "kld"), **fields) -> MeasureScreen:
    """Open the screen on a model, and fill it in."""
    pilot.app.screen._open_measure(str(model), fresh=True)
    await until(pilot, lambda: isinstance(pilot.app.screen, MeasureScreen) and pilot.app.screen.query(Candidates))
    opened = pilot.app.screen
    await until(pilot, lambda: opened.query_one(Candidates)._entries, "the list of models")
    opened.query_one(MarkList).deselect_all()
    for suite in suites:
        opened.query_one(MarkList).select(suite)
    for name, value in {"more": small(home), **fields}.items():
        opened.query_one(f"#{name}", Input).value = value
    return opened


def text(screen: MeasureScreen, place: str = "#state") -> str:
    return str(screen.query_one(place).render())


async def planned(pilot, screen) -> None:
    await waits(pilot, lambda: "Ctrl+S starts" in text(screen), "the plan")


async def test_the_chats_model_comes_with_what_changes_its_numbers(opened):
    async with opened() as (pilot, chat):
        chat.load_values.update(cache_type_k="q8_0", n_ctx=512, threads=1)
        await pilot.press("alt+m")
        await until(pilot, lambda: isinstance(pilot.app.screen, MeasureScreen) and pilot.app.screen.query(Candidates))
        await until(pilot, lambda: pilot.app.screen.form.models == ("built-in -ctk q8_0",))
        await until(pilot, lambda: pilot.app.screen.form.base == "built-in")


async def test_a_quant_is_measured_against_the_parent_that_is_proposed(opened, home, shelf):
    async with opened() as (pilot, _chat):
        screen = await measure(pilot, shelf / "some-Q8_0.gguf", home)
        assert screen.form.base.endswith("some-F32.gguf") and "proposed" in text(screen, "#hint")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press(*"Q4", "enter")
        await until(pilot, lambda: len(screen.form.models) == 2)
        await planned(pilot, screen)
        await pilot.press("ctrl+s")
        await waits(pilot, lambda: screen.has_class(REPORT), "the report")
        table = screen.query_one("#models")
        rows = [[str(cell) for cell in table.get_row_at(at)] for at in range(3)]
        assert [row[0] for row in rows] == ["some-F32", "some-Q8_0", "some-Q4_K_M"]
        (kept,) = kept_reports()
        divergence = kept.report.models[1].divergence
        assert f"{divergence.percentile_999:.4g}" in rows[1]
        assert "A  some-" in text(screen, "#words")
        # The command on the screen is the one that prints the same numbers.
        assert text(screen, "#command").endswith(kept.report.command) and "--json" not in kept.report.command
        assert shlex.split(kept.report.command)[1:] == screen.form.arguments()
        await pilot.press("right")
        await until(pilot, lambda: "KL divergence from some-F32" in text(screen, "#words"))
        assert "--suite kld" in text(screen, "#words")
        await pilot.press("escape")
        assert not screen.has_class(REPORT)
        await pilot.press("r")
        assert screen.has_class(REPORT)


@pytest.mark.slow
async def test_a_stopped_run_keeps_what_was_measured_and_goes_on_after_the_screen_was_left(opened, home, shelf):
    (home / "text.txt").write_text(TEXT * 16, encoding="utf-8")
    slow = write_random_model(shelf / "slow.gguf", layers=4, width=512, heads=8, kv_heads=8, feed_forward=1536)
    async with opened() as (pilot, chat):
        screen = await measure(pilot, slow, home, ("ppl",))
        await planned(pilot, screen)
        await pilot.press("ctrl+s")
        work = pilot.app.works.latest("eval")
        await waits(pilot, lambda: work.done > 100, "a few chunks")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is chat)
        assert work.active, "it goes on without its screen"
        await pilot.press("alt+m")
        await until(pilot, lambda: isinstance(pilot.app.screen, MeasureScreen))
        again = pilot.app.screen
        assert again.form.models == (str(slow),) and again.form.suites == "ppl"
        await pilot.press("ctrl+x")
        await waits(pilot, lambda: work.state == "stopped", "its end")
        await waits(pilot, lambda: "What was measured is kept" in text(again) and again._plan, "the plan")
        assert kept_reports() == []
        await pilot.press("ctrl+s")
        resumed = pilot.app.works.latest("eval")
        assert resumed is not work
        await waits(pilot, lambda: any("were read before and are kept" in note for note in resumed.notes), "the note")
        await pilot.press("ctrl+x")
        await waits(pilot, lambda: resumed.state == "stopped", "its end")


async def test_a_bad_line_and_a_short_text_are_said_before_anything_is_measured(opened, home, shelf):
    bad = home / "mine.jsonl"
    bad.write_text('{"prompt": "2+2=", "answer": "4"}\n{"answer": 5}\n', encoding="utf-8")
    (home / "short.txt").write_text("too short", encoding="utf-8")
    async with opened() as (pilot, _chat):
        screen = await measure(pilot, shelf / "some-F32.gguf", home, ("tasks",), tasks=str(bad))
        await waits(pilot, lambda: "Line 2 of" in text(screen), "the line")
        await pilot.press("ctrl+s")
        assert pilot.app.works.items == []
        screen.query_one(MarkList).deselect_all()
        screen.query_one(MarkList).select("ppl")
        screen.query_one("#more", Input).value = f"--chunk 64 -f {home / 'short.txt'}"
        await waits(pilot, lambda: "it takes 128: 2 of 64" in text(screen), "what the text needs")
        screen.query_one("#more", Input).value = "--chunk 'open"
        await waits(pilot, lambda: "A quote needs its end" in text(screen), "the quote")


@pytest.fixture
def kept(home, shelf) -> str:
    """Keep a report with every part that is drawn; return its name."""
    base, child = (
        Variant(path.stem, LoadSettings(model=path, n_gpu_layers=0))
        for path in (shelf / "some-F32.gguf", shelf / "some-Q8_0.gguf")
    )
    config = EvalConfig(
        models=(child,), base=base, suites=("ppl", "kld", "needle", "position"), text=home / "text.txt", threads=1,
        chunk_tokens=64, needle_lengths=(300,), needle_depths=2, needles=1, position_tokens=128, plan_memory=False,
        command="localknobs eval some-Q8_0 --base some-F32",
    )  # fmt: skip
    return keep_report(drain(evaluate(plan_eval(config))))


async def test_a_report_of_before_is_read_written_and_deleted(opened, home, shelf, kept, tmp_path):
    async with opened() as (pilot, _chat):
        screen = await measure(pilot, shelf / "some-F32.gguf", home, vram="1M")
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen and screen.has_class(REPORT))
        assert kept in text(screen, "#title") and "localknobs eval some-Q8_0" in text(screen, "#command")
        parts = [str(tab.label) for tab in screen.query(Tabs).first().query("Tab")]
        assert parts == ["Quality against size", "KL divergence", "Needles", "By place", "About"]
        assert "memory of the card: 1.0 MiB" in text(screen, "#words")
        for part, said in (("Needles", "depth"), ("By place", "some-Q8_0: perplexity"), ("About", "Measured by:")):
            screen.query_one(ReportView)._show_part(part)
            assert said in text(screen, "#words")
            assert screen.query_one("#curve").display == (part == "By place")
        target = tmp_path / "out.html"
        screen._write_to(str(target))
        await waits(pilot, target.is_file, "the page")
        assert "memory of the card" in target.read_text("utf-8")
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "Delete the report" in getattr(pilot.app.screen, "_title", ""))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not kept_reports())


async def test_models_are_added_turned_into_the_parent_and_taken_off(opened, home, shelf):
    async with opened() as (pilot, _chat):
        screen = await measure(pilot, shelf / "some-F32.gguf", home, ("ppl", "kld"))
        assert screen.form.base == "" and screen.form.suites == "ppl", "kld waits for a parent"
        await pilot.press("b")
        assert screen.form.base.endswith("some-F32.gguf") and screen.form.models == ()
        assert "a adds a model" in text(screen)
        candidates = screen.query_one(Candidates)
        candidates.add("built-in -ctk q4_0")
        await pilot.pause()
        assert screen.form.suites == "ppl,kld" and candidates.names == ["built-in -ctk q4_0"]
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        pilot.app.screen.query_one(Input).value = "built-in --no-such-flag"
        await pilot.press("enter")
        assert "There is no flag --no-such-flag" in str(pilot.app.screen.query_one(".trouble").render())
        await pilot.press("escape")
        await pilot.press("b")
        assert screen.form.base == "built-in -ctk q4_0"
        await pilot.press("x")
        assert screen.form.base == "" and len(screen.form.models) == 1
        await pilot.press("x")
        assert screen.form.models == ()
        candidates.add("built-in -ctk q8_0")
        assert screen.form.base == "built-in" and "the same without flags" in text(screen, "#hint")


async def test_suites_are_marked_one_after_another(opened, home, shelf):
    async with opened() as (pilot, _chat):
        screen = await measure(pilot, shelf / "some-Q8_0.gguf", home, ())
        suites = screen.query_one(MarkList)
        suites.focus()
        suites.highlighted = 0
        await pilot.press("down", "down", "space", "down", "space", "down")
        assert screen.form.suites == "tasks,forgetting" and suites.highlighted == 4
        await planned(pilot, screen)
        assert suites.highlighted == 4 and text(screen, "#note").startswith("needle: ")
        assert "questions of all models together" not in text(screen, "#note")
        await pilot.press("up", "up")
        await until(pilot, lambda: text(screen, "#note").startswith("tasks: "))
        assert "questions of all models" in text(screen, "#note")


def test_the_fields_are_a_command_line_and_back():
    form = MeasureForm(("a.gguf", "b.gguf -ctk q8_0"), "base.gguf", "ppl,kld", "5", vram="8G", more="--chunk 64 -t 1")
    words = form.arguments()
    assert words[:4] == ["eval", "a.gguf", "b.gguf -ctk q8_0", "--base"]
    assert MeasureForm.of([*words, "--json"]) == form
    assert form.command == shlex.join(["localknobs", *words])


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x.html", f"{'n' * 300}/x.html"])
def test_a_report_has_no_place_with_a_user_or_a_name_that_cannot_be(name):
    with pytest.raises(BadValue, match="There is no folder"):
        _check_target(name)
