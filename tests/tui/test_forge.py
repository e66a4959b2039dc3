"""The Forge: real jobs in child processes, from the built-in model's checkpoint to a chat with the new file."""

from __future__ import annotations

from functools import partial

import pytest
from repository import REPOSITORY
from scripted_engine import PROCESS_S, until
from textual.widgets import Input, SelectionList

from localknobs.tui.screens.forge import ForgeScreen

CHECKPOINT = REPOSITORY / "models" / "checkpoint"


async def forge(pilot, screen, source: str, types: tuple[str, ...] = ("Q4_K_M",)) -> ForgeScreen:
    """Open the Forge, fill it in, and wait for its plan."""
    await pilot.press("ctrl+g")
    await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))
    opened = pilot.app.screen
    opened.query_one(SelectionList).deselect_all()
    for name in types:
        opened.query_one(SelectionList).select(name)
    opened.query_one("#source", Input).value = source
    return opened


def text(screen: ForgeScreen, place: str) -> str:
    return str(screen.query_one(place).render())


waits = partial(until, seconds=PROCESS_S)


async def test_a_checkpoint_becomes_two_files_and_the_first_is_chatted_with(opened, scripted, home):
    async with opened() as (pilot, screen):
        made = await forge(pilot, screen, str(CHECKPOINT), ("Q8_0", "Q4_K_M"))
        await waits(pilot, lambda: "Ctrl+S starts" in text(made, "#plan"))
        assert "checkpoint-Q8_0.gguf" in text(made, "#plan") and "bits per weight" in text(made, "#plan")
        folder = home / "data" / "models"
        assert not folder.exists(), "a plan writes nothing"
        await pilot.press("ctrl+s")
        await waits(pilot, lambda: "Made" in text(made, "#result"))
        made_files = ["checkpoint-Q4_K_M.gguf", "checkpoint-Q8_0.gguf"]
        cards = [f"{name}.card.json" for name in made_files]
        assert sorted(file.name for file in folder.iterdir()) == sorted([*made_files, *cards])
        await pilot.press("ctrl+t")
        await until(pilot, lambda: pilot.app.screen is screen and len(scripted.engines) == 2)
        assert scripted.engine.settings.model == folder / "checkpoint-Q8_0.gguf"


async def test_what_cannot_be_planned_says_why_and_does_not_start(opened, tmp_path):
    async with opened() as (pilot, screen):
        made = await forge(pilot, screen, str(tmp_path / "nothing"))
        await waits(pilot, lambda: "There is no" in text(made, "#plan"))
        await pilot.press("ctrl+s")
        assert made._working is None
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)


@pytest.mark.parametrize("leave", [False, True], ids=["stopped", "left"])
async def test_a_stopped_job_leaves_nothing(opened, home, tmp_path, leave):
    from random_model import write_random_model

    source = write_random_model(
        tmp_path / "big.gguf", layers=8, width=1024, heads=8, kv_heads=4, feed_forward=2816, fillers=8000, kind="F16"
    )
    async with opened() as (pilot, screen):
        made = await forge(pilot, screen, str(source), ("Q2_K",))
        made.query_one("#folder", Input).value = str(tmp_path / "out")
        await waits(pilot, lambda: "Ctrl+S starts" in text(made, "#plan") and "out" in made._plan["files"][0]["path"])
        await pilot.press("ctrl+s")
        await waits(pilot, lambda: "left" in text(made, "#progress") or "%" in text(made, "#progress"))
        job = made._working
        assert job is not None, "it was done before it could be stopped"
        await pilot.press("escape")
        if leave:
            made.dismiss(None)
        await waits(pilot, lambda: job._process.poll() is not None)
    assert list((tmp_path / "out").iterdir()) == []
