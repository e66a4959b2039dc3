"""What the tests of downloads share: a plan by its name, a job's events, a pause, what is left in the cache."""

from __future__ import annotations

from pathlib import Path

from localknobs.hub.download import download
from localknobs.hub.plan import DownloadPlan, plan_download
from localknobs.hub.repository import open_repository
from localknobs.hub.spec import parse_spec
from localknobs.jobs import Advanced, JobEvent, drain


def plan_of(text: str, **choices: float) -> DownloadPlan:
    spec = parse_spec(text)
    return plan_download(open_repository(spec), spec, **choices)  # type: ignore[arg-type]


def events_of(job) -> tuple[list[JobEvent], Path]:
    events: list[JobEvent] = []
    return events, drain(job, events.append)


def stopped_after(amount: int, plan: DownloadPlan) -> None:
    """Fetch until so many bytes are written, then stop, as a pause does."""
    job, done = download(plan), 0
    for event in job:
        done += event.amount if isinstance(event, Advanced) else 0
        if done >= amount:
            break
    job.close()


def leftovers(cache: Path) -> list[str]:
    return [file.name for file in cache.rglob("*.incomplete")]
