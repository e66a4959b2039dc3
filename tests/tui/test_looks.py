"""How the screens look, as pictures: few, on one Textual version (pinned), renewed by `pytest --snapshot-update`."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_engine import arrived, finished, until

from localknobs.engine import SamplerChanged, TokensScored
from localknobs.tui.app import LocalknobsApp
from localknobs.tui.widgets.composer import Composer

ANSWER = """\
Here is **what I know**:

- Top-k keeps the k likeliest tokens.
- Top-p keeps the smallest set that adds up to p.

```python
temperature = 0.2
```
"""


async def talk(pilot: Any, scripted: Any, question: str) -> None:
    """Ask one question and let it be answered, with a knob turned on the way."""
    screen = pilot.app.screen
    await until(pilot, lambda: screen.query("#knob-temp") and screen.bridge.ready)
    screen.query_one(Composer).cursor_blink = False
    await pilot.press(*("space" if letter == " " else letter for letter in question), "enter")
    changed = SamplerChanged(3, 10, {"temp": 0.2})
    scripted.engine.say(arrived(ANSWER[:20]), changed, arrived(ANSWER[20:], 5), finished())
    await until(pilot, lambda: screen.answer is None and len(screen.transcript.views) == 2)
    await pilot.pause()


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_chat(snap_compare, scripted, size):
    async def before(pilot: Any) -> None:
        await talk(pilot, scripted, "what do you know")

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


def test_chat_in_a_light_theme(snap_compare, scripted):
    async def before(pilot: Any) -> None:
        pilot.app.theme = "textual-light"
        await talk(pilot, scripted, "what do you know")
        await pilot.press("f2", "down", "right")

    assert snap_compare(LocalknobsApp(), terminal_size=(120, 40), run_before=before)


def test_help(snap_compare, scripted):
    async def before(pilot: Any) -> None:
        await talk(pilot, scripted, "help")
        await pilot.press("f1")
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=(80, 24), run_before=before)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_sampler_view(snap_compare, scripted, size):
    async def before(pilot: Any) -> None:
        await talk(pilot, scripted, "what do you know")
        screen = pilot.app.screen
        await pilot.press("ctrl+t", "alt+t")
        await until(pilot, lambda: screen.panel and screen.panel.view and screen.focused)
        node = screen.conversation.branch()[-1]
        screen.take_scores(node, 0, TokensScored(0, ((4, 0.95, 0.1), (7, 0.7, 1.0), (12, 0.2, 3.0), (19, 0.01, 5.0))))
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)
