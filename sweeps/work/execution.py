"""One trial of a sweep: trains, reports at every evaluation, writes its record when it ends.

A trial that shares its backbone trains in its device's worker (`sweeps.work.worker`); its own process only passes
reports on, and imports no torch. Any other trains in its own process.

Every report carries the record as it would be if the trial stopped there, so that whoever stops it (early stopping
decides in another process) can write that record at once.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lopt.failure import failed_record
from lopt.records import TrialRecord, now
from sweeps.results.run_folder import StoreError
from sweeps.results.store import FINAL, Store
from sweeps.work.job import SCORE, STEP, Job, Report, overdue

if TYPE_CHECKING:
    from lopt.engine import Outcome
    from lopt.training import Trial


class Execution:
    """A job as it goes: its trial, and what is written and reported of it, whoever trains it.

    A report: status, step, selection_score (the best so far, by the configuration's metric), record (JSON), restored
    (whether the trial has just come from a checkpoint), note (what a user should know, or ""), store_error (why results
    cannot be kept, or "": an end of the sweep and no failure of the trial); on Ray also device (where it trains: a
    node, and its GPU).

    Attributes:
        key: of the trial. trial: None before `begin`, and where it could not be made. over: nothing is left to train.
    """

    def __init__(self, job: Job) -> None:
        self.config = job.config
        self.trial: Trial | None = None
        self.over = False
        self._phase, self._place = job.phase, {"cell": job.cell, "stratum": job.stratum}
        self._limit_s = job.limit_s or math.inf
        self._store, self._started, self._note = Store(job.out, job.run), now(), ""

    @property
    def key(self) -> str:
        return self.trial.config.key if self.trial else self.config.key

    def begin(self) -> Report | None:
        """Makes the trial, at its newest checkpoint if it has one. A report if there is something to say at once: it
        goes on, it cannot be made, or it was over already (a worker that is restarted after its last write)."""
        from lopt import memory
        from lopt.training import Trial

        try:
            earlier = self._store.read(self.config.key)
        except StoreError as error:
            return self._unkept(error)
        # A failure of an earlier command is set aside before the trial starts: this one is its own.
        if earlier is not None and earlier.status in (*FINAL, "failed"):
            return self._said(earlier, earlier.status)
        try:
            self.trial = Trial(self.config, phase=self._phase)
            checkpoint = self._store.read_checkpoint(self.key)
            if checkpoint is None:
                return None
            try:
                self.trial.restore(checkpoint)
            except Exception as error:
                if memory.ran_out(error):  # the checkpoint is as good as before
                    raise
                self._note = f"begins anew: {' '.join(str(error).split())}"
                self._store.drop_checkpoints(self.key)
                self.trial = Trial(self.config, phase=self._phase)
                return None
        except StoreError as error:
            self.trial = None  # nothing may train, and write over a checkpoint that could not be read
            return self._unkept(error)
        except Exception as error:  # an outcome like any other: recorded, and the sweep goes on
            return self.fail(error)
        self._note = f"continues at step {self.trial.step:,}"
        return self._said(self.trial.finish(**self._place), "running", restored=True)

    def report(self, outcome: Outcome) -> Report:
        """What is to be reported of what has become of the trial, after the files that belong to it: a checkpoint at
        an evaluation that is not the last, else artifact and record."""
        trial = self.trial
        assert trial is not None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            if not trial.over:
                if trial.elapsed_s > self._limit_s:
                    raise TimeoutError(overdue(self._limit_s, f"was at step {trial.step:,}"))
                self._save(trial)
                return self._said(trial.finish(**self._place), "running")
            with tempfile.TemporaryDirectory(prefix="lopt-") as folder:
                record = trial.finish(artifact=folder, **self._place)
                self._store.write_artifact(self.key, Path(folder))
        except StoreError as error:
            return self._unkept(error)
        except Exception as error:
            return self.fail(error)
        return self._ended(record)

    def save(self) -> None:
        """A checkpoint wherever the trial stands, for one that is about to be cut off."""
        if self.trial is not None and not self.over and not self.trial.over:
            self._save(self.trial)

    def _save(self, trial: Trial) -> None:
        self._store.write_checkpoint(self.key, trial.step, trial.saved(cell=self._place["cell"]))

    def fail(self, error: BaseException) -> Report:
        """The report of a trial that raised `error`, or that others died of, after its record."""
        if self.trial is not None:
            return self._ended(self.trial.failed(error, **self._place))
        started = {"phase": self._phase, "started_at": self._started}
        return self._ended(failed_record(self.config, error, **started, **self._place))

    def _ended(self, record: TrialRecord) -> Report:
        predictions = self.trial.predictions if self.trial and record.status == "complete" else None
        try:
            self._store.write(record, predictions)
        except StoreError as error:
            return self._unkept(error)
        return self._said(record, record.status)

    def _unkept(self, error: OSError) -> Report:
        """The report of a trial of which nothing can be written; whoever reads it ends the sweep."""
        started = {"phase": self._phase, "started_at": self._started}
        record = failed_record(self.config, error, **started, **self._place)
        return self._said(record, "running", store_error=str(error))

    def _said(self, record: TrialRecord, status: str, *, restored: bool = False, store_error: str = "") -> Report:
        self.over = status != "running"
        note, self._note = self._note, ""
        # A trial that was cut off between two evaluations comes back with what the earlier one found.
        evaluated = record.evaluations[-1].step if record.evaluations else 0
        return {
            "status": status,
            STEP: record.steps if self.over else evaluated,
            SCORE: record.selection_score or 0.0,
            "record": json.dumps(record.to_dict()),  # Ray flattens nested results; a string stays whole
            "restored": restored,
            "note": note,
            "store_error": store_error,
        }


def execute(job: Job) -> Iterator[Report]:
    """Runs a job alone; yields a report at every evaluation, and a last one whose status is no longer "running"."""
    return reports(Execution(job))


def reports(execution: Execution) -> Iterator[Report]:
    """See `execute`."""
    report = execution.begin()
    if report is not None:
        yield report
    if execution.over or execution.trial is None:
        return
    outcome: Outcome = None
    try:
        for evaluation in execution.trial:
            if not execution.trial.over:
                yield execution.report(evaluation)
                if execution.over:
                    return
    except Exception as error:
        outcome = error
    yield execution.report(outcome)
