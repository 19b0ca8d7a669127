"""Supervises each trial of a sweep as it begins, reports and ends, whether this process or Ray runs it.

When a time budget is used up, each running trial ends at its next evaluation, without a record, and goes back into the
queue. The next command continues it from its checkpoint.

queue.begin_next_trial ──> job ──> reports ──> early stopping, budget ──> continues or stops ──> record ──> queue.end
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lopt.errors import cut_after_word
from lopt.failure import failed_record
from lopt.records import TrialRecord, utc_now
from sweeps.budget import Budget
from sweeps.listener import Listener, Listeners
from sweeps.results.run_folder import StoreError
from sweeps.results.store import Store
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.queue import QueuedTrial, TrialQueue
from sweeps.work.job import SCORE, STEP, Job, Report


@dataclass(frozen=True, kw_only=True)
class _RunningTrial:
    """A trial that has begun and has not ended. `began_at` is when the queue gave it out."""

    trial: QueuedTrial
    job: Job
    began_at: str


def _record_in(report: Mapping[str, str]) -> TrialRecord:
    """Return the record that a report carries."""
    return TrialRecord.from_dict(json.loads(report["record"]))


class Supervisor:
    """Supervises the trials of a sweep. The caller gives each trial a name when it begins.

    Args:
        job_of: Returns the job that runs a trial.
        listeners: Are called at each event, in their order.

    Attributes:
        is_held_back_by_budget: Whether a budget keeps waiting trials from beginning.
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
        self._running_trials: dict[str, _RunningTrial] = {}  # by the name that the caller has given
        self._deaths: dict[
            str, tuple[Exception | None, bool]
        ] = {}  # by name: the error, and whether the trial had begun
        self._ended_keys: set[str] = set()  # of trials that have ended with a record
        self.is_held_back_by_budget = False

    @property
    def is_idle(self) -> bool:
        """Whether no trial runs."""
        return not self._running_trials

    @property
    def running_count(self) -> int:
        """The number of trials that have begun and have not ended."""
        return len(self._running_trials)

    def count_trials(self) -> Counter[bool]:
        """Return how many trials run or could begin now, by whether they share a backbone."""
        counts = Counter(running.job.shares_backbone for running in self._running_trials.values())
        return counts if self.is_over_budget() else counts + self._queue.count_waiting_trials()

    def is_over_budget(self) -> bool:
        """Return whether the budget is spent. Running trials then end at their next evaluation, and no trial begins."""
        return self._budget.is_spent()

    def begin_next_trial(self, name: str) -> Job | None:
        """Begin the next trial under this name, and return its job; None if no trial may begin now.

        If it is None while no trial is running, the sweep is over.

        Raises:
            StoreError: Results cannot be written. `report` and `end` raise it, too.
        """
        self.is_held_back_by_budget = self._queue.has_waiting_trial and not self._budget.may_start()
        trial = None if self.is_held_back_by_budget else self._queue.begin_next_trial()
        if trial is None:
            return None
        job = self._job_of(trial)
        self._running_trials[name] = _RunningTrial(trial=trial, job=job, began_at=utc_now())
        earlier_record = self._store.read(job.key)
        if earlier_record is not None and earlier_record.status == "failed":
            self._store.set_aside(earlier_record)
        self._listeners.on_started(job)
        return job

    def note_placed(self, name: str) -> None:
        """Note that the trial has been placed on a machine."""
        if running_trial := self._running_trials.get(name):
            self._listeners.on_placed(running_trial.job)

    def note_displacement(self, name: str) -> None:
        """Note that the trial's process has died and the trial waits to be placed again."""
        if running_trial := self._running_trials.get(name):
            self._listeners.on_displaced(running_trial.job)

    def report(self, name: str, report: Report) -> bool:
        """Take a trial's report, and return whether the trial continues.

        Raises:
            StoreError: Results cannot be written.
            ValueError: No trial can run on the machine of the trial.
        """
        running_trial = self._running_trials.get(name)
        if running_trial is None:
            return True
        if report.get("store_error"):
            raise StoreError(report["store_error"])
        if report.get("machine_error"):
            raise ValueError(report["machine_error"])
        self._store.check()
        self._listeners.on_reported(running_trial.job, report)
        if report["status"] != "running":
            return True
        self._queue.report(running_trial.trial, report[STEP], report[SCORE])
        if running_trial.trial.phase == "search" and self._stop_early(running_trial, report):
            return False
        return not self._budget.is_spent()

    def _stop_early(self, running_trial: _RunningTrial, report: Report) -> bool:
        """Return whether early stopping ends the trial at this report. If it does, write the trial's record."""
        trial = running_trial.trial
        if report.get("restored"):
            self._early_stopping.restore(_record_in(report))
        decision = self._early_stopping.report(trial.stratum, trial.config.key, report[STEP], report[SCORE])
        if decision is Decision.AUDIT:
            self._store.add_audit(_record_in(report))
        if decision is not Decision.STOP:
            return False
        self._store.write(_record_in(report))
        reason = self._early_stopping.reason(trial.stratum, trial.config.key)
        self._listeners.on_stopped(running_trial.job, {**report, "reason": reason})
        return True

    def note_death(self, name: str, error: Exception | None, *, had_begun_in_process: bool) -> None:
        """Note that a trial's process has died and is not started again; a call of `end` follows.

        Args:
            error: The reason why the process died; None if it is not known.
            had_begun: Whether the trial had begun in that process.
        """
        if name in self._running_trials:
            self._deaths[name] = error, had_begun_in_process
            if not had_begun_in_process:
                trial = self._running_trials[name].trial
                self._early_stopping.forget(trial.stratum, trial.config.key)

    def end(self, name: str, report: Report | None, *, has_died: bool = False) -> None:
        """Note that the trial does not run any more.

        Args:
            report: The last report of the trial; empty if there was none, and None if the trial had not been
                placed yet.
            has_died: Whether `note_death` was called for the trial.
        """
        running_trial = self._running_trials.pop(name, None)
        if running_trial is None:
            return
        trial, job = running_trial.trial, running_trial.job
        error, had_begun_in_process = self._deaths.pop(name, (None, True))
        record = self._store.read(job.key)
        if record is None and report and report["status"] != "running":
            # Some file systems show a new file to other machines only later. Or the file is not where the driver looks.
            record = _record_in(report)
            self._store.write(record)
        if record is None and has_died and not had_begun_in_process:
            self._queue.put_back(trial)
            self._listeners.on_requeued(job)
        elif record is None and not has_died and report != {}:
            # The budget has stopped the trial, because everything else that stops a trial writes a record. A later
            # command continues the trial.
            self._queue.put_back(trial)
            self._listeners.on_paused(job, report or {})
        else:
            self._queue.end(trial, record)
            self._ended_keys.add(job.key)
            record = record or self._write_death(running_trial, error)
            self._listeners.on_ended(job, record)

    def check_results(self) -> None:
        """Check that the store holds the record of every trial that has ended.

        Raises:
            StoreError: Some records are missing.
        """
        missing_keys = sorted(key for key in self._ended_keys if not self._store.path(key).is_file())
        if missing_keys:
            raise self._store.store_error(
                f"{len(missing_keys)} of the records of this command are gone, such as {missing_keys[0]}.json"
            )

    def _write_death(self, running_trial: _RunningTrial, error: Exception | None) -> TrialRecord:
        """Write and return the record of a trial whose process died without leaving one."""
        reason = f": {type(error).__name__}: {cut_after_word(' '.join(str(error).split()), 500)}" if error else ""
        job = running_trial.job
        record = failed_record(
            job.config,
            RuntimeError(f"the trial's process died (out of memory, or its machine vanished){reason}"),
            phase=job.phase,
            cell=job.cell,
            stratum=job.stratum,
            started_at=running_trial.began_at,
        )
        self._store.write(record)
        return record
