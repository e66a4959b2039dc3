"""How each screen comes to the state that its picture shows: by its keys, with the real engine and real work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from loopback_hub import LoopbackHub, Repo
from make_screenshots import ask, until
from textual.pilot import Pilot
from textual.widgets import Input, Static

from localknobs.paths import built_in_model, models_folder

Steps = Callable[[Pilot[Any]], Awaitable[None]]
QUANTS = ("Q8_0", "Q4_K_M", "Q2_K")


OFFERED: dict[str, bytes | memoryview] = {}
"""Files of the repository that the Get screen finds."""


def fill(hub: LoopbackHub) -> None:
    """Give the hub what the Get screen finds: the built-in model, in a repository as such models have."""
    OFFERED["built-in-F16.gguf"] = built_in_model().read_bytes()
    hub.repos["someone/built-in-GGUF"] = Repo(OFFERED, parameters=5_508_352)
    hub.repos["someone/built-in"] = Repo({"config.json": b"{}"}, tags=("safetensors", "license:mit"), downloads=40)


def said(pilot: Pilot[Any], place: str) -> str:
    """Return what a line of the screen says."""
    found = pilot.app.screen.query(place)
    return str(found.first(Static).render()) if found else ""


async def forge(pilot: Pilot[Any]) -> None:
    """Make three files of the built-in model."""
    from localknobs.tui.widgets.mark_list import MarkList

    await pilot.press("ctrl+g")
    await until(pilot, lambda: pilot.app.screen.query(MarkList))
    for quant in QUANTS:
        pilot.app.screen.query_one(MarkList).select(quant)
    await until(pilot, lambda: all(f"-{quant}" in said(pilot, "#plan") for quant in QUANTS))
    await pilot.press("ctrl+s")
    await until(pilot, lambda: "Made" in said(pilot, "#result"))
    OFFERED.update({file.name: file.read_bytes() for file in models_folder().glob("built-in-*.gguf")})


async def models(pilot: Pilot[Any]) -> None:
    """Mark one of them."""
    await pilot.press("f3")
    await until(pilot, lambda: "fits" in said(pilot, ".verdict"))
    await pilot.press("down", "down")
    await pilot.pause(1)
    await until(pilot, lambda: "fits" in said(pilot, ".verdict"))


async def measure(pilot: Pilot[Any]) -> None:
    """Measure the three against their parent."""
    from localknobs.tui.widgets.candidates import Candidates
    from localknobs.tui.widgets.mark_list import MarkList

    files = [str(models_folder() / f"built-in-{quant}.gguf") for quant in QUANTS]
    pilot.app.screen._open_measure(files[0], fresh=True)  # type: ignore[attr-defined]
    await until(pilot, lambda: pilot.app.screen.query(Candidates) and pilot.app.screen.query_one(Candidates).base)
    screen = pilot.app.screen
    screen.query_one(Candidates).show(files, "built-in")
    screen.query_one(MarkList).deselect_all()
    for suite in ("ppl", "kld", "position"):
        screen.query_one(MarkList).select(suite)
    screen.query_one("#minutes", Input).value = "0.5"
    await until(pilot, lambda: "Ctrl+S starts" in said(pilot, "#state"))
    await pilot.press("ctrl+s")
    await until(pilot, lambda: screen.has_class("-report"))


async def context(pilot: Pilot[Any]) -> None:
    """Ask for twice the length that it was trained with."""
    from localknobs.tui.screens.context import TARGET
    from localknobs.tui.widgets.knob_row import KnobRow

    await pilot.press("f6")
    await until(pilot, lambda: pilot.app.screen.query("#by-pair"))
    next(row for row in pilot.app.screen.query(KnobRow) if row.row is TARGET).change(2048)
    await until(pilot, lambda: "yarn" in said(pilot, "#about").lower())
    await pilot.pause(1)


async def diagnose(pilot: Pilot[Any]) -> None:
    """Probe every symptom."""
    await pilot.press("alt+s")
    await until(pilot, lambda: pilot.app.screen.query("#symptoms"))
    await pilot.press("p")
    await until(pilot, lambda: pilot.app.works.latest("diagnose"))
    await until(pilot, lambda: not pilot.app.works.latest("diagnose").active)


async def cards(pilot: Pilot[Any]) -> None:
    """Show what quantizing did here."""
    from textual.widgets import Markdown

    await pilot.press("f10")
    await until(pilot, lambda: pilot.app.screen.query("#filter, Input"))
    await pilot.press("slash", *"quantize", "enter")
    await until(pilot, lambda: pilot.app.screen.query(Markdown).first().children)


async def ab(pilot: Pilot[Any]) -> None:
    """Let two temperatures answer."""
    await pilot.press("alt+v")
    await until(pilot, lambda: pilot.app.screen.query("SideSetup Input"))
    screen = pilot.app.screen
    await pilot.press("ctrl+l")
    await until(pilot, lambda: getattr(screen, "_ready", False))
    await ask(pilot, "What does temperature do?")
    await until(pilot, lambda: screen.has_class("-voting"))


async def tune(pilot: Pilot[Any]) -> None:
    """Train on the shipped example, shortly."""
    from localknobs.tui.widgets.knob_row import KnobRow
    from localknobs.tui.widgets.plot import Plot

    await pilot.press("alt+u")
    await until(pilot, lambda: pilot.app.screen.query("#losses"))
    screen = pilot.app.screen
    for name, value in {"max_steps": 60, "eval_steps": 10}.items():
        screen.query_one(f"#knob-{name}", KnobRow).change(value)
    screen.query_one("#sample", Input).value = "make it less random"
    await until(pilot, lambda: "Ctrl+S trains" in said(pilot, "#offer"))
    await pilot.press("ctrl+s")
    await until(
        pilot, lambda: (losses := screen.query_one("#losses", Plot).picture) and len(losses.lines[0].points) > 40
    )


async def get(pilot: Pilot[Any]) -> None:
    """Search, and list the files of a repository."""
    await pilot.press("f12")
    await until(pilot, lambda: pilot.app.screen.query("#search"))
    await pilot.press(*"built", "enter")
    await until(pilot, lambda: "Enter on a repository" in said(pilot, "#advice"))
    await pilot.press("enter")
    await until(pilot, lambda: "reading" not in said(pilot, "#advice") and "fits" in said(pilot, "#advice"))


async def samplers(pilot: Pilot[Any]) -> None:
    """Look at a token of the last answer."""
    screen = pilot.app.screen
    await pilot.press("ctrl+t")
    await until(pilot, lambda: screen.panel and screen.panel.view)  # type: ignore[attr-defined]
    await pilot.press(*["left"] * 10)
    await pilot.pause(1)


async def jobs(pilot: Pilot[Any]) -> None:
    """List what ran for the pictures before."""
    await pilot.press("alt+j")
    await until(pilot, lambda: pilot.app.screen.query("#about"))


STEPS: dict[str, Steps] = {
    "samplers": samplers, "forge": forge, "models": models, "get": get, "context": context, "ab": ab,
    "measure": measure, "cards": cards, "diagnose": diagnose, "tune": tune, "jobs": jobs,
}  # fmt: skip
"""By the pictures' names, in an order in which the later ones find what the earlier ones made."""
