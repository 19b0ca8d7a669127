"""A tracker that writes each trial as a run of Weights & Biases, in the group of the sweep.

The project is WANDB_PROJECT, else "lopt". A run's id is the trial's key, so a continued trial continues its run. With
WANDB_MODE=offline it writes to `<run>/wandb`, and `wandb sync` sends that later.
"""

from __future__ import annotations

import os
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

_MAX_TAG_LENGTH = 64


class WeightsAndBiases(Tracker):
    name = "wandb"
    packages = ("wandb",)

    def __init__(self, store: Store, space: Space) -> None:
        super().__init__(store, space)
        self._folder = self.local_folder("")
        self._runs: dict[str, Any] = {}  # of running trials, by their keys
        self._written_steps: dict[str, int] = {}  # of the last written evaluation, by trial
        if os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun") and not _has_api_key():
            raise ValueError(
                "tracker 'wandb' has no API key: run `wandb login`, or set WANDB_MODE=offline and send the files later "
                "with `wandb sync`"
            )

    def on_started(self, job: Job) -> None:
        import wandb

        self._runs[job.key] = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "lopt",
            dir=str(self._folder),
            id=job.key,
            resume="allow",
            reinit="create_new",
            name=trial_title(job.config, job.phase, job.cell),
            group=os.environ.get("WANDB_RUN_GROUP") or self.store.run,
            job_type=job.phase,
            tags=[tag[:_MAX_TAG_LENGTH] for tag in {*tags_of(job.config, self.space.name, job.phase).values()}],
            config={**plain_settings(job.config), "phase": job.phase, "cell": job.cell, "stratum": job.stratum},
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )

    def on_reported(self, job: Job, report: Report) -> None:
        for evaluation in evaluations_in(report):
            step = int(evaluation["step"])
            if step > self._written_steps.get(job.key, 0):
                self._written_steps[job.key] = step
                self._runs[job.key].log(curve_metrics(evaluation), step=step)

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        run = self._runs[job.key]
        run.summary.update({**final_metrics(record), "status": record.status, "error": failure_note(record)})
        self._finish(job.key, exit_code=int(record.status in ("failed", "diverged")))

    def on_paused(self, job: Job, report: Report) -> None:
        self._finish(job.key, exit_code=1)

    def on_requeued(self, job: Job) -> None:
        self._finish(job.key, exit_code=1)

    def close(self) -> None:
        for key in list(self._runs):
            self._finish(key, exit_code=1)

    def _finish(self, key: str, exit_code: int) -> None:
        self._written_steps.pop(key, None)
        if run := self._runs.pop(key, None):
            run.finish(exit_code=exit_code)


def _has_api_key() -> bool:
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return wandb.login(prompt=False)  # with the key that `wandb login` has stored
    except wandb.Error:  # the server cannot be asked now; if that stays so, the tracker fails, and the sweep goes on
        return True


SPEC = WeightsAndBiases
