"""A tracker that writes each trial as a run of TensorBoard: `tensorboard --logdir results/<run>/tensorboard`.

A run's name is its cell, its phase and the beginning of its key, so TensorBoard's filter can choose by cell. Scalars
are written by step. The tab HParams compares the trials' settings with their final metrics.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from lopt.records import TrialRecord
from sweeps.trackers import Tracker
from sweeps.trackers._trials import curve_metrics, final_metrics, plain_settings
from sweeps.work.evaluations import evaluations_in
from sweeps.work.job import Job, Report

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space


class TensorBoard(Tracker):
    name = "tensorboard"
    packages = ("tensorboardX",)

    def __init__(self, store: Store, space: Space) -> None:
        super().__init__(store, space)
        self._folder = self.local_folder("tensorboard")
        self._writers: dict[str, Any] = {}  # of running trials, by their keys
        self._written_steps: dict[str, int] = {}  # of the last written evaluation, by trial

    def on_started(self, job: Job) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder = self._folder / re.sub(r"[^A-Za-z0-9._=-]+", "_", job.cell) / f"{job.phase}-{job.key[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        # A trial that goes on after an interruption writes its evaluations again, so its earlier files are removed.
        for earlier_file in folder.glob("events.out.tfevents.*"):
            earlier_file.unlink()
        self._writers[job.key] = EventsWriter(str(folder / "events"))

    def on_reported(self, job: Job, report: Report) -> None:
        from tensorboardX import summary

        for evaluation in evaluations_in(report):
            step = int(evaluation["step"])
            if step == self._written_steps.get(job.key):
                continue  # the report at the end of a trial repeats its last evaluation
            self._written_steps[job.key] = step
            for name, value in curve_metrics(evaluation).items():
                self._write(job.key, step, summary=summary.scalar(name, value))

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        from tensorboardX import summary

        metrics = final_metrics(record)
        settings = {**plain_settings(job.config), "phase": job.phase, "cell": job.cell, "status": record.status}
        known_settings = {name: value for name, value in settings.items() if value is not None}
        for part in summary.hparams(known_settings, dict.fromkeys(metrics)):
            self._write(job.key, 0, summary=part)
        for name, value in metrics.items():
            self._write(job.key, record.steps, summary=summary.scalar(name, value))
        self._close_writer(job.key)

    def on_paused(self, job: Job, report: Report) -> None:
        self._close_writer(job.key)

    def on_requeued(self, job: Job) -> None:
        self._close_writer(job.key)

    def close(self) -> None:
        for key in list(self._writers):
            self._close_writer(key)

    def _write(self, key: str, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        writer = self._writers[key]
        writer.write_event(Event(step=step, wall_time=time.time(), **content))
        writer.flush()

    def _close_writer(self, key: str) -> None:
        self._written_steps.pop(key, None)
        if writer := self._writers.pop(key, None):
            writer.close()


SPEC = TensorBoard
