"""Train one trial of a sweep, report at every evaluation, and write the trial's record when it ends.

A trial that shares its backbone is trained by the worker of its device (`sweeps.work.worker`). The trial's own process
then only passes reports on and does not import torch. Every other trial is trained in its own process.

Every report carries the record that the trial would have if it stopped there. Early stopping decides in another
process. When it stops the trial, it can write this record at once.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lopt.errors import to_one_line
from lopt.failure import failed_record
from lopt.records import TrialRecord, utc_now
from sweeps.results.run_folder import StoreError
from sweeps.results.store import FINAL_STATUSES, Store
from sweeps.work.evaluations import last_evaluation_as_json
from sweeps.work.job import SCORE, STEP, Job, Report, overdue_message

if TYPE_CHECKING:
    from lopt.engine import Outcome
    from lopt.low_rank import LowRank
    from lopt.training import Trial


class Execution:
    """Does everything for one job except the training: sets up the trial, and writes and reports its results.

    The trial is trained by whoever uses this class: `train_and_report`, or the worker of a device.

    A report has these entries:
        status: "running", or the status of the trial's record.
        step: the last evaluated step; for a trial that has ended, the number of its steps.
        selection_score: the best score so far, by the metric of the configuration.
        record: the record, as JSON.
        evaluation: the last evaluation, as JSON, or "" (`sweeps.work.evaluations`).
        restored: whether the trial has just been restored from a checkpoint.
        note: something that the user should know, or "".
        store_error: why results cannot be kept, or "". Such an error ends the sweep, and the trial has not failed.
        machine_error: why no trial can run on this machine; missing if trials can. Such an error ends the sweep.
        device: on Ray only, the node and the GPU on which the trial trains.

    Attributes:
        trial: The trial, or None before `begin` and if it could not be set up.
        has_ended: Whether nothing is left to train.
    """

    def __init__(self, job: Job) -> None:
        self.config = job.config
        self.trial: Trial | None = None
        self.has_ended = False
        self._phase, self._cell_and_stratum = job.phase, {"cell": job.cell, "stratum": job.stratum}
        self._limit_s = job.limit_s or math.inf
        self._store, self._started_at, self._note = Store(job.out, job.run), utc_now(), ""

    @property
    def key(self) -> str:
        """The key of the trial."""
        return self.trial.config.key if self.trial else self.config.key

    def begin(self) -> Report | None:
        """Set up the trial, and restore it from its newest checkpoint if it has one.

        Returns:
            A report if there is something to say at once: the trial continues from a checkpoint, cannot be set up, or
            had ended already (its process died after writing the record). Otherwise None.
        """
        from lopt import memory
        from lopt.training import Trial

        try:
            earlier_record = self._store.read(self.config.key)
        except StoreError as error:
            return self._report_store_error(error)
        # A failed record of an earlier command is set aside before the trial starts. So this record is of this command.
        if earlier_record is not None and earlier_record.status in (*FINAL_STATUSES, "failed"):
            return self._new_report(earlier_record, earlier_record.status)
        try:
            self.trial = Trial(self.config, phase=self._phase)
            checkpoint = self._store.read_checkpoint(self.key)
            if checkpoint is None:
                return None
            try:
                self.trial.restore(checkpoint)
            except Exception as error:
                if memory.is_out_of_memory(error):  # the checkpoint is not to blame
                    raise
                self._note = f"starts over: {' '.join(str(error).split())}"
                self._store.drop_checkpoints(self.key)
                self.trial = Trial(self.config, phase=self._phase)
                return None
        except StoreError as error:
            self.trial = None  # if it trained, it would replace the checkpoint that could not be read
            return self._report_store_error(error)
        except Exception as error:  # a failure is recorded like any other outcome, and the sweep goes on
            return self.fail(error)
        self._note = f"continues at step {self.trial.step:,}"
        return self._new_report(self.trial.finish(**self._cell_and_stratum), "running", restored=True)

    def report(self, outcome: Outcome) -> Report:
        """Write the files that belong to a training outcome, and return its report.

        At the end of the trial, the files are its artifact and record. At an earlier evaluation, it is a checkpoint.
        """
        trial = self.trial
        assert trial is not None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            if not trial.is_over:
                if trial.elapsed_s > self._limit_s:
                    raise TimeoutError(overdue_message(self._limit_s, f"was at step {trial.step:,}"))
                self._write_checkpoint(trial)
                return self._new_report(trial.finish(**self._cell_and_stratum), "running")
            with tempfile.TemporaryDirectory(prefix="lopt-") as folder:
                record = trial.finish(artifact=folder, **self._cell_and_stratum)
                self._store.write_artifact(self.key, Path(folder))
        except StoreError as error:
            return self._report_store_error(error)
        except Exception as error:
            return self.fail(error)
        return self._write_and_report(record)

    def save(self) -> None:
        """Write a checkpoint at the current step, because the trial is about to be cut off."""
        if self.trial is not None and not self.has_ended and not self.trial.is_over:
            self._write_checkpoint(self.trial)

    def fail(self, error: BaseException) -> Report:
        """Write the record of a trial that failed with `error`, and return its report."""
        if self.trial is not None:
            return self._write_and_report(self.trial.failure_record(error, **self._cell_and_stratum))
        return self._write_and_report(self._make_failed_record(error))

    def refuse(self, machine_error: str, *, keeps_results: bool = True) -> Report:
        """Return the report of a trial that cannot run on this machine; whoever reads it ends the sweep.

        Args:
            keeps_results: Whether results of this machine come to the driver. If they do, the trial is recorded as
                failed.
        """
        error = RuntimeError(machine_error)
        report = self.fail(error) if keeps_results else self._new_report(self._make_failed_record(error), "running")
        return {**report, "machine_error": machine_error}

    def _make_failed_record(self, error: BaseException) -> TrialRecord:
        return failed_record(
            self.config, error, phase=self._phase, started_at=self._started_at, **self._cell_and_stratum
        )

    def _write_checkpoint(self, trial: Trial) -> None:
        checkpoint = trial.to_checkpoint(cell=self._cell_and_stratum["cell"])
        self._store.write_checkpoint(self.key, trial.total_steps, checkpoint)  # a number that only grows

    def _write_and_report(self, record: TrialRecord) -> Report:
        """Write the record of a trial that has ended, and return its report."""
        predictions = self.trial.predictions if self.trial and record.status == "complete" else None
        low_rank = self._measure_low_rank(self.trial) if self.trial and predictions is not None else None
        try:
            self._store.write(record, predictions, low_rank)
        except StoreError as error:
            return self._report_store_error(error)
        return self._new_report(record, record.status)

    def _measure_low_rank(self, trial: Trial) -> LowRank | None:
        """Return how low-rank the trained prompt is. Return None if the method does not train the whole prompt.

        If this fails, the trial has not failed: the result is None, and the next report has a note.
        """
        from lopt import low_rank

        if not trial.method.trains_whole_prompt:
            return None
        try:
            return low_rank.measure(trial)
        except Exception as error:
            self._note = f"its prompt could not be cut to lower ranks ({to_one_line(error)})"
            return None

    def _report_store_error(self, error: OSError) -> Report:
        """Return the report of a trial whose results cannot be kept; whoever reads it ends the sweep."""
        return self._new_report(self._make_failed_record(error), "running", store_error=str(error))

    def _new_report(self, record: TrialRecord, status: str, *, restored: bool = False, store_error: str = "") -> Report:
        self.has_ended = status != "running"
        note, self._note = self._note, ""
        # A trial that was saved between two evaluations is restored with the results of the earlier one.
        evaluated_step = record.evaluations[-1].step if record.evaluations else 0
        return {
            "status": status,
            STEP: record.steps if self.has_ended else evaluated_step,
            SCORE: record.selection_score or 0.0,
            "record": json.dumps(record.to_dict()),  # a string, because Ray flattens nested results
            "evaluation": last_evaluation_as_json(record),
            "restored": restored,
            "note": note,
            "store_error": store_error,
        }


def execute(job: Job) -> Iterator[Report]:
    """Train a job's trial alone, and yield a report at every evaluation.

    The last report has another status than "running", unless it has a store_error.
    """
    return train_and_report(Execution(job))


def train_and_report(execution: Execution) -> Iterator[Report]:
    """Train the trial of `execution` alone and yield its reports, as `execute` does."""
    report = execution.begin()
    if report is not None:
        yield report
    if execution.has_ended or execution.trial is None:
        return
    outcome: Outcome = None
    try:
        for evaluation in execution.trial:
            if not execution.trial.is_over:
                yield execution.report(evaluation)
                if execution.has_ended:
                    return
    except Exception as error:
        outcome = error
    yield execution.report(outcome)
