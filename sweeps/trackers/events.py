"""A tracker that appends every event of a trial to `<run>/events.jsonl`, as one JSON object in a line.

To follow a sweep: tail -f results/ablation-demo/events.jsonl
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lopt.records import TrialRecord, utc_now
from sweeps.trackers import Tracker
from sweeps.work.job import SCORE, STEP, Job, Report

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space


class Events(Tracker):
    name = "events"

    def __init__(self, store: Store, space: Space) -> None:
        super().__init__(store, space)
        self._path = self.local_folder("events.jsonl")

    def on_started(self, job: Job) -> None:
        self._write("started", job, config=job.config.to_dict())

    def on_reported(self, job: Job, report: Report) -> None:
        self._write("reported", job, step=report[STEP], score=report[SCORE])

    def on_stopped(self, job: Job, report: Report) -> None:
        self._write("stopped", job, step=report[STEP], score=report[SCORE])

    def on_paused(self, job: Job, report: Report) -> None:
        self._write("paused", job)

    def on_requeued(self, job: Job) -> None:
        self._write("requeued", job)

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        self._write("ended", job, status=record.status, step=record.steps, score=record.selection_score)

    def _write(self, event: str, job: Job, **details: Any) -> None:
        event_dict = {
            "time": utc_now(),
            "event": event,
            "key": job.key,
            "phase": job.phase,
            "cell": job.cell,
            **details,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event_dict) + "\n")


SPEC = Events
