"""Early stopping that compares like with like: one ASHA per stratum, over Ray's own.

ASHA: Li et al. 2020, arXiv 1810.05934. Within a table a stratum is a cell, in a free search a factor of two of
parameter count; a trial never stops because of another stratum's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from lopt.records import Evaluation, TrialRecord
from sweeps.budget import GpuTime
from sweeps.trial import METRIC, TIME

_DYING_S = 30  # until Ray knows that a machine is gone; it may start a trial there once more


class Mercy(tune.Callback):
    """Of the deaths of a trial's process only those without an evaluation between them count, and of several in a row,
    as on a machine that is being taken away, one: that is no fault of the trial."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reached: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}
        self._clock = clock

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result[TIME] > self._reached.get(trial.trial_id, 0):
            self._reached[trial.trial_id] = result[TIME]
            trial.run_metadata.num_failures = 0

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._clock() - self._counted_at.get(trial.trial_id, -_DYING_S) < _DYING_S:
            trial.run_metadata.num_failures = max(0, trial.run_metadata.num_failures - 1)
        else:
            self._counted_at[trial.trial_id] = self._clock()


class Places(tune.Callback):
    """Tells when a trial has its place, and when its process has died and it waits for another one."""

    def __init__(self, of: GpuTime) -> None:
        self._of = of

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._of.began(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._of.ended(trial.trial_id)


def _last_error(trial: Any) -> Exception | None:
    """What ended a trial's process; Ray's own reader looks where the file is copied at the end of the experiment."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # there is none, or it needs what is not installed here
        return None


class StratifiedASHA(FIFOScheduler):
    """One `AsyncHyperBandScheduler` for each stratum; trials of the confirm phase always run to the end.

    Args:
        grace_steps, reduction_factor, max_steps: of every stratum.
        audit: share of the trials to be stopped that run to the end instead, chosen by their keys. Nobody competes with
            what they reach from there on.
        audited: the steps at which trials of earlier commands would have been stopped, by their keys.
        on_audit: called with the record, so far, of a trial that would have been stopped.
        on_stop: called with the last report of a trial that is stopped because others are better.
        on_error: called with what ended a trial's process for the last time, before the searcher hears of it.
        over_budget: asked at every report; when it says so, every trial ends there, confirm trials, too. Such a trial
            leaves its checkpoint and no record: another command goes on with it. Trials that wait for a place get none.
    """

    def __init__(
        self,
        *,
        grace_steps: int,
        reduction_factor: int,
        max_steps: int,
        on_stop: Callable[[str, Mapping[str, Any]], None] = lambda trial_id, report: None,
        on_error: Callable[[str, Exception | None, bool], None] = lambda trial_id, error, begun: None,
        audit: float = 0.0,
        audited: Mapping[str, int] = MappingProxyType({}),
        on_audit: Callable[[TrialRecord], None] = lambda record: None,
        over_budget: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._rules: dict[str, Any] = {
            "time_attr": TIME,
            "metric": METRIC,
            "mode": "max",
            "grace_period": min(grace_steps, max_steps),
            "reduction_factor": reduction_factor,
            "max_t": max_steps,
        }
        self._strata: dict[str, AsyncHyperBandScheduler] = {}
        self._on_stop, self._on_error = on_stop, on_error
        self._on_audit, self._over_budget = on_audit, over_budget
        self._audit, self._audited = audit, dict(audited)
        self._excused: set[str] = set()  # ids of trials that run on to be audited

    def _asha(self, trial: Any) -> AsyncHyperBandScheduler | None:
        if trial.config["phase"] == "confirm":
            return None
        return self._strata.setdefault(trial.config["stratum"], AsyncHyperBandScheduler(**self._rules))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if asha := self._asha(trial):
            asha.on_trial_add(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self._over_budget():  # else they would train to their first report, one round of them after the other
            for trial in tune_controller.get_trials():
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result.get("status") != "running" or result.get("store_error"):
            return TrialScheduler.CONTINUE
        if (asha := self._asha(trial)) and self._is_worse(asha, tune_controller, trial, result):
            self._on_stop(trial.trial_id, result)
            return TrialScheduler.STOP
        return TrialScheduler.STOP if self._over_budget() else TrialScheduler.CONTINUE

    def _is_worse(
        self, asha: AsyncHyperBandScheduler, tune_controller: Any, trial: Any, result: dict[str, Any]
    ) -> bool:
        if result.get("restored"):  # rungs that it passed under an earlier command
            record = _record(result)
            self._fill(asha, trial, record, record.evaluations[:-1])
            if record.key in self._audited:
                self._excused.add(trial.trial_id)
        if trial.trial_id in self._excused:
            return False
        worse = asha.on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP
        if worse and self._audit and _draw((record := _record(result)).key) < self._audit:
            self._audited[record.key] = record.steps
            self._excused.add(trial.trial_id)
            self._on_audit(record)
            return False
        return worse

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # Every rung a trial passed has its value from on_trial_result; the end is no rung.
        self.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Tune gives up at once a trial for which it finds the process of an earlier one dead.
        begun = trial.status != Trial.PENDING
        self._on_error(trial.trial_id, _last_error(trial), begun)
        if not begun and (asha := self._asha(trial)):  # it will come again under another name
            for bracket in asha._brackets:
                for _, recorded in bracket._rungs:
                    recorded.pop(trial.trial_id, None)
        self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if asha := self._asha(trial):
            asha._trial_info.pop(trial.trial_id, None)

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Fills the rungs with what finished search trials reached, as if they had just run."""
        no_controller: Any = None
        for record in records:
            if record.phase != "search":
                continue
            ghost: Any = SimpleNamespace(trial_id=record.key, config={"phase": "search", "stratum": record.stratum})
            self.on_trial_add(no_controller, ghost)
            asha = self._asha(ghost)
            if asha is not None:
                self._fill(asha, ghost, record, record.evaluations)
            self.on_trial_remove(None, ghost)

    def _fill(
        self, asha: AsyncHyperBandScheduler, trial: Any, record: TrialRecord, evaluations: Iterable[Evaluation]
    ) -> None:
        """Tells the rungs of a trial's past; what they decide of it is past, too."""
        no_controller: Any = None
        last = self._audited.get(record.key, record.max_steps - 1)
        best = 0.0
        for evaluation in evaluations:
            best = max(best, evaluation.score(record.metric) or 0.0)
            if evaluation.step <= last:
                asha.on_trial_result(no_controller, trial, {TIME: evaluation.step, METRIC: best})

    def debug_string(self) -> str:
        return f"ASHA in {len(self._strata)} strata"


def _record(result: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord.from_dict(json.loads(result["record"]))


def _draw(key: str) -> float:
    """A number in [0, 1) that depends on a trial's key alone."""
    return int(hashlib.sha256(f"audit {key}".encode()).hexdigest()[:13], 16) / 16**13
