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


class Supervised:
    """A supervisor whose errors end the sweep: as an interrupt, since Tune takes any exception for a trial's.

    Attributes:
        error: what ended it: results can no longer be kept, or a plug-in has raised.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.error: Exception | None = None

    @contextlib.contextmanager
    def guarded(self) -> Iterator[Supervisor]:
        try:
            yield self.supervisor
        except Exception as error:
            self.error = error
            raise KeyboardInterrupt from error


class QueueSearcher(Searcher):
    """Gives Tune the jobs of the queue. Its state is rebuilt from the results store, never from Ray's snapshot."""

    def __init__(self, supervised: Supervised) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._supervised = supervised

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        with self._supervised.guarded() as supervisor:
            job = supervisor.next(trial_id)
            if job is not None:
                return job.to_dict()
            return Searcher.FINISHED if supervisor.idle else None

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
    """Passes every report on, and stops a trial where early stopping or a budget ends it."""

    def __init__(self, supervised: Supervised) -> None:
        super().__init__()
        self._supervised = supervised

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self._supervised.supervisor.over_budget():  # else they would train to their first report, round by round
            for trial in tune_controller.get_trials():
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._supervised.guarded() as supervisor:
            goes_on = supervisor.report(trial.trial_id, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Tune fails a pending trial at once if the process that it was to take over is dead: it has not begun.
        begun = trial.status != Trial.PENDING
        self._supervised.supervisor.died(trial.trial_id, _last_error(trial), begun=begun)


def _last_error(trial: Any) -> Exception | None:
    """What ended a trial's process; Ray's own reader looks where the file is copied at the end of the experiment."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # there is none, or it needs what is not installed here
        return None
