"""Simulations of a sweep with the measured costs of its trials, which show how long the sweep will take.

Each simulation draws at random how good each of its trials is, and the sweep's own early stopping decides which trials
stop. Trials begin in the sweep's own order and wait for a free device as they do on Ray. Trials that share a device
step together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.forecast.cost import Cost
from sweeps.planning.points import search_trial_count
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.turns import CellCounts, Turns
from sweeps.search.winners import winners_confirm_trials

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.space import Space

SIMULATION_COUNT = 300
LOW, HIGH = 0.05, 0.95  # quantiles of the simulated times: the ends of a forecast's range
_SCORE_GRAIN = 0.2  # scores are rounded to multiples of this, because accuracies on few examples are often equal
_ALMOST_ZERO_S = 1e-9

# Returns the score of a trial at a rung, given the trial's number and the rung's index.
ScoreFunction = Callable[[int, int], float]


@dataclass(eq=False, kw_only=True)
class _CellSearch(CellCounts):
    """The search of one cell in the simulated sweep."""

    costs: Sequence[Cost]  # one for each kind of trial that the search may propose
    cost_by_stratum: dict[str, Cost]  # the cost of one search trial in each stratum seen so far
    confirmed_count_by_stratum: Counter[str] = field(default_factory=Counter)  # finished confirm trials of the winner


@dataclass(eq=False)
class _Trial:
    """A trial that waits or runs."""

    number: int
    cell_search: _CellSearch
    cost: Cost
    phase: str
    idle_s: float  # time until the trial steps with the others, or until its final evaluation is over
    milestones: deque[int]  # the coming steps at which early stopping may end it, and its last step
    decision_count: int  # how often early stopping may decide on it
    step: float = 0.0
    is_scoring: bool = False  # whether its final evaluation has begun
    group: _Group | None = None


@dataclass(eq=False)
class _Group:
    """Trials that step together on a device."""

    device: int
    trials: list[_Trial] = field(default_factory=list)
    blocked_s: float = 0.0  # time until all final evaluations are over and the trials step again

    def step_s(self) -> float:
        """Return the time of a step with its share of evaluations; 0 if no trial steps."""
        costs = [trial.cost for trial in self.trials if trial.idle_s <= 0]
        if not costs:
            return 0.0
        step_s = max(cost.fixed_s for cost in costs) + sum(cost.step_s for cost in costs)
        evaluation_s = sum(cost.evaluation_s / cost.eval_every for cost in costs)
        return max(step_s, *(cost.min_step_s for cost in costs)) + evaluation_s

    def next_event_s(self) -> float:
        """Return the time until one of the trials reaches a milestone, or is no longer idle."""
        waits_s = [trial.idle_s for trial in self.trials if trial.idle_s > 0]
        if self.blocked_s > 0:
            return min([self.blocked_s, *waits_s])
        step_s = self.step_s()
        stepping_trials = [trial for trial in self.trials if trial.idle_s <= 0]
        return min([*waits_s, *(step_s * (trial.milestones[0] - trial.step) for trial in stepping_trials)])

    def advance(self, elapsed_s: float) -> list[_Trial]:
        """Advance by `elapsed_s`; return the trials that are then at a milestone or have had their final evaluation."""
        step_s = self.step_s() if self.blocked_s <= 0 else 0.0
        self.blocked_s = _time_left(self.blocked_s, elapsed_s)
        for trial in self.trials:
            if trial.idle_s > 0:
                trial.idle_s = _time_left(trial.idle_s, elapsed_s)
            elif step_s:
                trial.step += elapsed_s / step_s
        ready_trials = [trial for trial in self.trials if trial.idle_s <= 0]
        return [trial for trial in ready_trials if trial.is_scoring or trial.milestones[0] - trial.step < 1e-6]


def _time_left(before_s: float, elapsed_s: float) -> float:
    left_s = before_s - elapsed_s
    return left_s if left_s > _ALMOST_ZERO_S else 0.0


class SimulatedSweep:
    """One simulation of a sweep.

    Args:
        costs: for each cell, the costs of each kind of trial (see `Cost`) that its search may propose.
        device_count: the number of GPUs, or of nodes without a GPU.
        max_concurrent: the largest number of trials that run at once.
        score_at_rung: returns the score of a trial at a rung.
        pick_kind: chooses the kind of a proposed trial: given the number of kinds, it returns an index.
        finished: records of earlier commands; early stopping takes account of their scores.
        search_trial_counts: the number of search trials of each cell (`search_trial_count`), if known already.
        audit_share, audited_steps: as for `EarlyStopping`.
        number: the number of this simulation. The keys of its trials contain it, and random choices depend on the keys.

    Attributes:
        duration_s: the duration of the sweep in seconds, once `run` has ended.
        trial_count, step_count: the number of trials of the sweep, and the number of steps of all trials.
    """

    def __init__(
        self,
        space: Space,
        costs: Sequence[Sequence[Cost]],
        *,
        device_count: int,
        max_concurrent: int,
        score_at_rung: ScoreFunction,
        pick_kind: Callable[[int], Any] = lambda kind_count: 0,
        finished: Sequence[TrialRecord] = (),
        search_trial_counts: Sequence[int] = (),
        audit_share: float = 0.0,
        audited_steps: Mapping[str, int] = MappingProxyType({}),
        number: int = 0,
    ) -> None:
        self._space, self._max_concurrent = space, max_concurrent
        self._score_at_rung, self._pick_kind, self._number = score_at_rung, pick_kind, number
        self._early_stopping = EarlyStopping(space.stopping_rule, audit_share=audit_share, audited_steps=audited_steps)
        self._early_stopping.replay(finished)
        planned_counts = search_trial_counts or [search_trial_count(space, cell) for cell in space.cells]
        cell_searches = [
            _simulated_cell_search(cell.name, cell_costs, planned_count, finished, space)
            for cell, cell_costs, planned_count in zip(space.cells, costs, planned_counts, strict=True)
        ]
        self._turns: Turns[_CellSearch, Cost] = Turns(cell_searches)
        self._waiting_trials: deque[_Trial] = deque()
        self._free_shares = [1.0] * device_count
        self._groups: list[_Group] = []
        self.duration_s, self.step_count, self.trial_count = 0.0, 0.0, 0
        for cell_search in cell_searches:
            self._queue_winners(cell_search)

    def run(self) -> SimulatedSweep:
        self._start_trials()
        while self._groups:
            elapsed_s = min(group.next_event_s() for group in self._groups)
            self.duration_s += elapsed_s
            for trial in [trial for group in self._groups for trial in group.advance(elapsed_s)]:
                self._handle_milestone(trial)
            self._start_trials()
        return self

    # --- how trials start -----------------------------------------------------------------------------------------

    def _start_trials(self) -> None:
        while len(self._waiting_trials) + sum(len(group.trials) for group in self._groups) < self._max_concurrent:
            if (trial := self._next_trial()) is None:
                break
            self._waiting_trials.append(trial)
        for trial in list(self._waiting_trials):
            needed_share = trial.cost.device_share - 1e-3
            free_devices = [device for device, share in enumerate(self._free_shares) if share >= needed_share]
            if free_devices:
                self._waiting_trials.remove(trial)
                self._place_on_device(trial, max(free_devices, key=self._free_shares.__getitem__))

    def _place_on_device(self, trial: _Trial, device: int) -> None:
        self._free_shares[device] -= trial.cost.device_share
        groups = (group for group in self._groups if group.device == device and group.trials[0].cost.shares_device)
        group = next(groups, None) if trial.cost.shares_device else None
        if group is None:
            group = _Group(device)
            self._groups.append(group)
        group.trials.append(trial)
        trial.group = group

    def _next_trial(self) -> _Trial | None:
        turn = self._turns.take_next()
        if turn is None:
            return None
        cost = turn.waiting_item or turn.cell_search.costs[self._pick_kind(len(turn.cell_search.costs))]
        self.trial_count += 1
        turn.cell_search.running_count += 1
        last_step = self._space.max_steps
        decision_steps = self._space.decision_steps(cost.eval_every) if turn.phase == "search" else []
        evaluation_steps = {min(last_step, -(-step // cost.eval_every) * cost.eval_every) for step in decision_steps}
        milestones = deque(sorted(evaluation_steps | {last_step}))
        return _Trial(
            self.trial_count, turn.cell_search, cost, turn.phase, cost.begin_s, milestones, len(milestones) - 1
        )

    # --- how trials end -------------------------------------------------------------------------------------------

    def _handle_milestone(self, trial: _Trial) -> None:
        """Let a trial continue, be scored or end. It is at a milestone, or has had its final evaluation."""
        if trial.is_scoring:
            self._end_trial(trial)
            return
        step = trial.milestones.popleft()
        if trial.milestones:
            score = self._score_at_rung(trial.number, trial.decision_count - len(trial.milestones))
            key = f"{self._number}-{trial.number}"
            if self._early_stopping.report(trial.cost.stratum, key, step, score) is Decision.STOP:
                self._end_trial(trial)
        elif (final_s := trial.cost.final_s(trial.phase)) > 0:
            assert trial.group is not None
            trial.is_scoring, trial.idle_s = True, final_s
            if trial.cost.shares_device:  # trials of a group are scored one after another
                trial.group.blocked_s += final_s
                trial.idle_s = trial.group.blocked_s
        else:
            self._end_trial(trial)

    def _end_trial(self, trial: _Trial) -> None:
        group = trial.group
        assert group is not None
        self.step_count += round(trial.step)
        self._free_shares[group.device] += trial.cost.device_share
        group.trials.remove(trial)
        if not group.trials:
            self._groups.remove(group)
        trial.cell_search.running_count -= 1
        if trial.phase == "search":
            trial.cell_search.cost_by_stratum[trial.cost.stratum] = trial.cost
            self._queue_winners(trial.cell_search)

    def _queue_winners(self, cell_search: _CellSearch) -> None:
        if cell_search.is_search_over and not cell_search.has_queued_confirm_trials:
            cell_search.has_queued_confirm_trials = True
            for stratum, cost in sorted(cell_search.cost_by_stratum.items()):
                seeds_left = max(0, self._space.confirm_seeds - cell_search.confirmed_count_by_stratum[stratum])
                self._turns.confirm_items.extend([(cell_search, cost)] * seeds_left)


def _simulated_cell_search(
    name: str, costs: Sequence[Cost], planned_count: int, finished: Sequence[TrialRecord], space: Space
) -> _CellSearch:
    """Return the search of a cell as earlier commands have left it."""
    records = [record for record in finished if record.cell == name]
    search_records = [record for record in records if record.phase == "search"]
    cost_by_stratum = {}
    for record in search_records:
        costs_in_stratum = [cost for cost in costs if cost.stratum == record.stratum]
        cost_by_stratum[record.stratum or ""] = (costs_in_stratum or costs)[0]
    if not planned_count:
        cost_by_stratum[costs[0].stratum] = costs[0]  # nothing is searched, and the only configuration is confirmed
    started_count = min(planned_count, len(search_records))
    # As long as the search goes on, its winners may change.
    confirm_trials = winners_confirm_trials(records) if started_count == planned_count else []
    cell_search = _CellSearch(
        planned_count=planned_count, started_count=started_count, costs=costs, cost_by_stratum=cost_by_stratum
    )
    cell_search.confirmed_count_by_stratum = Counter(stratum for stratum, _ in confirm_trials)
    return cell_search


def random_score_function(generator: np.random.Generator, trial_count: int) -> ScoreFunction:
    """Return a function that gives the trials of one simulation random scores.

    Each trial has a random quality, of which its scores are noisy measurements.

    Two properties of the sweep are random, too: how closely the scores of one trial agree (`constancy`), and whether
    later trials are better or worse than earlier ones (`trend`).
    """
    constancy, trend = generator.uniform(0.4, 0.95), generator.normal(0.0, 0.5)
    quality_by_trial_number: dict[int, float] = {}

    def score_at_rung(trial_number: int, rung_index: int) -> float:
        if trial_number not in quality_by_trial_number:
            quality_by_trial_number[trial_number] = generator.normal() + trend * trial_number / max(1, trial_count)
        score = constancy * quality_by_trial_number[trial_number] + np.sqrt(1 - constancy**2) * generator.normal()
        return float(np.round(score / _SCORE_GRAIN) * _SCORE_GRAIN)

    return score_at_rung


@dataclass(frozen=True)
class Forecast:
    """The range and median of the time that a sweep takes, and the medians of its number of trials and of all steps."""

    low_s: float
    median_s: float
    high_s: float
    trial_count: int
    step_count: int


def forecast(
    space: Space,
    costs: Sequence[Sequence[Cost]],
    *,
    device_count: int,
    max_concurrent: int,
    spread: float,
    start_s: float = 0.0,
    finished: Sequence[TrialRecord] = (),
    audit_share: float = 0.0,
    audited_steps: Mapping[str, int] = MappingProxyType({}),
    simulation_count: int = SIMULATION_COUNT,
) -> Forecast:
    """Simulate the sweep many times. Return the range in which 90 % of the durations lie, and the medians.

    Args:
        spread: each simulated time is multiplied by a random factor, whose logarithm has this standard deviation.
        start_s: time before the first trial.
        space, costs, device_count, max_concurrent, finished, audit_share, audited_steps: as for `SimulatedSweep`.
        simulation_count: the number of simulated sweeps.
    """
    durations_s, sweeps = [], []
    search_trial_counts = [search_trial_count(space, cell) for cell in space.cells]
    for seed in range(simulation_count):
        generator = np.random.default_rng(seed)
        sweep = SimulatedSweep(
            space,
            costs,
            device_count=device_count,
            max_concurrent=max_concurrent,
            score_at_rung=random_score_function(generator, sum(search_trial_counts)),
            pick_kind=generator.integers,
            finished=finished,
            search_trial_counts=search_trial_counts,
            audit_share=audit_share,
            audited_steps=audited_steps,
            number=seed,
        ).run()
        sweeps.append(sweep)
        durations_s.append((start_s + sweep.duration_s) * np.exp(spread * generator.normal()))
    low_s, median_s, high_s = np.quantile(durations_s, [LOW, 0.5, HIGH]).tolist()
    counts = np.median([(sweep.trial_count, sweep.step_count) for sweep in sweeps], axis=0).tolist()
    return Forecast(low_s, median_s, high_s, *map(round, counts))
