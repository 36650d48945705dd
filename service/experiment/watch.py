"""Watches the experiment that runs, in every process of the service: counts, shows, and ends it where need be.

Health is looked at every few seconds, by what this process has answered. What users do is counted every ten seconds;
whichever process comes first counts, and the others find it counted. Who finds that the experiment has to end writes so
into its record, with the reason; the others see it there.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from service.errors import StoreError
from service.experiment.attribution import Attribution
from service.experiment.guard import Bounds, Ending, Health, HealthGuard, judge_quality
from service.experiment.record import Experiment
from service.experiment.report import Report, report_on
from service.experiment.shelf import ExperimentShelf
from service.experiment.tally import Tally

LOOK_EVERY_S = 5.0
COUNT_EVERY_S = 10.0
_CALL_S = 1.0
Show = Callable[[Report | None], None]
"""Shows what the experiment comes to; None: there is none."""
NoteEnd = Callable[[Experiment, Ending], None]


@dataclass(frozen=True, slots=True)
class Means:
    """What a watch needs. attribute: makes what attributes events. health: counts of the other and the live version."""

    shelf: ExperimentShelf
    tally: Tally
    attribute: Callable[[Experiment], Attribution]
    health: Callable[[], tuple[Health, Health]]
    bounds: Bounds


class ExperimentWatch:
    """Watches what runs, in one process."""

    def __init__(self, means: Means, show: Show, note_end: NoteEnd) -> None:
        self._means, self._show, self._note_end = means, show, note_end
        self._experiment_id = ""
        self._guard = HealthGuard(means.bounds, *means.health())
        self._count_due = 0.0

    async def follow(self) -> None:
        """Watch until cancelled. What the store does not do is left out: it is counted there."""
        while True:
            with suppress(StoreError):
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once at what runs, and end it if need be. Raises StoreError."""
        experiment = await self._means.shelf.read()
        if experiment is None or not experiment.is_running or experiment.kind == "shadow":
            if self._experiment_id:
                self._experiment_id = ""
                self._show(None)
            return
        if experiment.id != self._experiment_id:
            self._experiment_id, self._count_due = experiment.id, 0.0
            self._guard = HealthGuard(self._means.bounds, *self._means.health())
        ending = self._guard.judge(*self._means.health()) or await self._judge_users(experiment)
        if ending is not None and await self._means.shelf.end(experiment, ending.reason) is not None:
            self._note_end(experiment, ending)

    async def _judge_users(self, experiment: Experiment) -> Ending | None:
        """Count what users did, if it is time, and judge it."""
        if time.monotonic() < self._count_due:
            return None
        self._count_due = time.monotonic() + COUNT_EVERY_S
        counted = await self._means.tally.catch_up(experiment, self._means.attribute(experiment), _CALL_S)
        if counted is None:
            return None
        report = report_on(experiment, counted)
        self._show(report)
        return judge_quality(report, self._means.bounds)
