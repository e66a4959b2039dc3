"""How far long work is, as text: bars, rates, and one line for all of it."""

from __future__ import annotations

from collections.abc import Iterable

from localknobs.tui.downloads import Download
from localknobs.tui.works import Work
from localknobs.units import size_text, time_text

BAR_WIDTH = 30


def bar_text(share: float, width: int = BAR_WIDTH) -> str:
    """Return a bar.

    Args:
        share: How much is done, 0 to 1.
        width: Its columns.
    """
    filled = round(width * min(1.0, max(0.0, share)))
    return "━" * filled + "─" * (width - filled)


def rate_text(rate: float, unit: str) -> str:
    """Return units a second the way people read them; empty when nothing is done."""
    if not rate:
        return ""
    number = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{size_text(int(rate))}/s" if unit == "bytes" else f"{number} {unit}/s"


def progress_text(work: Work) -> str:
    """Return the stage of running work on one line, and its bar, rate and time left on another where they are known."""
    if work.state == "stopping":
        return "stopping …"
    if work.share is None:
        return f"{work.stage.what} …"
    parts = [f"{bar_text(work.share)} {work.share:.0%}", rate_text(work.rate, work.stage.unit)]
    if work.left_s is not None:
        parts.append(f"{time_text(work.left_s)} left")
    return f"{work.stage.what}\n{'  '.join(filter(None, parts))}"


def summary_text(works: Iterable[Work], downloads: Iterable[Download]) -> str:
    """Return what runs on one line, `1 job: quantizing 40%`; empty when nothing does."""
    running = [_short(one.stage.what, one.share) for one in works if one.active]
    running += [_short("fetching", one.share) for one in downloads if one.state == "running"]
    if not running:
        return ""
    more = f", {running[1]}" if len(running) == 2 else f", and {len(running) - 1} more" if len(running) > 2 else ""
    return f"{len(running)} job{'s' if len(running) > 1 else ''}: {running[0]}{more}"


def _short(what: str, share: float | None) -> str:
    return f"{what} …" if share is None else f"{what} {share:.0%}"
