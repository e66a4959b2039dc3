"""Take the pictures of the README from the real program on the built-in model: `make screenshots`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from localknobs.tui.bridge import AnswerGrew

DOCS = Path(__file__).resolve().parents[2] / "docs"
QUESTION = "What does temperature do?"
LONG_QUESTION = "tell me everything about sampling"


async def until(pilot: Pilot[Any], condition: Any) -> None:
    """Let the program work until the condition holds."""
    for _ in range(3000):
        if condition():
            return
        await pilot.pause(0.01)
    raise SystemExit("the picture cannot be taken: the program does not come to where it should")


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


async def chat(columns: int, lines: int, out: Path) -> None:
    """Ask two questions, move a slider during the second answer, and take the picture."""
    from localknobs.tui.app import LocalknobsApp
    from localknobs.tui.screens.chat import ChatScreen
    from localknobs.tui.widgets.composer import Composer

    app = LocalknobsApp()
    async with app.run_test(size=(columns, lines)) as pilot:
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.bridge.ready and screen.query("KnobRow"))
        screen.sampler.set("seed", 3)
        screen.load_values["threads"] = 1
        await ask(pilot, QUESTION)
        await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)
        engine = pause_at_first_text(screen)
        await ask(pilot, LONG_QUESTION)
        await until(pilot, lambda: screen.answer and screen.answer.node)
        screen.query_one("#knob-temp").focus()
        await pilot.press("right", "right")
        os.kill(engine, signal.SIGCONT)
        await until(pilot, lambda: screen.answer is None)
        if not screen.conversation.branch()[-1].marks:
            raise SystemExit("the answer was written before the slider moved; run it again")
        screen.query_one(Composer).focus()
        await pilot.pause(0.3)
        out.write_text(self_contained(app.export_screenshot()), encoding="utf-8")
        print(f"wrote {out}")


def main() -> None:
    """Take every picture."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["LOCALKNOBS_HOME"] = home
        asyncio.run(chat(120, 40, DOCS / "chat.svg"))


if __name__ == "__main__":
    main()
