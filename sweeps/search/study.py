"""The search inside one cell: an `optuna.Study` that is used through its ask-and-tell interface."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lopt.config import TrialConfig
from lopt.ranges import Choice, Range, Real
from lopt.records import TrialRecord
from sweeps import samplers
from sweeps.planning.points import all_points
from sweeps.results.read_record import config_of
from sweeps.search.winners import winner
from sweeps.space import Cell, point_of

# `propose` asks the sampler this many times for a point that is not known yet, then tries this many random points.
_SAMPLER_ATTEMPTS, _RANDOM_ATTEMPTS = 20, 200
_STATE_BY_STATUS = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}  # any other status is a FAIL


def to_distribution(searched_range: Range) -> BaseDistribution:
    """Return a range in Optuna's form."""
    if isinstance(searched_range, Choice):
        return CategoricalDistribution(searched_range.values)
    if isinstance(searched_range, Real):
        return FloatDistribution(searched_range.low, searched_range.high, log=searched_range.log)
    return IntDistribution(searched_range.low, searched_range.high, log=searched_range.log)


class Proposal:
    """A point that a study has proposed, as an Optuna trial."""

    def __init__(self, optuna_trial: optuna.Trial) -> None:
        self.optuna_trial, self._last_step = optuna_trial, 0

    @property
    def point(self) -> dict[str, Any]:
        return self.optuna_trial.params

    def report(self, step: int, score: float) -> None:
        """Report the trial's best score up to `step`; a step that has been reported already is ignored."""
        if step > self._last_step:
            self._last_step = step
            self.optuna_trial.report(score, step)


class CellStudy:
    """The search inside one cell: the cell's first points, then some random points, then the sampler's proposals.

    Args:
        cell: the cell to search.
        trial_count: the number of search trials of the cell.
        seed: the seed of the random points. It stays the same when the search is continued, and so do these points.
        sampler_seed: the seed of the sampler; 0 means `seed`.
        sampler: the name of a sampler in `sweeps.samplers`.
    """

    def __init__(self, cell: Cell, *, trial_count: int, seed: int, sampler_seed: int = 0, sampler: str = "tpe") -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler_spec = samplers.get(sampler)
        self.cell, self._seed = cell, seed
        self._random_point_count = sampler_spec.random_trial_count(trial_count)
        self._sampler_restarts = sampler_spec.restarts_its_sequence
        self._distribution_by_name = {
            name: to_distribution(searched_range) for name, searched_range in cell.search.items()
        }
        study_needs = samplers.StudyNeeds(
            distributions=self._distribution_by_name,
            trial_count=trial_count,
            seed=seed,
            sampler_seed=sampler_seed or seed,
        )
        self._study = optuna.create_study(sampler=sampler_spec.make(study_needs), direction="maximize")

    def ask(self) -> Proposal:
        """Ask the study for a point: a value for each searched name, except for names that belong to another method."""
        return Proposal(self._suggest_values(self._study.ask()))

    def _suggest_values(self, optuna_trial: optuna.Trial) -> optuna.Trial:
        """Let the sampler choose the values of an Optuna trial, and return this trial."""
        for name, distribution in self._distribution_by_name.items():
            method, dot, _ = name.partition(".")
            if not dot or optuna_trial.params.get("method") == method:
                _suggest(optuna_trial, name, distribution)
        return optuna_trial

    def tell(self, proposal: Proposal, record: TrialRecord | None) -> None:
        """Tell the study how a trial has ended; `record` is None if the trial left none."""
        state = _STATE_BY_STATUS.get(record.status, TrialState.FAIL) if record else TrialState.FAIL
        score = record.selection_score or 0.0 if record else 0.0
        if state == TrialState.PRUNED and record:
            proposal.report(record.steps, score)
        self._study.tell(proposal.optuna_trial, score if state == TrialState.COMPLETE else None, state=state)

    def enqueue_first_points(self, warm_start_records: Iterable[TrialRecord] = ()) -> None:
        """Queue the cell's first points, then the best point of the warm start, or random points without a warm start.

        Call it after `replay`: points that have been replayed are skipped.
        """
        for point in self.cell.first:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
        if warm_start_records := list(warm_start_records):
            self._warm_start(warm_start_records)
            return
        # The sampler is not asked for these points, because in a continued search it would propose other points, or
        # points that have been tried already.
        random_points = self._random_points(2**31 + self._seed)
        for _ in range(self._random_point_count):
            if len(self._study.get_trials(deepcopy=False)) >= self._random_point_count:
                break
            self._study.enqueue_trial(next(random_points), skip_if_exists=True)

    def _warm_start(self, warm_start_records: Sequence[TrialRecord]) -> None:
        """Add trials of other runs, from whose scores the sampler learns. They do not count as trials of the cell."""
        if best_record := winner(warm_start_records):
            point = point_of(self.cell, TrialConfig.from_dict(best_record.config))
            self._study.enqueue_trial(point, skip_if_exists=True)
        for record in warm_start_records:
            self.replay(record)

    def replay(self, record: TrialRecord) -> None:
        """Add a finished trial to the study, as if it had just ended."""
        point = point_of(self.cell, config_of(record))
        state = _STATE_BY_STATUS.get(record.status, TrialState.FAIL)
        self._study.add_trial(
            optuna.trial.create_trial(
                params=point,
                distributions={name: self._distribution_by_name[name] for name in point},
                state=state,
                value=record.selection_score if state == TrialState.COMPLETE else None,
                intermediate_values=_best_scores(record),
            )
        )

    def resume(self, config: TrialConfig) -> Proposal:
        """Return the proposal of a trial that was interrupted, as if the study had just proposed its point."""
        self._study.enqueue_trial(point_of(self.cell, config))
        return self.ask()

    def propose(self, is_known: Callable[[Mapping[str, Any]], bool]) -> Proposal | None:
        """Return a proposal whose point is not known yet; None if every point of the cell is known.

        If the sampler proposes only known points, random points are tried, and then every point of the cell in turn. A
        sampler that restarts its sequence repeats the study's points, so it gets one more attempt for each of them.
        """
        trial_count = len(self._study.get_trials(deepcopy=False))
        for _ in range(_SAMPLER_ATTEMPTS + self._sampler_restarts * trial_count):
            proposal = self.ask()
            if not is_known(proposal.point):
                return proposal
            self._study.tell(proposal.optuna_trial, state=TrialState.FAIL)
        for point in self._fallback_points():
            if not is_known(point):
                self._study.enqueue_trial(point)
                return self.ask()
        return None

    def _fallback_points(self) -> Iterator[dict[str, Any]]:
        """Yield random points, then every point of the cell if their number is finite."""
        random_points = self._random_points(len(self._study.trials))
        for _ in range(_RANDOM_ATTEMPTS):
            yield next(random_points)
        yield from all_points(self.cell) or ()

    def _random_points(self, seed: int) -> Iterator[dict[str, Any]]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        while True:
            yield self._suggest_values(study.ask()).params

    def count_by_state(self) -> dict[str, int]:
        """Return the number of Optuna trials by their state; states have Optuna's names in lower case."""
        return dict(Counter(trial.state.name.lower() for trial in self._study.get_trials(deepcopy=False)))


def _suggest(optuna_trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        optuna_trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, FloatDistribution):
        optuna_trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, IntDistribution):
        optuna_trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)


def _best_scores(record: TrialRecord) -> dict[int, float]:
    """Return the best score up to each evaluation, by step. An evaluation at `max_steps` is left out."""
    best_score, best_score_by_step = -math.inf, {}
    for evaluation in record.evaluations:
        best_score = max(best_score, evaluation.score(record.metric) or 0.0)
        if evaluation.step < record.max_steps:
            best_score_by_step[evaluation.step] = best_score
    return best_score_by_step
