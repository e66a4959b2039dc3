"""Screens whose long work belongs to the program: they start it, show it and stop it, and leave it running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from textual.screen import Screen, ScreenResultType
from textual.timer import Timer

from localknobs.jobs import JobEvent
from localknobs.tui.child_job import ChildJob, JobEnded
from localknobs.tui.works import Work, Works

if TYPE_CHECKING:
    from localknobs.tui.app import LocalknobsApp


class WorkScreen(Screen[ScreenResultType]):
    """Shows the work of one verb, also what runs or ran before the screen was opened.

    Textual calls `on_mount` and `on_unmount` of this class and of those made from it alike.
    """

    WORK: ClassVar[str]
    """The verb."""

    def __init__(self) -> None:
        super().__init__()
        self._end_listening: Callable[[], None] = lambda: None

    def on_mount(self) -> None:
        """Listen to the work."""
        self._end_listening = self._works.listen(self._hear)

    def on_unmount(self) -> None:
        """Listen no more; the work goes on."""
        self._end_listening()

    @property
    def _works(self) -> Works:
        """All work of the program."""
        return cast("LocalknobsApp", self.app).works

    @property
    def _work(self) -> Work | None:
        """What runs of this screen's, or ran last."""
        return self._works.latest(self.WORK)

    @property
    def _active(self) -> bool:
        """Whether it runs now."""
        return bool(self._work and self._work.active)

    def _hear(self, work: Work, event: JobEvent | None) -> None:
        if work.kind == self.WORK:
            self._heard(work, event)

    def _heard(self, work: Work, event: JobEvent | None) -> None:
        """Take an event of the work of this screen's verb; None when the work's state changed."""
        raise NotImplementedError

    def action_stop(self) -> None:
        """Stop the work."""
        if self._work:
            self._works.stop(self._work)


class PlannedWorkScreen(WorkScreen[ScreenResultType]):
    """Asks what the work would take whenever its fields have rested for a moment."""

    PLAN_PAUSE_S: ClassVar[float]
    """How long the fields must rest, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._planning: ChildJob | None = None
        self._pause: Timer | None = None

    def on_unmount(self) -> None:
        """Plan no more."""
        self._end_planning()

    def _plan_soon(self) -> None:
        """Plan anew once the fields rest; a plan of what they said before is worth nothing."""
        self._end_planning()
        if self._pause:
            self._pause.stop()
        self._pause = self.set_timer(self.PLAN_PAUSE_S, self._make_plan)

    def _make_plan(self) -> None:
        """Say what is missing, or `_ask_for_plan`."""
        raise NotImplementedError

    def _ask_for_plan(self, arguments: Sequence[str]) -> None:
        """Run a verb that plans; `_take_plan` gets what it prints."""
        self._planning = ChildJob(arguments, self.post_message)

    def _end_planning(self) -> None:
        if self._planning:
            self._planning.kill()
        self._planning = None

    def on_job_ended(self, event: JobEnded) -> None:
        """Take the newest plan; those before it are of no interest any more."""
        if event.job is self._planning:
            self._planning = None
            self._take_plan(event)

    def _take_plan(self, event: JobEnded) -> None:
        """Show the plan, or why there is none."""
        raise NotImplementedError
