"""How the screens look, as pictures: few, on one Textual version (pinned), renewed by `pytest --snapshot-update`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measured
import pytest
from scripted_engine import arrived, finished, until
from textual.message import Message
from textual.widgets import Checkbox, Static

from localknobs import jobs
from localknobs.ab.price import BothBills
from localknobs.engine import SamplerChanged, TokensScored
from localknobs.engine.adapter_rack import AdapterRack, RackRow
from localknobs.evaluate import model_words
from localknobs.fit.bill import Bill, DeviceBill
from localknobs.knobs import Value
from localknobs.library import Listing, ModelEntry
from localknobs.paths import models_folder
from localknobs.tui import contest, works
from localknobs.tui.app import LocalknobsApp
from localknobs.tui.downloads import Download
from localknobs.tui.pricing import Advised, Priced
from localknobs.tui.screens import ab, measure, models, work_screen
from localknobs.tui.screens.steering import SteeringScreen
from localknobs.tui.widgets import candidates, memory_bill, report_view, side_setup
from localknobs.tui.widgets.adapter_rows import AdapterRow
from localknobs.tui.widgets.composer import Composer
from localknobs.tui.widgets.fit_bar import FitBar
from localknobs.tui.works import Work
from localknobs.tune.curves import curves_file

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


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_adapters(snap_compare, scripted, size):
    async def before(pilot: Any) -> None:
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query("#knob-temp") and screen.bridge.ready)
        rows = (RackRow("adapter", "/adapters/flags.gguf", 0.8), RackRow("control vector", "/adapters/calm.gguf", -0.5))
        screen.use_rack(AdapterRack(rows))
        await talk(pilot, scripted, "what do you know")
        await pilot.press("alt+a", "down")
        await until(pilot, lambda: isinstance(screen.focused, AdapterRow) and screen.focused.number == 2)

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_steering(snap_compare, scripted, size):
    async def before(pilot: Any) -> None:
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query("#knob-temp") and screen.bridge.ready)
        layers = [
            {"layer": at, "agree": 1.0, "explained": 0.2 + 0.05 * at, "apart": 20.0 * at, "state": 80.0 + 20 * at}
            for at in range(1, 6)
        ]
        asked, output = ("control-vector", "built-in"), json.dumps({"layers": layers})
        work = Work("control-vector", "unsure.gguf", asked, state="done", output=output)
        pilot.app.works.items.append(work)
        pilot.app.push_screen(SteeringScreen("built-in", {}))
        await until(pilot, lambda: isinstance(pilot.app.screen, SteeringScreen) and pilot.app.screen.query(Checkbox))
        pilot.app.screen.query_one(Checkbox).focus()  # which has no cursor that blinks
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "Made unsure.gguf" in str(pilot.app.screen.query_one("#state", Static).render()))
        await pilot.pause()

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


GIB = 2**30
SHELF = (
    ModelEntry("built-in", Path("/opt/localknobs/built-in.gguf"), 11_122_688, "F16", 1024, "llama", "model", 5_508_352),
    ModelEntry("notes-Q8_0", Path("/m/notes.gguf"), 3 * GIB, "Q8_0", 32_768, "qwen3", "model", 3_000_000_000),
    ModelEntry(
        "llama3:8b", Path("/o/sha256-6a"), 4 * GIB, "Q4_K_M", 8192, "llama", "model", 8_030_000_000, source="ollama",
    ),
    ModelEntry(
        "org/Cut-GGUF:Q6_K", Path("/hf/cut.gguf"), GIB, kind="model", trouble="It is cut short.", source="hf",
        state="damaged",
    ),
)  # fmt: skip
BILL = Bill(
    (
        DeviceBill("RAM", 22 * GIB, compute=2 * 2**20, overhead=51 * 2**20),
        DeviceBill("RTX 4070", 12 * GIB, 6 * GIB, 2 * GIB, GIB // 2, GIB // 2),
    ),
    1024, "planned", ("driver and screen take 512 MiB of each graphics card",),
)  # fmt: skip


class ToldPrice:
    """Stands for the pricing: one bill, at once."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post

    def ask(self, path: Path, values: Mapping[str, Value]) -> None:
        self._post(Priced(path, values, BILL))
        self._post(Advised(path, "fits", "It fits RTX 4070 with 1,024 tokens of context."))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_models(snap_compare, scripted, monkeypatch, size):
    monkeypatch.setattr(models, "list_models", lambda: Listing(SHELF))
    monkeypatch.setattr(memory_bill, "PriceTeller", ToldPrice)

    async def before(pilot: Any) -> None:
        await until(pilot, lambda: pilot.app.screen.bridge.ready)
        await pilot.press("f3")
        await until(pilot, lambda: len(pilot.app.screen.query(FitBar)) == 2)
        await until(pilot, lambda: "fits" in str(pilot.app.screen.query_one(".verdict", Static).render()))
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_cards(snap_compare, scripted, size):
    async def before(pilot: Any) -> None:
        from localknobs.measured_effects import MeasuredEffect, remember_effects

        remember_effects([
            MeasuredEffect(
                lever="context", settings={"cache_type_k": "q4_0", "cache_type_v": "q4_0"}, model="some-8B",
                against="some-8B", text="memory 5.1 GiB instead of 6.0 GiB; mean KL divergence 0.041 ± 0.002",
                command="localknobs eval 'some-8B -ctk q4_0 -ctv q4_0' --base some-8B",
                when="2026-01-02T03:04:05+00:00",
            )
        ])  # fmt: skip
        await until(pilot, lambda: pilot.app.screen.query("#knob-temp"))
        pilot.app.screen.query_one("#knob-cache_type_k").focus()
        await pilot.press("f10")
        await until(pilot, lambda: pilot.app.screen.query("CardsScreen Markdown MarkdownHeader, Markdown MarkdownH3"))
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_jobs(snap_compare, scripted, monkeypatch, size):
    clock = [1000.0]
    monkeypatch.setattr(works, "monotonic", lambda: clock[0])
    monkeypatch.setattr(jobs, "monotonic", lambda: clock[0])
    words = ("quantize", "qwen3-4b-F16.gguf", "Q4_K_M", "--json", "-o", "/m/")
    running = works.Work("quantize", "qwen3-4b-Q4_K_M.gguf", words, began=1000.0)
    running.hear(jobs.Started("quantizing", 8 * GIB, "bytes"))
    clock[0] += 16
    running.hear(jobs.Advanced(3 * GIB))
    running.hear(jobs.Noted("blk.0.attn_k.weight has rows of 80 values: it gets Q5_0 instead of Q4_K."))
    done = works.Work("context", "built-in-4096.gguf", ("context", "built-in", "-o", "x"), state="done", took_s=3.0)
    done.hear(jobs.Wrote(Path("/m/built-in-4096.gguf")))
    failed = works.Work("eval", "measuring llama3:8b", ("eval", "llama3:8b"), state="failed", took_s=61.0)
    failed.error = "The disk is full."
    fetched = Download("org/Some-GGUF Q8_0", "org/Some-GGUF/f.gguf", "c", 4 * GIB, "paused", GIB)

    async def before(pilot: Any) -> None:
        await until(pilot, lambda: pilot.app.screen.bridge.ready)
        pilot.app.works.items += [running, done, failed]
        pilot.app.downloads._all.append(fetched)
        await pilot.press("alt+j")
        await until(pilot, lambda: "Q5_0 instead" in str(pilot.app.screen.query_one("#about", Static).render()))
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


QUANTS = tuple(
    ModelEntry(
        f"some-{quant}", Path(f"/m/some-{quant}.gguf"), size * 2**20, quant, 4096, "llama", "model", 1_000_000_000
    )
    for quant, size in (("F16", 2000), ("Q8_0", 1060), ("Q4_K_M", 640))
)


@pytest.mark.parametrize("part", ["fields", "report", "needles"])
@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_measure(snap_compare, scripted, monkeypatch, size, part):
    monkeypatch.setattr(measure, "list_models", lambda: Listing(QUANTS))
    monkeypatch.setattr(work_screen, "ChildJob", measured.ToldPlan)
    monkeypatch.setattr(model_words, "find_model", Path)

    async def before(pilot: Any) -> None:
        await until(pilot, lambda: pilot.app.screen.bridge.ready)
        pilot.app.screen._open_measure("/m/some-Q4_K_M.gguf", fresh=True)
        await until(pilot, lambda: isinstance(pilot.app.screen, measure.MeasureScreen))
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query("#hint") and screen.query_one(candidates.Candidates).base)
        await until(pilot, lambda: "Ctrl+S starts" in str(screen.query_one("#state", Static).render()))
        if part != "fields":
            screen._show_report(report_view.Shown(measured.report(), "20260102-030405", 700 * 2**20))
            await pilot.pause()
        if part == "needles":
            await pilot.press("right", "right")
            await until(pilot, lambda: "depth" in str(screen.query_one("#words", Static).render()))
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("part", ["data", "curves"])
@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_tune(snap_compare, scripted, monkeypatch, size, part):
    clock = [1000.0]
    monkeypatch.setattr(works, "monotonic", lambda: clock[0])
    monkeypatch.setattr(jobs, "monotonic", lambda: clock[0])
    monkeypatch.setattr(work_screen, "ChildJob", measured.ToldPlan)
    output = models_folder() / "built-in-flags"
    running = works.Work("finetune", "built-in on flags", ("finetune", "built-in", "flags", "-o", str(output)),
                         began=1000.0)  # fmt: skip
    running.hear(jobs.Started("training", 340, "steps"))
    clock[0] += 90
    running.hear(jobs.Advanced(170))

    async def before(pilot: Any) -> None:
        await until(pilot, lambda: pilot.app.screen.bridge.ready)
        if part == "curves":
            output.parent.mkdir(parents=True)
            curves_file(output).write_text(measured.training_curves())
            pilot.app.works.items.append(running)
        await pilot.press("alt+u")
        await until(pilot, lambda: pilot.app.screen.query("#losses"))
        screen = pilot.app.screen
        screen.query_one("#base").cursor_blink = False
        await until(pilot, lambda: "1,800 examples" in str(screen.query_one("#plan", Static).render()))
        if part == "curves":
            await until(pilot, lambda: "step 170" in str(screen.query_one("#samples", Static).render()))
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_diagnose(snap_compare, scripted, size):
    remedies = [
        {"text": "the likeliest token always", "command": "localknobs chat built-in --temp 0", "values": {"temp": 0.0}},
        {"text": "fewer bits a weight", "command": "localknobs quantize built-in Q4_K_M", "values": {}},
    ]
    found = {"symptom": "random", "verdict": "confirmed", "text": "The present settings do not give the same answer.",
             "numbers": {"temperature 0": 1, "settings": 0.5}, "remedies": remedies,
             "command": "localknobs determinism built-in"}  # fmt: skip
    slow = {**found, "symptom": "slow", "verdict": "rejected", "text": "It writes 537 tokens a second.", "remedies": []}

    async def before(pilot: Any) -> None:
        await until(pilot, lambda: pilot.app.screen.bridge.ready)
        await pilot.press("alt+s")
        await until(pilot, lambda: pilot.app.screen.query("#symptoms"))
        await pilot.pause()
        screen = pilot.app.screen
        output = json.dumps({"findings": [slow, found]})
        works = pilot.app.works
        works.items.insert(0, Work("diagnose", "all", tuple(screen._arguments("all")), state="done", output=output))
        screen._gather()
        screen.query_one("#symptoms").mark("random")
        await until(pilot, lambda: screen.query_one("#remedies").row_count == 2)
        await pilot.pause()

    assert snap_compare(LocalknobsApp(), terminal_size=size, run_before=before)


@pytest.fixture
def sides(scripted, monkeypatch):
    """Two scripted sides, priced at once; seed and order are not drawn."""
    half = Bill((DeviceBill("RAM", 22 * GIB, 4 * GIB, GIB),), 1024, "planned")
    monkeypatch.setattr(contest, "load", scripted.load)
    for module in (contest, side_setup):
        monkeypatch.setattr(module, "price_sides", lambda sides: BothBills((half, half)))
    monkeypatch.setattr(ab, "drawn_seed", lambda: 42)
    monkeypatch.setattr(ab, "drawn_order", lambda: (1, 0))
    return scripted


def alone() -> LocalknobsApp:
    app = LocalknobsApp()
    app.get_default_screen = ab.ABScreen  # type: ignore[assignment]
    return app


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_ab_setup(snap_compare, sides, size):
    async def before(pilot: Any) -> None:
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query(".price"))
        await until(pilot, lambda: "together" in str(screen.query_one(".price", Static).render()), seconds=20)
        screen.query_one("#side-b").cursor_blink = False
        await pilot.pause()

    assert snap_compare(alone(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
def test_ab_blind(snap_compare, sides, size):
    """One prompt that was voted on, and one that waits for its vote."""

    async def before(pilot: Any) -> None:
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query("#side-b"))
        screen.query_one("#side-b").value = "built-in -ctk q4_0 -ctv q4_0"
        await pilot.press("ctrl+l", "f4")
        await until(pilot, lambda: screen._ready and len(sides.engines) == 2)
        screen.query_one(Composer).cursor_blink = False
        answers = (ANSWER, "I know that a low temperature keeps to the likeliest words.")
        for prompt, key in (("what do you know", "left"), ("tell me more", "")):
            screen.query_one(Composer).text = prompt
            screen.query_one(Composer).focus()
            await pilot.press("enter")
            for engine, text in zip(sides.engines, answers, strict=True):
                engine.answer(text)
            await until(pilot, lambda: screen.has_class("-voting"))
            if key:
                await pilot.press(key)
                await until(pilot, lambda: screen.query_one("#tally").display and not screen.has_class("-voting"))
        turn, turns = screen._turn, screen._turns
        await until(pilot, lambda: 0 < turn.size.height <= turns.size.height or turn.region.y >= turns.region.y)
        await pilot.pause()

    assert snap_compare(alone(), terminal_size=size, run_before=before)
