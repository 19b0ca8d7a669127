"""What is done with each trial of a sweep as it begins, reports and ends, whoever runs it: this process, or Ray.

queue.next ──> job ──> reports ──> early stopping, budget ──> goes on, or stops ──> record ──> queue.end
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lopt.errors import cut_short
from lopt.failure import failed_record
from lopt.records import TrialRecord, now
from sweeps.budget import Budget
from sweeps.listener import Listener, Listeners
from sweeps.results.run_folder import StoreError
from sweeps.results.store import Store
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.queue import QueuedTrial, TrialQueue
from sweeps.work.job import SCORE, STEP, Job, Report


@dataclass(frozen=True, kw_only=True)
class _Running:
    trial: QueuedTrial
    job: Job
    began_at: str


def _record(report: Mapping[str, str]) -> TrialRecord:
    return TrialRecord.from_dict(json.loads(report["record"]))


class Supervisor:
    """Supervises the trials of a sweep, each under a name that whoever runs it chooses.

    Args:
        job_of: says how a trial is run.
        listeners: are told of everything, in their order.

    Attributes:
        held_back: a budget has kept a trial from beginning.
    """

    def __init__(
        self,
        queue: TrialQueue,
        early_stopping: EarlyStopping,
        store: Store,
        budget: Budget,
        *,
        job_of: Callable[[QueuedTrial], Job],
        listeners: Sequence[Listener],
    ) -> None:
        self._queue, self._early_stopping, self._store, self._budget = queue, early_stopping, store, budget
        self._job_of, self._listeners = job_of, Listeners(listeners)
        self._running: dict[str, _Running] = {}
        self._deaths: dict[str, tuple[Exception | None, bool]] = {}
        self.held_back = False

    @property
    def idle(self) -> bool:
        """Whether no trial runs."""
        return not self._running

    def over_budget(self) -> bool:
        """Whether the budget is spent: running trials end at their next evaluation, pending ones do not begin."""
        return self._budget.over()

    def next(self, name: str) -> Job | None:
        """The trial that begins now, under this name; None if none may. If none is running either, the sweep is over.

        Raises:
            StoreError: results cannot be kept. So do `report` and `end`.
        """
        self.held_back = self._queue.waits and not self._budget.may_start()
        trial = None if self.held_back else self._queue.next()
        if trial is None:
            return None
        job = self._job_of(trial)
        self._running[name] = _Running(trial=trial, job=job, began_at=now())
        earlier = self._store.read(job.key)
        if earlier is not None and earlier.status == "failed":
            self._store.set_aside(earlier)
        self._listeners.started(job)
        return job

    def placed(self, name: str) -> None:
        """The trial has its place on a machine."""
        if running := self._running.get(name):
            self._listeners.placed(running.job)

    def displaced(self, name: str) -> None:
        """The trial's process has died; it waits for another place."""
        if running := self._running.get(name):
            self._listeners.displaced(running.job)

    def report(self, name: str, report: Report) -> bool:
        """Whether the trial goes on after this report."""
        running = self._running.get(name)
        if running is None:
            return True
        if report.get("store_error"):
            raise StoreError(report["store_error"])
        self._store.check()
        self._listeners.reported(running.job, report)
        if report["status"] != "running":
            return True
        self._queue.report(running.trial, report[STEP], report[SCORE])
        if running.trial.phase == "search" and self._stop_early(running, report):
            return False
        return not self._budget.over()

    def _stop_early(self, running: _Running, report: Report) -> bool:
        """Whether early stopping ends the trial here; its record is then written."""
        trial = running.trial
        if report.get("restored"):
            self._early_stopping.restore(_record(report))
        decision = self._early_stopping.report(trial.stratum, trial.config.key, report[STEP], report[SCORE])
        if decision is Decision.AUDIT:
            self._store.add_audit(_record(report))
        if decision is not Decision.STOP:
            return False
        self._store.write(_record(report))
        self._listeners.stopped(running.job, report)
        return True

    def died(self, name: str, error: Exception | None, *, begun: bool) -> None:
        """A trial's process has died for the last time, of this error where it is known; `end` follows.

        begun: whether the trial had begun in it.
        """
        if name in self._running:
            self._deaths[name] = error, begun
            if not begun:
                trial = self._running[name].trial
                self._early_stopping.forget(trial.stratum, trial.config.key)

    def end(self, name: str, report: Report | None, *, died: bool = False) -> None:
        """The trial runs no more.

        Args:
            report: its last one, empty without any; None where it still waited for a place.
            died: its process has died for the last time (see `died`).
        """
        running = self._running.pop(name, None)
        if running is None:
            return
        trial, job = running.trial, running.job
        error, begun = self._deaths.pop(name, (None, True))
        record = self._store.read(job.key)
        if record is None and report and report["status"] != "running":
            record = _record(report)  # on file systems on which a file of another machine is seen late
        if record is None and died and not begun:
            self._queue.put_back(trial)
            self._listeners.requeued(job)
        elif record is None and not died and report != {}:
            # It could have gone on: whoever else stops a trial writes a record. A command with a budget left does.
            self._queue.put_back(trial)
            self._listeners.paused(job, report or {})
        else:
            self._queue.end(trial, record)
            record = record or self._write_death(running, error)
            self._listeners.ended(job, record)

    def _write_death(self, running: _Running, error: Exception | None) -> TrialRecord:
        """Writes the record of a trial that was cut off and left nothing."""
        reason = f": {type(error).__name__}: {cut_short(' '.join(str(error).split()), 500)}" if error else ""
        job = running.job
        record = failed_record(
            job.config,
            RuntimeError(f"the trial's process died (out of memory, or its machine vanished){reason}"),
            phase=job.phase,
            cell=job.cell,
            stratum=job.stratum,
            started_at=running.began_at,
        )
        self._store.write(record)
        return record
