"""The interface of everything that follows the trials of a sweep: progress, budgets, trackers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.work.job import Job, Report


class Listener:
    """A listener is called at each event of every trial. A subclass overrides the events that it needs.

    The events of one trial come in this order: `on_started`; then `on_placed`, `on_reported` and `on_displaced`, any
    number of times; perhaps `on_stopped`; and at last one of `on_ended`, `on_paused` and `on_requeued`. All calls are
    made in the thread that runs the sweep, so a slow listener delays the sweep. Only trackers have another thread.
    """

    def on_started(self, job: Job) -> None:
        """The queue has given out the trial, which may still have to wait for a place on a machine."""

    def on_placed(self, job: Job) -> None:
        """The trial has its place on a machine."""

    def on_displaced(self, job: Job) -> None:
        """The trial's process has died, and the trial waits for another place."""

    def on_reported(self, job: Job, report: Report) -> None:
        """The trial has been evaluated, or has been restored from a checkpoint."""

    def on_stopped(self, job: Job, report: Report) -> None:
        """Early stopping ends the trial at this report, whose `reason` says why; `on_ended` follows."""

    def on_paused(self, job: Job, report: Report) -> None:
        """A budget has ended the trial at this report, and a later command continues the trial.

        The report is empty if the trial was still waiting for a place.
        """

    def on_requeued(self, job: Job) -> None:
        """The trial's process died before the trial began in it, and the trial is in the queue again."""

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        """The trial is over, and this is its record."""

    def close(self) -> None:
        """The command ends. No event follows."""


class Listeners(Listener):
    """Passes every event to several listeners, in their order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        def tell_all(event_name: str, *arguments: Any) -> None:
            for listener in listeners:
                getattr(listener, event_name)(*arguments)

        for event_name in EVENTS:
            setattr(self, event_name, partial(tell_all, event_name))


EVENTS = [name for name in vars(Listener) if not name.startswith("_")]
