"""Take the pictures of docs/ from the real program on the built-in model: `make screenshots`, some minutes.

`python tests/tui/make_screenshots.py 80x24 FOLDER [NAME ...]` takes them (or some) in another size, to look at.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from localknobs.tui.bridge import AnswerGrew

HOME = Path("/tmp/localknobs")
"""The pictures show paths of it, so it is short, and the same each time."""
DOCS = Path(__file__).resolve().parents[2] / "docs"
QUESTION = "What does temperature do?"
LONG_QUESTION = "tell me everything about sampling"


async def until(pilot: Pilot[Any], condition: Any) -> None:
    """Let the program work until the condition holds."""
    for _ in range(3000):
        if condition():
            return
        await pilot.pause(0.2)
    (HOME.parent / "localknobs-stays-here.svg").write_text(self_contained(pilot.app.export_screenshot()))
    raise SystemExit(f"the picture cannot be taken: {HOME}-stays-here.svg shows where the program stays")


async def ask(pilot: Pilot[Any], question: str) -> None:
    """Type a question and send it."""
    await pilot.press(
        *("space" if letter == " " else "question_mark" if letter == "?" else letter for letter in question)
    )
    await pilot.press("enter")


def self_contained(svg: str) -> str:
    """Return a picture that loads no font from elsewhere and keeps its spaces in every viewer."""
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("font-family: Fira Code", "font-family: Fira Code, DejaVu Sans Mono, Menlo, Consolas")
    return svg.replace("<svg ", '<svg xml:space="preserve" ', 1)


def pause_at_first_text(screen: Any) -> int:
    """Hold the engine at the first text it sends: the built-in model is done before a hand could move a slider."""
    engine, post = screen.bridge.engine._worker.process.pid, screen.bridge._post

    def pausing(message: Any) -> None:
        if isinstance(message, AnswerGrew):
            os.kill(engine, signal.SIGSTOP)
            screen.bridge._post = post
        post(message)

    screen.bridge._post = pausing
    return int(engine)


async def chat(pilot: Pilot[Any]) -> None:
    """Ask two questions, and move a slider during the second answer."""
    from localknobs.tui.screens.chat import ChatScreen
    from localknobs.tui.widgets.composer import Composer

    screen = pilot.app.screen
    assert isinstance(screen, ChatScreen)
    screen.sampler.set("seed", 3)
    screen.load_values["threads"] = 1
    await ask(pilot, QUESTION)
    await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)
    engine = pause_at_first_text(screen)
    await ask(pilot, LONG_QUESTION)
    await until(pilot, lambda: screen.answer and screen.answer.node)
    screen.set_class(True, "-knobs")
    await pilot.pause()
    screen.query_one("#knob-temp").focus()
    await pilot.press("right", "right")
    os.kill(engine, signal.SIGCONT)
    await until(pilot, lambda: screen.answer is None)
    screen.set_class(False, "-knobs")
    if not screen.conversation.branch()[-1].marks:
        raise SystemExit("the answer was written before the slider moved; run it again")
    screen.query_one(Composer).focus()


async def take(size: tuple[int, int], folder: Path, names: list[str]) -> None:
    """Open the program once, and go through its screens in an order in which each finds what those before made."""
    import pictured_screens
    from loopback_hub import LoopbackHub

    from localknobs.tui.app import LocalknobsApp

    with LoopbackHub() as hub:
        pictured_screens.fill(hub)
        os.environ["HF_ENDPOINT"] = hub.address
        app = LocalknobsApp()
        async with app.run_test(size=size) as pilot:
            screen = app.screen
            await until(pilot, lambda: screen.bridge.ready and screen.query("KnobRow"))  # type: ignore[attr-defined]
            for name, steps in {"chat": chat, **pictured_screens.STEPS}.items():
                if names and name not in names:
                    continue
                await steps(pilot)
                await pilot.pause(0.5)
                app.clear_notifications()
                await pilot.pause(0.2)
                (folder / f"{name}.svg").write_text(self_contained(app.export_screenshot()), encoding="utf-8")
                print(f"wrote {folder / name}.svg", flush=True)
                while app.screen is not screen:
                    await pilot.press("escape")
                    await pilot.pause(0.1)


def main(size: str = "120x40", folder: str = str(DOCS), *names: str) -> None:
    """Take every picture."""
    columns, lines = map(int, size.split("x"))
    HOME.mkdir()  # fails where it is something of somebody's
    try:
        os.environ.update(
            LOCALKNOBS_HOME=str(HOME), HOME=str(HOME), HF_HOME=str(HOME / "hub"), TEXTUAL_ANIMATIONS="none"
        )
        os.chdir(HOME)
        asyncio.run(take((columns, lines), Path(folder).resolve() if folder != str(DOCS) else DOCS, list(names)))
    finally:
        shutil.rmtree(HOME)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main(*sys.argv[1:])
