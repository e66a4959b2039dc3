"""Adapters in the chat: chosen, scaled, silenced and taken off; the next answer is written with what is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from made_adapters import write_adapter, write_control_vector
from random_model import write_random_model
from scripted_engine import until
from textual.widgets import Input, OptionList, Static

from localknobs.conversations import Conversation, saved_conversations
from localknobs.engine.adapter_rack import AdapterRack
from localknobs.paths import built_in_model, models_folder
from localknobs.tui.screens.picker import Picker
from localknobs.tui.screens.text_dialog import TextDialog
from localknobs.tui.widgets.adapter_rows import AdapterRow, AdapterRows
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.transcript import Notice


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return files of the models folder by name: two that fit the built-in model, and one of another model."""
    monkeypatch.chdir(tmp_path)
    folder = models_folder()
    folder.mkdir(parents=True)
    small = write_random_model(folder / "small.gguf")
    made = {
        "calm": write_control_vector(folder / "calm.gguf", built_in_model()),
        "mine": write_adapter(folder / "mine.gguf", built_in_model()),
        "of-small": write_adapter(folder / "of-small.gguf", small),
        "small": small,
    }
    return {name: str(path) for name, path in made.items()}


def sliders(screen) -> dict[str, float]:
    return {slider.row.label: slider.value for slider in screen.query(AdapterRow)}


def notifications(screen) -> str:
    return "\n".join(note.message for note in screen.app._notifications)


async def choose(pilot, screen, *keys: str) -> None:
    """Choose from the list of adapters."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Picker), "the list")
    await pilot.press(*keys)
    await until(pilot, lambda: pilot.app.screen is screen, "the chat")


async def answered(pilot, screen, scripted, text: str = "hi") -> None:
    screen.query_one(Composer).focus()
    await pilot.press(*text, "enter")
    scripted.engine.answer("So it is.")
    await until(pilot, lambda: screen.answer is None and scripted.engine.script.empty() and scripted.engine.asked)
    await pilot.pause()


async def test_one_is_chosen_scaled_and_written_with(opened, scripted, files):
    async with opened() as (pilot, screen):
        assert not screen.query_one(AdapterRows).display, "no room is taken where there are none"
        await pilot.press("alt+a")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        listed = pilot.app.screen.query_one(OptionList)
        options = [listed.get_option_at_index(at) for at in range(listed.option_count)]
        assert [option.disabled for option in options] == [False, False, True, False, False]
        assert "in built-in.gguf it is 256 x 128" in str(options[2].prompt)
        await choose(pilot, screen, *"mine", "enter")
        await until(pilot, lambda: isinstance(screen.focused, AdapterRow), "the slider")
        assert sliders(screen) == {"mine": 1.0}
        await pilot.press("left", "left", "shift+right")
        await answered(pilot, screen, scripted)
        expected = f"{files['mine']}:{sliders(screen)['mine']:.9g}"
        assert scripted.engine.settings.lora == (expected,) and len(scripted.engines) == 1, "no reload"
        await pilot.pause()
        assert "with mine " in str(screen.transcript.views[-1].query_one(".foot", Static).content)
        await pilot.press("alt+a", "0", ".", "5", "enter")
        await until(pilot, lambda: sliders(screen) == {"mine": 0.5})
        await answered(pilot, screen, scripted, "again")
        assert scripted.engine.settings.lora == (f"{files['mine']}:0.5",)
    saved = Conversation(saved_conversations()[0].path).branch()
    assert [node.stats["adapters"] for node in saved if node.role == "assistant"] == [
        [expected], [f"{files['mine']}:0.5"],
    ]  # fmt: skip


async def test_the_base_answers_beside_them_by_two_keys(opened, scripted, files):
    async with opened() as (pilot, screen):
        await pilot.press("alt+a")
        await choose(pilot, screen, *"mine", "enter")
        await until(pilot, lambda: isinstance(screen.focused, AdapterRow))
        await pilot.press("a")
        await choose(pilot, screen, *"calm", "enter")
        await until(pilot, lambda: len(sliders(screen)) == 2 and isinstance(screen.focused, AdapterRow))
        assert "calm.gguf does not say on which model" in notifications(screen)
        await answered(pilot, screen, scripted)
        engine = scripted.engine
        assert (engine.settings.lora, engine.settings.control_vector) == (
            (f"{files['mine']}:1",),
            (f"{files['calm']}:1",),
        )
        assert str(screen.query_one(Composer).border_subtitle) == "+ mine 1, calm 1"
        await pilot.press("alt+a", "w")
        await until(pilot, lambda: str(screen.query_one(Composer).border_subtitle) == "without its adapters")
        await pilot.press("ctrl+r")
        engine.answer("The base says.")
        await until(pilot, lambda: engine.script.empty() and screen.answer is None and len(engine.asked) == 2)
        assert engine.settings.lora == (f"{files['mine']}:0",) and sliders(screen) == {"mine": 1.0, "calm": 1.0}
        await pilot.press("w")
        await until(pilot, lambda: str(screen.query_one(Composer).border_subtitle) == "+ mine 1, calm 1")


async def test_a_change_during_an_answer_waits_for_the_next_one(opened, scripted, files, typed):
    async with opened() as (pilot, screen):
        await pilot.press("alt+a")
        await choose(pilot, screen, *"mine", "enter")
        await until(pilot, lambda: isinstance(screen.focused, AdapterRow))
        screen.query_one(Composer).focus()
        await typed(pilot, "hi")
        await pilot.press("enter")
        await until(pilot, lambda: scripted.engine.asked)
        await pilot.press("alt+a", "left", "x")
        await until(pilot, lambda: not sliders(screen))
        assert scripted.engine.settings.lora == (f"{files['mine']}:1",)
        scripted.engine.answer("done")
        await until(pilot, lambda: screen.answer is None)
        node = screen.transcript.views[-1].node
        assert node.stats["adapters"] == [f"{files['mine']}:1"], "what it was written with, not what is on now"
        assert not screen.query_one(AdapterRows).display and screen.focused is not None


async def test_a_file_by_its_path_is_checked_before_it_is_on(opened, scripted, files):
    async with opened() as (pilot, screen):
        for path, says in ((files["of-small"], "in built-in.gguf it is"), ("nowhere.gguf", "no file nowhere.gguf")):
            await pilot.press("alt+a")
            await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
            await pilot.press(*"another", "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
            pilot.app.screen.query_one(Input).value = path
            await pilot.press("enter")
            await until(pilot, lambda says=says: any(says in str(one.content) for one in screen.query(Notice)))
        assert screen.load_values["lora"] == () and not sliders(screen)


async def test_on_another_model_those_of_the_old_one_are_taken_off_with_the_reason(opened, scripted, files):
    async with opened() as (pilot, screen):
        await pilot.press("alt+a")
        await choose(pilot, screen, *"mine", "enter")
        await until(pilot, lambda: sliders(screen))
        screen.use_model(files["small"])
        await until(pilot, lambda: len(scripted.engines) == 2 and screen.bridge.ready, "the other model")
        assert scripted.engine.settings.lora == () and "Taken off:" in notifications(screen)
        await until(pilot, lambda: not sliders(screen))


async def test_the_knobs_row_and_the_menu_lead_to_the_list(opened, files):
    async with opened() as (pilot, screen):
        screen.query_one("#knob-lora").focus()
        await pilot.press("enter")
        await choose(pilot, screen, "escape")
        await pilot.press("f7", *"adapters", "enter")
        await choose(pilot, screen, "escape")


async def test_what_lies_in_the_present_folder_is_listed_once(opened, files, tmp_path):
    for name, whole in (("tuned", True), ("peft-alone", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        if whole:
            (tmp_path / name / f"{name}.gguf").write_bytes(Path(files["mine"]).read_bytes())
    async with opened() as (pilot, screen):
        await pilot.press("alt+a")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        listed = pilot.app.screen.query_one(OptionList)
        keys = [str(listed.get_option_at_index(at).id) for at in range(listed.option_count)]
        assert [Path(key).name for key in keys[:4]] == ["calm.gguf", "mine.gguf", "peft-alone", "tuned.gguf"]
        assert str(tmp_path / "tuned") not in keys


async def test_several_changes_at_once_end_in_the_last_one(opened, files):
    async with opened() as (pilot, screen):
        await until(pilot, lambda: screen.query(AdapterRows) and screen.bridge.ready)
        rows = screen.query_one(AdapterRows)
        one = AdapterRack().added("adapter", files["mine"])
        both = one.added("control vector", files["calm"])
        await asyncio.gather(*map(rows.show, (one, both, AdapterRack(), both.scaled(2, 0.5))))
        assert [slider.value for slider in rows.query(AdapterRow)] == [1.0, 0.5]
