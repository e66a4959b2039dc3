"""The Tune screen: a real training in a child process, stopped, resumed, chatted with; and what goes wrong."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
from scripted_engine import PROCESS_S, until
from textual.widgets import Input, OptionList

from localknobs.tui.screens.forge import ForgeScreen
from localknobs.tui.screens.picker import Picker
from localknobs.tui.screens.tune import TuneScreen
from localknobs.tui.tuning import free_name
from localknobs.tui.widgets.knob_row import KnobRow
from localknobs.tui.widgets.plot import Plot
from localknobs.tui.works import Work
from localknobs.tune.stopped import stopped_runs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tune"))
from tiny_training import make_base, write_examples  # noqa: E402

waits = partial(until, seconds=PROCESS_S)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


async def tune(pilot, **fields: object) -> TuneScreen:
    """Open the screen, and fill in fields and knobs."""
    await pilot.press("alt+u")
    await until(pilot, lambda: isinstance(pilot.app.screen, TuneScreen))
    screen = pilot.app.screen
    await pilot.pause()
    for name, value in fields.items():
        if screen.query(f"#{name}"):
            screen.query_one(f"#{name}", Input).value = str(value)
        else:
            screen.query_one(f"#knob-{name}", KnobRow).change(value)
    return screen


def text(screen: TuneScreen, place: str) -> str:
    return str(screen.query_one(place).render())


def losses(screen: TuneScreen) -> list[tuple[float, float]]:
    picture = screen.query_one("#losses", Plot).picture
    return list(picture.lines[0].points) if picture else []


TINY = {"seq_length": 64, "train_batch": 4, "learning_rate": 0.02}


@pytest.mark.slow
async def test_a_training_goes_on_while_the_screen_is_left_and_is_stopped(opened, scripted, base, home, tmp_path):
    data = write_examples(tmp_path / "data.jsonl")
    async with opened() as (pilot, _chat):
        screen = await tune(pilot, base=base, data=data, sample="say 1", epochs=1000.0, eval_steps=5, **TINY)
        await waits(pilot, lambda: "examples to learn from" in text(screen, "#plan"))
        assert "it is" in text(screen, "#plan") and "MiB of memory" in text(screen, "#plan")
        assert "Ctrl+S trains" in text(screen, "#offer")
        await pilot.press("ctrl+s")
        await waits(pilot, lambda: len(losses(screen)) > 2, "the first losses")
        assert screen.query_one("#run").display and "say 1" in text(screen, "#samples")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is _chat)
        work = pilot.app.works.latest("finetune")
        assert work.active, "it goes on when the screen is left"
        screen = await tune(pilot)
        await waits(pilot, lambda: len(losses(screen)) > 2 and "loss" in text(screen, "#state"), "the curves again")
        await pilot.press("ctrl+x")
        await waits(pilot, lambda: not work.active)
        assert work.state == "stopped"
        await until(pilot, lambda: "stopped at step" in text(screen, "#state"))
    output = home / "data" / "models" / "tiny-data"
    assert not output.exists() and output.with_name("tiny-data.curves.svg").is_file()
    (run,) = stopped_runs([output.parent])
    assert (run.base, run.data, run.samples) == (str(base), str(data), ("say 1",))
    assert run.knobs["epochs"] == 1000.0 and run.output == output


async def test_a_stopped_training_is_offered_when_the_program_is_opened_again(opened, scripted, base, home, tmp_path):
    from tiny_training import tiny_config

    from localknobs.convert.imatrix import shipped_text
    from localknobs.jobs import Measured
    from localknobs.tune.examples import shipped_examples
    from localknobs.tune.finetune import finetune
    from localknobs.tune.plan import plan_finetune

    models = home / "data" / "models"
    models.mkdir(parents=True)
    measured = {"general": shipped_examples("flags", "-general"), "rehearsal": shipped_text()}
    job = finetune(plan_finetune(tiny_config(base, tmp_path, output=models / "half", prove=False, **measured)))
    for event in job:
        if isinstance(event, Measured) and event.name == "loss" and event.step == 3:
            break
    job.close()
    async with opened() as (pilot, chat):
        screen = await tune(pilot)
        await until(pilot, lambda: "Ctrl+R goes on with the stopped training of half" in text(screen, "#offer"))
        assert "Stopped at step" in text(screen, "#state")
        await pilot.press("ctrl+r")
        assert screen.query_one("#output", Input).value == "half" and screen.values["epochs"] == 4.0
        work: Work = pilot.app.works.latest("finetune")
        await waits(pilot, lambda: not work.active)
        assert work.state == "done", work.error
        assert any("Taken up after step" in note for note in work.notes)
        await until(pilot, lambda: "Made" in text(screen, "#state") and "held-out loss" in text(screen, "#state"))
        assert "Ctrl+T chats" in text(screen, "#offer") and not screen._stopped
        await pilot.press("ctrl+t")  # the base is no file that can be chatted with: which one, is asked
        await waits(pilot, lambda: isinstance(pilot.app.screen, Picker))
        assert pilot.app.screen.query_one(OptionList).option_count >= 1
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is chat and len(scripted.engines) == 2)
        assert scripted.engine.settings.lora == ()  # the built-in model is not its base: taken off, with the reason
        await until(pilot, lambda: any("Taken off" in one.message for one in pilot.app._notifications))
        screen = await tune(pilot)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))
        forge = pilot.app.screen
        assert forge.query_one("#source", Input).value == str(base)
        assert forge.query_one("#adapters", Input).value == str(models / "half")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base": ""}, "Fill in on the left: Base"),
        ({"data": "nothing.jsonl"}, "does not exist"),
        ({"base": "/nowhere"}, "/nowhere"),
        ({"lora_targets": "q_prj"}, "Did you mean q_proj?"),
    ],
)
async def test_what_cannot_be_trained_says_why_and_does_not_start(opened, fields, said):
    async with opened(size=(80, 24)) as (pilot, _chat):
        screen = await tune(pilot, **fields)
        await waits(pilot, lambda: said in text(screen, "#plan"))
        await pilot.press("ctrl+s")
        assert not pilot.app.works.items


async def test_a_missing_extra_says_how_to_install_it(opened, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'peft' else real(name, *rest)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with opened() as (pilot, _chat):
        screen = await tune(pilot)
        await waits(pilot, lambda: "pip install" in text(screen, "#plan"))
        assert "peft" in text(screen, "#plan")


async def test_a_training_that_fails_says_why(opened, home):
    async with opened() as (pilot, _chat):
        screen = await tune(pilot)
        pilot.app.works.start("finetune", "a bad one", ["finetune", "built-in", "nothing.jsonl", "-o", "x", "--json"])
        await waits(pilot, lambda: "nothing.jsonl does not exist" in text(screen, "#state"))
        assert not screen.check_action("chat", ()) and not screen.check_action("stop", ())


async def test_bases_and_data_are_chosen_from_lists_and_arrows_go_through_all_fields(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_examples(tmp_path / "mine.jsonl")
    async with opened(size=(80, 24)) as (pilot, _chat):
        screen = await tune(pilot)
        screen.query_one("#data").focus()
        await pilot.press("enter")
        await waits(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press(*"mine", "enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.query_one("#data", Input).value == str(tmp_path / "mine.jsonl")
        assert screen.query_one("#output", Input).value == "built-in-mine"
        screen.query_one("#base").focus()
        await pilot.press("enter")
        await waits(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("escape")
        seen = []
        for _ in range(len(screen.query("#fields KnobRow, #fields Input"))):
            await pilot.press("down")
            seen.append(screen.focused)
        assert {one.row.name for one in seen if isinstance(one, KnobRow)} == set(screen.values)


async def test_the_mouse_moves_a_slider_and_the_look_follows(opened):
    async with opened() as (pilot, _chat):
        screen = await tune(pilot)
        await pilot.click("#knob-max_steps", offset=(20, 0))
        assert 0 < screen.values["max_steps"] < 5000
        screen.query_one("#knob-max_steps", KnobRow).change(30)
        await waits(pilot, lambda: "30 steps in all" in text(screen, "#plan"))


def test_a_name_is_proposed_for_whatever_is_typed(tmp_path):
    assert free_name("~nobody-of-that-name", "facts.jsonl", tmp_path) == "~nobody-of-that-name-facts"
    assert free_name("n" * 300, "", tmp_path) == "n" * 300
