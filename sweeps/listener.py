"""What is told of a sweep's trials: progress, budgets, trackers and whatever else follows it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.work.job import Job, Report


class Listener:
    """Hears of every trial; a subclass overrides what it wants to know.

    Of each: started; any number of placed, reported and displaced; perhaps stopped; finally one of ended, paused and
    taken_back. All of it happens in the driver's own thread, so a slow listener delays the sweep.
    """

    def started(self, job: Job) -> None:
        """It is its turn; it may still have to wait for a place."""

    def placed(self, job: Job) -> None:
        """It has its place on a machine."""

    def displaced(self, job: Job) -> None:
        """Its process has died; it waits for another place."""

    def reported(self, job: Job, report: Report) -> None:
        """It has been evaluated, or has come back from a checkpoint."""

    def stopped(self, job: Job, report: Report) -> None:
        """Early stopping ends it at this report; `ended` follows."""

    def paused(self, job: Job, report: Report) -> None:
        """A budget has stopped it at this report, which is empty when it still waited for a place. Another command goes
        on with it."""

    def requeued(self, job: Job) -> None:
        """Its process was dead before it began; it waits for its turn again."""

    def ended(self, job: Job, record: TrialRecord) -> None:
        """It is over, and this is what is written of it."""

    def close(self) -> None:
        """Nothing more will come of this command."""


class Listeners(Listener):
    """Several listeners as one: tells each, in their order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        def tell(event: str, *arguments: Any) -> None:
            for listener in listeners:
                getattr(listener, event)(*arguments)

        for event in EVENTS:
            setattr(self, event, partial(tell, event))


EVENTS = [name for name in vars(Listener) if not name.startswith("_")]
