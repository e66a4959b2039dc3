"""What the Tune screen says and draws: the look at the data, the progress, the curves, the answers, the result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from localknobs.paths import user_path
from localknobs.terminal_text import printable
from localknobs.tui.widgets.plot import Line, Picture
from localknobs.tui.work_text import progress_text
from localknobs.tui.works import Work
from localknobs.tune.curves import Curves, Sample, thinned
from localknobs.tune.signs import signs_of
from localknobs.units import time_text

POINTS_DRAWN, MEANS_DRAWN = 120, 60
"""Most points of a curve on the screen, and of the noisy one of the batches."""
_LATE_STEPS = 10
"""Steps whose mean is the drift of now."""
_LARGEST_RATIO = 20.0
"""From this ratio of the largest to the smallest loss on, the height is logarithmic."""


def free_name(base: str, data: str, folder: Path) -> str:
    """Return a name for an adapter, after its base and data as the user names them, that a folder does not have yet."""
    parts = [user_path(text).stem if text else "" for text in (base, data)]
    name = "-".join(part.lower() for part in parts if part) or "adapter"
    number, found = 2, folder / name
    while os.path.exists(found) or os.path.exists(found.with_name(f".{found.name}.training")):
        found = folder / f"{name}-{number}"
        number += 1
    return found.name


def plan_text(plan: Mapping[str, Any], emphasis: str) -> Text:
    """Return the data as the model will see it, and the price.

    Args:
        plan: What `finetune --dry-run --json` printed.
        emphasis: Style of what is learned in the example.
    """
    cut = f"{plan['cut']:,} are cut at the end (the first at line {plan['cut_line']:,}): length" if plan["cut"] else ""
    copies = f"{plan['duplicates']:,} say the same as an earlier one" if plan["duplicates"] else "none twice"
    lines = [
        f"{plan['learn']:,} examples to learn from, {plan['held_out']:,} held out; {copies}",
        f"{plan['shortest']:,} to {plan['longest']:,} tokens long, half of them under {plan['median']:,}; "
        f"{cut or 'none is cut'}",
        f"{plan['tokens']:,} tokens a reading, {plan['learned']:,} of them learned; {plan['steps']:,} steps in all",
        *([f"{plan['rehearsal']:,} old rows are rehearsed, against forgetting"] if plan.get("rehearsal") else []),
        *([f"about {time_text(plan['seconds'])} for steps and looks"] if plan.get("seconds") else []),
        "", str(plan["price"]), *(f"! {text}" for text in plan["notes"]), "",
        *(f"auto: {text}" for text in plan["recipe"]["reasons"]),
    ]  # fmt: skip
    text = Text(printable("\n".join(lines)))
    text.append("\n\nOne example as the model sees it; what is learned stands out:\n", "bold")
    for piece, learned in plan["shown"]:
        text.append(printable(piece), emphasis if learned else "dim")
    return text


def read_plan(output: str) -> dict[str, Any] | None:
    """Return what a dry run printed; None when it is no plan."""
    try:
        plan = json.loads(output)
    except ValueError:
        return None
    return plan if isinstance(plan, dict) and "learn" in plan else None


def trouble_text(error: str) -> str:
    """Return why a verb failed, without its notes and its name."""
    lines = [line for line in error.splitlines() if not line.startswith("note: ")]
    return "\n".join(lines).removeprefix("localknobs: ").strip()


def state_text(work: Work, curves: Curves) -> str:
    """Return how far a training is, and what looks wrong."""
    lines = [f"{work.title}", progress_text(work)]
    if curves.loss:
        best = f", lowest held-out loss {curves.best[1]:.3f} at step {curves.best[0]:,}" if curves.best else ""
        lines.append(f"loss {curves.loss[-1][1]:.3f}, {curves.tokens_per_s:,.0f} tokens/s{best}")
    if curves.drift:
        late = [drift for _, drift in curves.drift[-_LATE_STEPS:]]
        lines.append(f"drift from the base at old rows {sum(late) / len(late):.4f} (divergence at temperature 2)")
    return "\n".join([*lines, *(f"! {sign}" for sign in signs_of(curves))])


def made_of(output: str) -> dict[str, Any]:
    """Return what `finetune --json` printed of a training that is done; empty where it printed nothing of the kind."""
    try:
        found = json.loads(output)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("folder") else {}


def result_text(output: str) -> str:
    """Return what came of a training, from what `finetune --json` printed."""
    found = made_of(output)
    if not found:
        return ""
    before, after = found["before"], found["after"]
    lines = [f"Made {found['folder']}", f"in {time_text(found['seconds'])}; the adapter of step {found['best_step']:,} "
             f"of {found['steps']:,} is kept"]  # fmt: skip
    if "held_out" in after:
        lines.append(
            f"held-out loss {before['held_out']:.3f} → {after['held_out']:.3f}, next token right "
            f"{before['next_token']:.0%} → {after['next_token']:.0%}"
        )
    if isinstance(after.get("right"), float) and isinstance(before.get("right"), float):
        lines.append(f"held-out questions answered word for word {before['right']:.0%} → {after['right']:.0%}")
    if "general" in after:
        lines.append(f"general loss {before['general']:.3f} → {after['general']:.3f}")
    return "\n".join([*lines, *(f"! {sign}" for sign in found["signs"])])


def samples_text(samples: Sequence[Sample], most: int = 40) -> Text:
    """Return the answers to the fixed prompts, the newest first."""
    text = Text()
    for sample in reversed(samples[-most:]):
        text.append(f"step {sample.step:,}  ", "bold")
        text.append(f"{printable(' '.join(sample.prompt.split()))}\n", "dim")
        text.append(f"  {printable(' '.join(sample.answer.split())) or '(nothing)'}\n")
    return text


def loss_picture(curves: Curves) -> Picture:
    """Return the losses, drawn as far as the training is on its way."""
    lines = [Line("loss", thinned(curves.loss, MEANS_DRAWN), "foreground")]
    lines.append(Line("held out", thinned(curves.held_out, POINTS_DRAWN), "warning"))
    lines.append(Line("general text", thinned(curves.general, POINTS_DRAWN), "success"))
    lines = [line for line in lines if line.points]
    values = [value for line in lines for _, value in line.points]
    low = min(values, default=0.0)
    return Picture(
        title="Loss by step", lines=tuple(lines), x_name="steps", y_name="nats",
        log=0 < low < max(values, default=0.0) / _LARGEST_RATIO, low=low, last=curves.steps,
    )  # fmt: skip


def rate_picture(curves: Curves) -> Picture:
    """Return the learning rate."""
    line = Line("learning rate", thinned(curves.rate, POINTS_DRAWN), "primary")
    return Picture(title="Learning rate", lines=(line,), x_name="steps", y_name="", last=curves.steps)
