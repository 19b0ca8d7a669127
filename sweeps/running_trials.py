"""Keeps the files of running trials up to date, so that a page can show a sweep while it runs.

The sweep's thread only notes what happens. The files are written in a thread of their own (`sweeps.background`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lopt.records import TrialRecord, utc_now
from sweeps.background import BackgroundCalls
from sweeps.listener import Listener
from sweeps.results.running_files import STATUS_INTERVAL_S, RunningFiles
from sweeps.work.evaluations import evaluations_in
from sweeps.work.job import Job, Report

if TYPE_CHECKING:
    from sweeps.budget import Budget
    from sweeps.progress import Progress
    from sweeps.results.store import Store

_DESCRIBED_SETTINGS = (
    "method", "backbone", "task", "length", "rank", "learning_rate", "seed", "max_steps", "metric",
)  # fmt: skip
_PACE_S = 60.0  # the pace is that of the last minute
_MAX_STOPS = 200  # the reasons of so many stopped trials are kept


class RunningTrials(Listener):
    """Writes `running/` of a run (`sweeps.results.running_files`).

    Args:
        progress, budget: They get each event before this listener does.
    """

    def __init__(
        self, store: Store, progress: Progress, budget: Budget, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._budget, self._clock = progress, budget, clock
        self._files = RunningFiles(store.folder / "running")
        self._background = BackgroundCalls(
            "the page of running trials", after_calls=self._files.flush, interval_s=STATUS_INTERVAL_S, is_note=True
        )
        self._stops: deque[dict[str, Any]] = deque(self._files.earlier_stops(), maxlen=_MAX_STOPS)
        self._step_counts: deque[tuple[float, int]] = deque([(clock(), 0)])  # steps of this command, and when
        self._began_at, self._noted_at = utc_now(), clock()
        self._background.post(self._files.clear)
        self._note_status()

    def __reduce__(self) -> tuple[type[Listener], tuple[()]]:
        """Ray Tune pickles the supervisor with its listeners. A copy in another process listens to nothing."""
        return Listener, ()

    def on_started(self, job: Job) -> None:
        config = job.config
        description = {
            "key": job.key,
            "phase": job.phase,
            "cell": job.cell,
            "stratum": job.stratum,
            "started_at": utc_now(),
            "config": {name: getattr(config, name) for name in _DESCRIBED_SETTINGS},
        }
        self._background.post(partial(self._files.begin, job.key, description))
        self._note_status_if_due()

    def on_placed(self, job: Job) -> None:
        self._add(job, {"event": "placed", "at": utc_now()})

    def on_displaced(self, job: Job) -> None:
        self._add(job, {"event": "displaced", "at": utc_now()})

    def on_reported(self, job: Job, report: Report) -> None:
        for evaluation in evaluations_in(report):
            self._add(job, {"evaluation": evaluation, **_known(device=report.get("device"), note=report.get("note"))})

    def on_stopped(self, job: Job, report: Report) -> None:
        self._stops.append({"key": job.key, "at": utc_now(), "reason": report.get("reason", "")})

    def on_paused(self, job: Job, report: Report) -> None:
        self._add(job, {"event": "paused", "at": utc_now()})

    def on_requeued(self, job: Job) -> None:
        self._background.post(partial(self._files.drop, job.key))
        self._note_status_if_due()

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        self._background.post(partial(self._files.drop, job.key))
        self._note_status_if_due()

    def close(self) -> None:
        self._note_status()
        self._background.post(partial(self._files.flush, at_once=True))
        self._background.close()

    def _add(self, job: Job, entry: dict[str, Any]) -> None:
        self._background.post(partial(self._files.add, job.key, entry))
        self._note_status_if_due()

    def _note_status_if_due(self) -> None:
        if self._clock() - self._noted_at >= STATUS_INTERVAL_S:
            self._note_status()

    def _note_status(self) -> None:
        """Note counts, pace and budget as they are now. This is done here because other threads must not read them."""
        now = self._noted_at = self._clock()
        progress = self._progress.to_dict()
        self._step_counts.append((now, progress["step_count"]))
        while len(self._step_counts) > 2 and now - self._step_counts[1][0] >= _PACE_S:
            self._step_counts.popleft()
        began_at, step_count = self._step_counts[0]
        elapsed_s = now - began_at
        status = {
            "began_at": self._began_at,
            "progress": progress,
            "budget": self._budget.to_dict(),
            "steps_per_s": (progress["step_count"] - step_count) / elapsed_s if elapsed_s else 0.0,
            "stops": list(self._stops),
        }
        self._background.post(partial(self._files.set_status, status))


def _known(**values: Any) -> dict[str, Any]:
    """Return the values that are not empty."""
    return {name: value for name, value in values.items() if value}
