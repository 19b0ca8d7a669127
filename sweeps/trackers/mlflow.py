"""A tracker that writes to MLflow: an experiment for the sweep, a parent run for each cell, a run in it for each trial.

Without MLFLOW_TRACKING_URI it writes to `<run>/mlflow.db`: `mlflow ui --backend-store-uri sqlite:///results/<run>/mlflow.db`
(the page needs the whole package mlflow; the tracker needs only mlflow-skinny).
"""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lopt.records import TrialRecord
from sweeps.trackers import Tracker
from sweeps.trackers._trials import (
    curve_metrics,
    failure_note,
    final_metrics,
    plain_settings,
    tags_of,
    trial_title,
)
from sweeps.work.evaluations import evaluations_in
from sweeps.work.job import Job, Report

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space

_KEY, _CELL = "lopt.key", "lopt.cell"  # tags
_STATUS = {"complete": "FINISHED", "stopped": "FINISHED"}  # MLflow's word for the status of a trial; else FAILED
_MAX_VALUE_LENGTH = 500  # of a parameter, in every version of MLflow's server


class MLflow(Tracker):
    name = "mlflow"
    packages = ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, store: Store, space: Space) -> None:
        super().__init__(store, space)
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.local_folder('mlflow.db')}"
        self._parent_ids: dict[str, str] = {}  # id of the parent run, by cell
        self._written_steps: dict[str, int] = {}  # of the last written evaluation, by run id

    @cached_property
    def _client(self) -> Any:
        import logging

        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # the making of tables is not news of the sweep
        return MlflowClient(tracking_uri=self._uri)

    @cached_property
    def _experiment_id(self) -> str:
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"lopt/{self.store.run}"
        experiment = self._client.get_experiment_by_name(experiment_name)
        if experiment is not None:
            return experiment.experiment_id
        return self._client.create_experiment(experiment_name, tags={"lopt.space": self.space.name})

    @cached_property
    def _run_ids(self) -> dict[str, str]:
        """The ids of the trials' runs, by the trials' keys. Earlier commands may have written some."""
        ids: dict[str, str] = {}
        page_token = None
        while True:
            page = self._client.search_runs([self._experiment_id], page_token=page_token)
            for run in page:
                if _KEY in run.data.tags:
                    ids[run.data.tags[_KEY]] = run.info.run_id
                elif _CELL in run.data.tags:
                    self._parent_ids[run.data.tags[_CELL]] = run.info.run_id
            page_token = page.token
            if not page_token:
                return ids

    def on_started(self, job: Job) -> None:
        from mlflow.entities import Param

        run_id = self._run_ids.get(job.key)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return
        tags = {f"lopt.{name}": tag for name, tag in tags_of(job.config, self.space.name, job.phase).items()}
        run = self._client.create_run(
            self._experiment_id,
            run_name=trial_title(job.config, job.phase, job.cell),
            tags={**tags, _KEY: job.key, _CELL: job.cell, "mlflow.parentRunId": self._parent_of(job)},
        )
        self._run_ids[job.key] = run.info.run_id
        settings = {name: str(value)[:_MAX_VALUE_LENGTH] for name, value in plain_settings(job.config).items()}
        self._client.log_batch(run.info.run_id, params=[Param(name, value) for name, value in settings.items()])

    def _parent_of(self, job: Job) -> str:
        """Return the id of the parent run of the trial's cell."""
        if job.cell not in self._parent_ids:
            tags = {_CELL: job.cell, "lopt.space": self.space.name}
            run = self._client.create_run(self._experiment_id, run_name=job.cell, tags=tags)
            self._parent_ids[job.cell] = run.info.run_id
        return self._parent_ids[job.cell]

    def on_reported(self, job: Job, report: Report) -> None:
        run_id = self._run_ids[job.key]
        for evaluation in evaluations_in(report):
            # A trial that is restored reports its evaluations again, and its last report repeats the last one.
            if int(evaluation["step"]) > self._written_steps.get(run_id, 0):
                self._log(run_id, curve_metrics(evaluation), int(evaluation["step"]))

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        run_id = self._run_ids[job.key]
        self._log(run_id, final_metrics(record), record.steps)
        self._client.set_tag(run_id, "lopt.status", record.status)
        if note := failure_note(record):
            self._client.set_tag(run_id, "mlflow.note.content", note)
        self._client.set_terminated(run_id, _STATUS.get(record.status, "FAILED"))

    def on_paused(self, job: Job, report: Report) -> None:
        self._client.update_run(self._run_ids[job.key], status="SCHEDULED")

    def on_requeued(self, job: Job) -> None:
        self._client.update_run(self._run_ids[job.key], status="SCHEDULED")

    def close(self) -> None:
        for run_id in self._parent_ids.values():
            self._client.set_terminated(run_id, "FINISHED")

    def _log(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        self._written_steps[run_id] = step
        now_ms = int(time.time() * 1000)
        self._client.log_batch(run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()])


SPEC = MLflow
