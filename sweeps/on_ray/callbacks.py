"""Callbacks of Ray Tune that follow the processes of trials: when they start, and when they die.

If the process of a trial dies, Tune starts the trial again, and it goes on from its checkpoint. `DeathCounter` decides
which deaths count. After `client.MAX_DEATHS` that count, `adapters.StoppingScheduler` tells the supervisor. The
supervisor writes the trial's record as failed, or queues the trial again if it had not begun.
"""

import time
from collections.abc import Callable
from typing import Any

from ray import tune

from sweeps.on_ray.waiting import Wait
from sweeps.supervisor import Supervisor
from sweeps.work.job import STEP

# Ray may take this long to notice that a machine is gone. Until then it may start a trial there again.
_MACHINE_LOSS_S = 30


class DeathCounter(tune.Callback):
    """Counts the deaths of a trial's process that may be the trial's fault.

    An evaluation sets the count of deaths back to zero. Deaths within `_MACHINE_LOSS_S` seconds of a counted one do not
    count, because their cause is probably a machine that is being taken away.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._evaluated_step_by_id: dict[str, int] = {}  # the last evaluated step, by Tune's id of the trial
        self._counted_at_by_id: dict[str, float] = {}  # when a death of the trial was last counted
        self._clock = clock

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result[STEP] > self._evaluated_step_by_id.get(trial.trial_id, 0):
            self._evaluated_step_by_id[trial.trial_id] = result[STEP]
            trial.run_metadata.num_failures = 0

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._clock() - self._counted_at_by_id.get(trial.trial_id, -_MACHINE_LOSS_S) < _MACHINE_LOSS_S:
            trial.run_metadata.num_failures = max(0, trial.run_metadata.num_failures - 1)
        else:
            self._counted_at_by_id[trial.trial_id] = self._clock()


class ProcessWatcher(tune.Callback):
    """Tells the supervisor when a trial's process starts, and when a trial waits for another process after a death."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._supervisor.note_placed(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._supervisor.note_displacement(trial.trial_id)


class WaitingWatch(tune.Callback):
    """Tells the user when all trials that have begun wait for machines, and ends such a wait that lasts too long.

    Args:
        needed: What a trial needs, in words.
        end_sweep: Is given the error that ends the sweep.
    """

    def __init__(self, needed: str, max_wait_s: float, end_sweep: Callable[[Exception], None]) -> None:
        self._needed, self._max_wait_s, self._end_sweep = needed, max_wait_s, end_sweep
        self._wait: Wait | None = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        statuses = {trial.status for trial in trials}
        if "PENDING" not in statuses or "RUNNING" in statuses:
            self._wait = None
            return
        self._wait = self._wait or Wait(self._needed, max_wait_s=self._max_wait_s)
        try:
            self._wait.note()
        except ValueError as error:
            self._end_sweep(error)
