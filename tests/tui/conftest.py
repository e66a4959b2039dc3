"""An app that runs on a scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from scripted_engine import Scripted, until
from textual.pilot import Pilot

from localknobs.tui import bridge
from localknobs.tui.app import LocalknobsApp
from localknobs.tui.screens.chat import ChatScreen


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    made = Scripted()
    monkeypatch.setattr(bridge, "load", made.load)
    return made


Opened = Callable[..., AbstractAsyncContextManager[tuple[Pilot[Any], ChatScreen]]]


@pytest.fixture
def opened(scripted: Scripted) -> Opened:
    """Return a context manager that runs the app until its model is loaded and its knobs are there."""

    @asynccontextmanager
    async def run(size: tuple[int, int] = (120, 40), *, wait: bool = True) -> AsyncIterator[tuple[Any, ChatScreen]]:
        app = LocalknobsApp()
        async with app.run_test(size=size) as pilot:
            screen = app.screen
            assert isinstance(screen, ChatScreen)
            await until(pilot, lambda: screen.query("KnobPanel KnobRow"), "knobs")
            panel = screen.query_one("KnobPanel")
            # The scroll bar comes with the last layout and makes the rows narrower.
            await until(pilot, lambda: not panel.display or panel.show_vertical_scrollbar, "layout")
            await pilot.pause()
            if wait:
                await until(pilot, lambda: screen.bridge.ready and not screen.status.activity, "the model")
            yield pilot, screen

    return run


@pytest.fixture
def typed() -> Callable[[Pilot[Any], str], Awaitable[None]]:
    """Type a text into whatever has the focus."""

    async def type_text(pilot: Pilot[Any], text: str) -> None:
        await pilot.press(*("space" if letter == " " else letter for letter in text))

    return type_text
