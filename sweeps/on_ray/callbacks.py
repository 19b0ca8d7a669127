"""Callbacks of Ray Tune about the processes of trials: where they start, and that they die.

A trial whose process has died is started again and goes on from its checkpoint, until `client.DEATHS` deaths count
(`tune.run_trials`); `DeathCounter` decides which deaths count. After the last one `adapters.StoppingScheduler` tells
the supervisor. The supervisor writes the trial's record, or queues the trial again if it had not begun.
"""

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from sweeps.supervisor import Supervisor
from sweeps.work.job import STEP

# It takes Ray this long to know that a machine is gone. Until then it may start a trial there once more.
_MACHINE_LOSS_S = 30


class DeathCounter(tune.Callback):
    """Counts the deaths of a trial's process that may be the trial's fault.

    An evaluation sets the count of deaths back to zero. Several deaths in a row, as on a machine that is being taken
    away, count as one: they are not the trial's fault.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reached_step: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}
        self._clock = clock

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result[STEP] > self._reached_step.get(trial.trial_id, 0):
            self._reached_step[trial.trial_id] = result[STEP]
            trial.run_metadata.num_failures = 0

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._clock() - self._counted_at.get(trial.trial_id, -_MACHINE_LOSS_S) < _MACHINE_LOSS_S:
            trial.run_metadata.num_failures = max(0, trial.run_metadata.num_failures - 1)
        else:
            self._counted_at[trial.trial_id] = self._clock()


class TrialProcesses(tune.Callback):
    """Tells the supervisor when a trial's process starts, and when it has died and the trial waits for another one."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._supervisor.placed(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._supervisor.displaced(trial.trial_id)
