"""The Forge: real jobs in child processes, from the built-in model's checkpoint to a chat with the new file."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from random_model import write_random_model
from repository import REPOSITORY
from scripted_engine import PROCESS_S, until
from textual.widgets import Input, SelectionList

from localknobs.tui.screens.forge import ForgeScreen
from localknobs.tui.screens.picker import Picker

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
        assert pilot.app.works.items == []
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)


def big_model(folder: Path) -> Path:
    """Write a model that takes seconds to quantize."""
    return write_random_model(
        folder / "big.gguf", layers=8, width=1024, heads=8, kv_heads=4, feed_forward=2816, fillers=8000, kind="F16"
    )


async def started(pilot, screen, folder: Path) -> ForgeScreen:
    """Open the Forge and start work that takes seconds."""
    made = await forge(pilot, screen, str(big_model(folder)), ("Q2_K",))
    made.query_one("#folder", Input).value = str(folder / "out")
    await waits(pilot, lambda: made._plan and "out" in made._plan["files"][0]["path"])
    await pilot.press("ctrl+s")
    await waits(pilot, lambda: "%" in text(made, "#progress"))
    return made


@contextmanager
def held(job) -> Iterator[None]:
    """Hold a job's process still: on a fast machine it is done before it is stopped."""
    os.kill(job._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(job._process.pid, signal.SIGCONT)


async def test_a_stopped_job_leaves_nothing(opened, tmp_path):
    async with opened() as (pilot, screen):
        made = await started(pilot, screen, tmp_path)
        work = pilot.app.works.latest("quantize")
        assert work and work.active, "it was done before it could be stopped"
        with held(work.job):
            await pilot.press("ctrl+x")
        await waits(pilot, lambda: "stopped. Nothing was written" in text(made, "#result"))
        assert work.state == "stopped" and list((tmp_path / "out").iterdir()) == []


async def test_work_goes_on_when_the_forge_is_left_and_shows_again(opened, tmp_path):
    async with opened() as (pilot, screen):
        await started(pilot, screen, tmp_path)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is screen)
        await until(pilot, lambda: "1 job: quantizing" in str(screen.status.render()))
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))
        shown = pilot.app.screen
        await until(pilot, lambda: "big-Q2_K.gguf" in text(shown, "#progress"))
        await pilot.press("ctrl+s")  # there is no second one beside it
        await pilot.press("escape")
        await waits(pilot, lambda: not pilot.app.works.items[0].active)
        await until(pilot, lambda: not screen.status.work)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))
        await until(pilot, lambda: "Made" in text(pilot.app.screen, "#result"))
        assert len(pilot.app.works.items) == 1
        assert (tmp_path / "out" / "big-Q2_K.gguf").is_file()


async def test_leaving_the_program_stops_the_work_and_leaves_nothing_half(opened, tmp_path):
    holding = ExitStack()
    async with opened() as (pilot, screen):
        await started(pilot, screen, tmp_path)
        job = pilot.app.works.items[0].job
        holding.enter_context(held(job))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        assert "big-Q2_K.gguf" in str(pilot.app.screen.query_one(".note").render())
        await pilot.press("enter")  # stay
        await until(pilot, lambda: isinstance(pilot.app.screen, ForgeScreen))
        assert pilot.app.works.items[0].active
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not pilot.app.is_running)
    holding.close()
    job._process.wait(PROCESS_S)
    assert list((tmp_path / "out").iterdir()) == []
