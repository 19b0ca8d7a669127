"""Adapters between Ray Tune and the sweep's supervisor, which decides what runs next and what stops."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.on_ray.capacity import Capacity
from sweeps.supervisor import Supervisor
from sweeps.work.job import SCORE


class GuardedSupervisor:
    """A supervisor whose errors end the sweep.

    Such an error is raised as a KeyboardInterrupt, because Tune would count any other error as a failure of a trial.

    Attributes:
        error: The error that ended the sweep (results can no longer be kept, or a plugin has failed); None before.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.error: Exception | None = None

    @contextlib.contextmanager
    def interrupt_on_error(self) -> Iterator[Supervisor]:
        """Turn an error of the supervisor into a KeyboardInterrupt, and store it as `error`."""
        try:
            yield self.supervisor
        except Exception as error:
            self.error = error
            raise KeyboardInterrupt from error


class QueueSearcher(Searcher):
    """Gives Tune the jobs of the queue. The queue is rebuilt from the results store, never from Ray's snapshot."""

    def __init__(self, guarded_supervisor: GuardedSupervisor, capacity: Capacity) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._guarded_supervisor, self._capacity = guarded_supervisor, capacity

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        with self._guarded_supervisor.interrupt_on_error() as supervisor:
            if not self._capacity.has_room(supervisor.running_count):
                return None
            job = supervisor.begin_next_trial(trial_id)
            if job is not None:
                return job.to_dict()
            return Searcher.FINISHED if supervisor.is_idle else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self._guarded_supervisor.interrupt_on_error() as supervisor:
            supervisor.end(trial_id, result, has_died=error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        pass


class StoppingScheduler(FIFOScheduler):
    """Passes every report to the supervisor, and stops a trial that early stopping or a budget ends."""

    def __init__(self, guarded_supervisor: GuardedSupervisor) -> None:
        super().__init__()
        self._guarded_supervisor = guarded_supervisor

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        # Waiting trials are stopped here. Otherwise each would start, and would be stopped only at its first report.
        if self._guarded_supervisor.supervisor.is_over_budget():
            for trial in tune_controller.get_trials():
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._guarded_supervisor.interrupt_on_error() as supervisor:
            trial_continues = supervisor.report(trial.trial_id, result)
        return TrialScheduler.CONTINUE if trial_continues else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # A pending trial may get an earlier trial's process. If that process is dead, the trial fails before it begins.
        had_begun_in_process = trial.status != Trial.PENDING
        self._guarded_supervisor.supervisor.note_death(
            trial.trial_id, _last_error(trial), had_begun_in_process=had_begun_in_process
        )


def _last_error(trial: Any) -> Exception | None:
    """Return the error that ended a trial's process, if any. Ray's own function can read it only after the sweep."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # there is no file, or the error's class is in a package that is not installed here
        return None
