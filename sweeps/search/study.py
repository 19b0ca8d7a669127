"""The search inside one cell: an `optuna.Study` by ask and tell."""

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
from sweeps.planning.points import every_point
from sweeps.results.read_record import config_of
from sweeps.search.winners import winner
from sweeps.space import Cell, point_of

_ASK_AGAIN, _BY_CHANCE = 20, 200
_STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}


def distribution(values: Range) -> BaseDistribution:
    """Optuna's form of a range."""
    if isinstance(values, Choice):
        return CategoricalDistribution(values.values)
    if isinstance(values, Real):
        return FloatDistribution(values.low, values.high, log=values.log)
    return IntDistribution(values.low, values.high, log=values.log)


class Proposal:
    """A trial that a study has been asked for."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self._last_step = trial, 0

    @property
    def point(self) -> dict[str, Any]:
        return self.trial.params

    def report(self, step: int, value: float) -> None:
        """The best score up to this step; a step that has been reported already says nothing new."""
        if step > self._last_step:
            self._last_step = step
            self.trial.report(value, step)


class CellStudy:
    """The search inside one cell: its first points, some at random, then what the sampler proposes.

    Args:
        trials: that the cell has.
        seed: of the points at random, which a continued search goes on with. continued_seed: of the sampler.
    """

    def __init__(self, cell: Cell, *, trials: int, seed: int, continued_seed: int = 0, sampler: str = "tpe") -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        chosen = samplers.get(sampler)
        self.cell, self._seed = cell, seed
        self._random_first, self._restarts = chosen.random_first(trials), chosen.restarts_its_sequence
        self._distributions = {name: distribution(values) for name, values in cell.search.items()}
        needs = samplers.StudyNeeds(
            distributions=self._distributions, trials=trials, seed=seed, continued_seed=continued_seed or seed
        )
        self._study = optuna.create_study(sampler=chosen.make(needs), direction="maximize")

    def ask(self) -> Proposal:
        """A trial, with a value of each of the cell's fields; of those of one method only for the trial's own."""
        return Proposal(self._with_values(self._study.ask()))

    def _with_values(self, trial: optuna.Trial) -> optuna.Trial:
        for name, values in self._distributions.items():
            method, dot, _ = name.partition(".")
            if not dot or trial.params.get("method") == method:
                _suggest(trial, name, values)
        return trial

    def tell(self, proposal: Proposal, record: TrialRecord | None) -> None:
        """How a trial has ended; `record` is None when it has left nothing."""
        state = _STATES.get(record.status, TrialState.FAIL) if record else TrialState.FAIL
        score = record.selection_score or 0.0 if record else 0.0
        if state == TrialState.PRUNED and record:
            proposal.report(record.steps, score)
        self._study.tell(proposal.trial, score if state == TrialState.COMPLETE else None, state=state)

    def enqueue_first(self, warm_start_records: Iterable[TrialRecord] = ()) -> None:
        """Queues the cell's first points, then, of trials of other runs, the best point, or else points at random; call
        it after `replay`, so that those already run are skipped."""
        for point in self.cell.first:
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
        if warm_start_records := list(warm_start_records):
            self._learn(warm_start_records)
            return
        # Asked of the sampler, these would be others in a continued search, or the same that have been tried.
        chance = self._points_by_chance(2**31 + self._seed)
        for _ in range(self._random_first):
            if len(self._study.get_trials(deepcopy=False)) >= self._random_first:
                break
            self._study.enqueue_trial(next(chance), skip_if_exists=True)

    def _learn(self, warm_start_records: Sequence[TrialRecord]) -> None:
        """Adds trials of other runs, which do not count as the cell's; the sampler goes on from their scores."""
        if best := winner(warm_start_records):
            point = point_of(self.cell, TrialConfig.from_dict(best.config))
            self._study.enqueue_trial(point, skip_if_exists=True)
        for record in warm_start_records:
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

    def resume(self, config: TrialConfig) -> Proposal:
        """Takes up a trial that was cut off, as if it had just been asked for."""
        self._study.enqueue_trial(point_of(self.cell, config))
        return self.ask()

    def propose(self, is_known: Callable[[Mapping[str, Any]], bool]) -> Proposal | None:
        """The next trial whose point is not known yet; None when every point of the cell has been tried.

        A sampler that keeps to known points is overruled by chance, and chance by a list of all points.
        """
        for _ in range(_ASK_AGAIN + self._restarts * len(self._study.get_trials(deepcopy=False))):
            proposal = self.ask()
            if not is_known(proposal.point):
                return proposal
            self._study.tell(proposal.trial, state=TrialState.FAIL)
        for point in self._other_points():
            if not is_known(point):
                self._study.enqueue_trial(point)
                return self.ask()
        return None

    def _other_points(self) -> Iterator[dict[str, Any]]:
        """Points at random, then, where there is an end to them, all."""
        chance = self._points_by_chance(len(self._study.trials))
        for _ in range(_BY_CHANCE):
            yield next(chance)
        yield from every_point(self.cell) or ()

    def _points_by_chance(self, seed: int) -> Iterator[dict[str, Any]]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        while True:
            yield self._with_values(study.ask()).params

    def states(self) -> dict[str, int]:
        """Number of Optuna trials in each state, by its name in lower case."""
        return dict(Counter(trial.state.name.lower() for trial in self._study.get_trials(deepcopy=False)))


def _suggest(trial: optuna.Trial, name: str, values: BaseDistribution) -> None:
    if isinstance(values, CategoricalDistribution):
        trial.suggest_categorical(name, values.choices)
    elif isinstance(values, FloatDistribution):
        trial.suggest_float(name, values.low, values.high, log=values.log)
    elif isinstance(values, IntDistribution):
        trial.suggest_int(name, values.low, values.high, log=values.log)


def _best_so_far(record: TrialRecord) -> dict[int, float]:
    best, values = 0.0, {}
    for evaluation in record.evaluations:
        best = max(best, evaluation.score(record.metric) or 0.0)
        if evaluation.step < record.max_steps:
            values[evaluation.step] = best
    return values
