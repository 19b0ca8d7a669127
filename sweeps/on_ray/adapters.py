"""The sweep's own search and early stopping (`sweeps.supervisor`) behind the interfaces of Ray Tune."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.supervisor import Supervisor
from sweeps.work.job import SCORE


class GuardedSupervisor:
    """A supervisor whose errors end the sweep. They are raised as an interrupt: Tune takes any exception for a trial's.

    Attributes:
        error: The error that ended the sweep: results can no longer be kept, or a plugin has raised it.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.error: Exception | None = None

    @contextlib.contextmanager
    def guarded(self) -> Iterator[Supervisor]:
        """Turn an error of the supervisor into a KeyboardInterrupt, and keep it as `error`."""
        try:
            yield self.supervisor
        except Exception as error:
            self.error = error
            raise KeyboardInterrupt from error


class QueueSearcher(Searcher):
    """Gives Tune the jobs of the queue. The queue is rebuilt from the results store, never from Ray's snapshot."""

    def __init__(self, supervised: GuardedSupervisor) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._supervised = supervised

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        with self._supervised.guarded() as supervisor:
            job = supervisor.next(trial_id)
            if job is not None:
                return job.to_dict()
            return Searcher.FINISHED if supervisor.is_idle else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self._supervised.guarded() as supervisor:
            supervisor.end(trial_id, result, died=error)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        pass


class StoppingScheduler(FIFOScheduler):
    """Passes every report to the supervisor, and stops a trial that early stopping or a budget ends."""

    def __init__(self, supervised: GuardedSupervisor) -> None:
        super().__init__()
        self._supervised = supervised

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        # Trials that still wait are stopped here. Otherwise they would train up to their first reports, round by round.
        if self._supervised.supervisor.over_budget():
            for trial in tune_controller.get_trials():
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._supervised.guarded() as supervisor:
            goes_on = supervisor.report(trial.trial_id, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Tune fails a pending trial at once if the process that it is to take over is dead. Such a trial has not begun.
        has_begun = trial.status != Trial.PENDING
        self._supervised.supervisor.died(trial.trial_id, _last_error(trial), begun=has_begun)


def _last_error(trial: Any) -> Exception | None:
    """Return what ended a trial's process. Ray's own reader expects the file where it is copied only at the end."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # there is no error, or it needs a package that is not installed here
        return None
