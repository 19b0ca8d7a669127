"""What Ray Tune tells of trials' processes: where they start, and that they die.

A trial whose process has died is started again, and goes on from its checkpoint, until `client.DEATHS` deaths count
(`tune.run_trials`); `ForgivenDeaths` says which do. After the last one `adapters.StoppingScheduler` tells the
supervisor, which writes the trial's record, or queues it again if it had not begun.
"""

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from sweeps.supervisor import Supervisor
from sweeps.work.job import STEP

_DYING_S = 30  # until Ray knows that a machine is gone; it may start a trial there once more


class ForgivenDeaths(tune.Callback):
    """Of the deaths of a trial's process only those without an evaluation between them count, and of several in a row,
    as on a machine that is being taken away, one: that is no fault of the trial."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reached: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}
        self._clock = clock

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result[STEP] > self._reached.get(trial.trial_id, 0):
            self._reached[trial.trial_id] = result[STEP]
            trial.run_metadata.num_failures = 0

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._clock() - self._counted_at.get(trial.trial_id, -_DYING_S) < _DYING_S:
            trial.run_metadata.num_failures = max(0, trial.run_metadata.num_failures - 1)
        else:
            self._counted_at[trial.trial_id] = self._clock()


class TrialPlaces(tune.Callback):
    """Tells when a trial has its place, and when its process has died and it waits for another one."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._supervisor.placed(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._supervisor.displaced(trial.trial_id)
