"""The search inside one cell.

`CellStudy` is Ray's `OptunaSearch` with a correct account of trials that stop early or fail: Ray tells Optuna that a
stopped trial is COMPLETE with its early value, and a NaN leaves an Optuna trial RUNNING for ever.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from lopt.config import TrialConfig, key_of
from lopt.ranges import Choice, Range, Real
from lopt.records import TrialRecord
from sweeps.points import every_point
from sweeps.record_file import config_of
from sweeps.space import Cell, point_of
from sweeps.trial import METRIC, TIME

_ASK_AGAIN, _BY_CHANCE = 20, 200
_STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}


def distribution(made: Range) -> BaseDistribution:
    """Optuna's form of a range."""
    if isinstance(made, Choice):
        return CategoricalDistribution(made.values)
    if isinstance(made, Real):
        return FloatDistribution(made.low, made.high, log=made.log)
    return IntDistribution(made.low, made.high, log=made.log)


class CellStudy(OptunaSearch):
    """The search inside one cell: its first points, some at random, then TPE.

    Args:
        seed: of the points at random, which a continued search goes on with. sampler_seed: of TPE.
    """

    def __init__(self, cell: Cell, *, trials: int, seed: int, sampler_seed: int | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=max(2, min(10, trials // 2)),
                seed=seed if sampler_seed is None else sampler_seed,
            )
        self.cell, self._chance_seed, self._startup = cell, seed, max(2, min(10, trials // 2))
        self._distributions = {name: distribution(made) for name, made in cell.search.items()}
        self._first = cell.first
        self._reported: dict[str, int] = {}
        super().__init__(space=self._suggested, metric=METRIC, mode="max", sampler=sampler)

    def _suggested(self, trial: optuna.Trial) -> None:
        """Asks for the cell's fields; of those that belong to one method, only for the trial's own method."""
        for name, made in self._distributions.items():
            method, dot, _ = name.partition(".")
            if not dot or trial.params.get("method") == method:
                _suggest(trial, name, made)

    @property
    def _study(self) -> optuna.Study:
        study: Any = self._ot_study
        return study

    def enqueue_first(self, lessons: Iterable[TrialRecord] = ()) -> None:
        """Queues the cell's first points, then, of trials of other runs, the best point, or else points at random; call
        it after `replay`, so that those already run are skipped."""
        for point in self._first:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
        if lessons := list(lessons):
            self._learn(lessons)
            return
        # Asked of TPE, these would be others in a continued search, or the same that have been tried.
        chance = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2**31 + self._chance_seed))
        for _ in range(self._startup):
            if len(self._study.get_trials(deepcopy=False)) >= self._startup:
                break
            asked = chance.ask()
            self._suggested(asked)
            self._study.enqueue_trial(asked.params, skip_if_exists=True)

    def _learn(self, lessons: Sequence[TrialRecord]) -> None:
        """Adds trials of other runs, which count as none of the cell; TPE goes on from what they found."""
        if best := winner(lessons):
            point = point_of(self.cell, TrialConfig.from_dict(best.config))
            self._study.enqueue_trial(point, skip_if_exists=True)
        for record in lessons:
            self.replay(record)

    def replay(self, record: TrialRecord) -> None:
        """Adds a finished trial as if it had just been told."""
        params = point_of(self.cell, config_of(record))
        state = _STATES.get(record.status, TrialState.FAIL)
        self._study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: self._distributions[name] for name in params},
                state=state,
                value=record.selection_score if state == TrialState.COMPLETE else None,
                intermediate_values=_best_so_far(record),
            )
        )

    def resume(self, config: TrialConfig) -> None:
        """Takes up a trial that was cut off, as if it had just been proposed; `take_over` says under which name."""
        self._study.enqueue_trial(point_of(self.cell, config))
        self.suggest(config.key)

    def give_back(self, trial_id: str, config: TrialConfig) -> None:
        """The trial waits for another name; `take_over` says which."""
        if trial_id in self._ot_trials:
            self._ot_trials[config.key] = self._ot_trials.pop(trial_id)

    def take_over(self, config: TrialConfig, trial_id: str) -> None:
        if config.key in self._ot_trials:
            self._ot_trials[trial_id] = self._ot_trials.pop(config.key)

    def propose(self, trial_id: str, is_known: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any] | None:
        """The next point that is not known yet; None when every point of the cell has been tried.

        A sampler that keeps to known points is overruled by chance, and chance by a list of all points.
        """
        for _ in range(_ASK_AGAIN):
            point = self.suggest(trial_id) or {}
            if not is_known(point):
                return point
            self._study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
        for point in self._other_points():
            if not is_known(point):
                self._study.enqueue_trial(point)
                return self.suggest(trial_id)
        return None

    def _other_points(self) -> Iterator[dict[str, Any]]:
        """Points at random, then, where there is an end to them, all."""
        chance = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(self._study.trials)))
        for _ in range(_BY_CHANCE):
            asked = chance.ask()
            self._suggested(asked)
            yield asked.params
        yield from every_point(self.cell) or ()

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if result["status"] == "running":
            self._report(trial_id, result)

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if self._reported.get(trial_id, 0) < result[TIME]:
            self._reported[trial_id] = result[TIME]
            self._ot_trials[trial_id].report(result[METRIC], result[TIME])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A result that still says "running" means that the scheduler stopped the trial."""
        if trial_id in self._completed_trials:
            return
        status = "failed" if error or not result else result["status"]
        state = _STATES.get("stopped" if status == "running" else status, TrialState.FAIL)
        if state == TrialState.PRUNED and result:  # Ray does not pass on the report at which it stops a trial
            self._report(trial_id, result)
        value = result[METRIC] if state == TrialState.COMPLETE and result else None
        self._study.tell(self._ot_trials[trial_id], value, state=state)
        self._completed_trials.add(trial_id)

    def states(self) -> dict[str, int]:
        """Number of Optuna trials in each state, by its name in lower case."""
        found: dict[str, int] = defaultdict(int)
        for trial in self._study.get_trials(deepcopy=False):
            found[trial.state.name.lower()] += 1
        return dict(found)


def _suggest(trial: optuna.Trial, name: str, made: BaseDistribution) -> None:
    if isinstance(made, CategoricalDistribution):
        trial.suggest_categorical(name, made.choices)
    elif isinstance(made, FloatDistribution):
        trial.suggest_float(name, made.low, made.high, log=made.log)
    elif isinstance(made, IntDistribution):
        trial.suggest_int(name, made.low, made.high, log=made.log)


def _best_so_far(record: TrialRecord) -> dict[int, float]:
    best, found = 0.0, {}
    for evaluation in record.evaluations:
        best = max(best, evaluation.score(record.metric) or 0.0)
        if evaluation.step < record.max_steps:
            found[evaluation.step] = best
    return found


def winner(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The search trial to confirm: best by its metric, then lowest loss; a stopped one only if none completed."""
    for status in ("complete", "stopped"):
        able = [r for r in records if r.status == status and r.selection_score is not None]
        if able:
            return max(able, key=lambda r: (r.selection_score or 0.0, -(r.selection_loss or 0.0), r.key))
    return None


def confirmed_winners(records: Iterable[TrialRecord]) -> list[tuple[str, TrialRecord]]:
    """The confirm trials of the winners of today, each with its stratum; those of an earlier winner are left out."""
    records = list(records)
    confirmed = []
    for stratum in dict.fromkeys(r.stratum or "" for r in records if r.phase == "search"):
        own = [r for r in records if (r.stratum or "") == stratum]
        best = winner(r for r in own if r.phase == "search")
        if best is not None:
            confirmed += [(stratum, r) for r in own if r.phase == "confirm" and _unseeded(r) == _unseeded(best)]
    return confirmed


def _unseeded(record: TrialRecord) -> str:
    """The same of all seeds, also where one of them has been written by an earlier version."""
    return key_of({**record.config, "seed": 0})
