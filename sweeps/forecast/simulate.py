"""How long a sweep will take: the sweep is simulated many times with the measured costs of its trials.

Each simulation draws the qualities of its trials anew, and the sweep's own early stopping decides on them. Trials come
in the sweep's own order and wait for a free device as they do on Ray; trials that share a device step together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.planning.points import trial_count
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.turns import CellCounts, Turns
from sweeps.search.winners import winners_confirm_trials

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.space import Space

SIMULATIONS = 300
LOW, HIGH = 0.05, 0.95  # quantiles of the simulated times that a forecast names
# Qualities are rounded to this share of their standard deviation in a cell: accuracies of few examples are often equal.
_QUALITY_GRAIN = 0.2
_ALMOST_ZERO_S = 1e-9

# The score of a trial at a rung, given the trial's number and the rung's index.
Quality = Callable[[int, int], float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a trial of one kind costs, in seconds."""

    stratum: str
    shared: bool  # whether the trial steps together with other trials on its device
    share: float  # of a device that the trial takes
    fixed_s: float  # the part of a step's time that trials which step together take only once
    step_s: float  # what this trial adds to a step's time; negative if few trials make poor use of the device
    evaluation_s: float  # time of one evaluation of the held-out examples
    begin_s: float  # time from the trial's place on a device to its first step
    score_s: float  # time of its canonical evaluation, during which no trial on the device steps
    eval_every: int  # number of steps between evaluations
    least_s: float = 0.0  # no step takes less time


@dataclass(eq=False, kw_only=True)
class _Cell(CellCounts):
    """A cell of the simulated sweep."""

    costs: Sequence[Cost]  # the kinds of trial that its search may propose
    strata: dict[str, Cost]  # the strata of its trials so far, each with the kind of one trial
    confirmed: Mapping[str, int]  # by stratum, the winner's confirm trials that earlier commands have finished


@dataclass(eq=False)
class _Trial:
    """A trial that waits or runs."""

    number: int
    cell: _Cell
    cost: Cost
    phase: str
    idle_s: float  # time until the trial takes part in steps, or until its canonical evaluation is over
    milestones: deque[int]  # the steps at which early stopping may end it, and its last step
    decisions: int  # how often early stopping may decide on it
    step: float = 0.0
    scored: bool = False  # whether its canonical evaluation has begun
    group: _Group | None = None


@dataclass(eq=False)
class _Group:
    """Trials that step together on a device."""

    device: int
    trials: list[_Trial] = field(default_factory=list)
    blocked_s: float = 0.0  # time until canonical evaluations let the trials step again

    def step_s(self) -> float:
        """Return the time of a step with its share of evaluations; 0 if no trial steps."""
        stepping = [trial.cost for trial in self.trials if trial.idle_s <= 0]
        if not stepping:
            return 0.0
        step_s = max(cost.fixed_s for cost in stepping) + sum(cost.step_s for cost in stepping)
        evaluations_s = sum(cost.evaluation_s / cost.eval_every for cost in stepping)
        return max(step_s, *(cost.least_s for cost in stepping)) + evaluations_s

    def next_event_s(self) -> float:
        """Return the time until one of the trials reaches a milestone or an idle one is ready."""
        waits = [trial.idle_s for trial in self.trials if trial.idle_s > 0]
        if self.blocked_s > 0:
            return min([self.blocked_s, *waits])
        step_s = self.step_s()
        stepping = [trial for trial in self.trials if trial.idle_s <= 0]
        return min([*waits, *(step_s * (trial.milestones[0] - trial.step) for trial in stepping)])

    def advance(self, seconds: float) -> list[_Trial]:
        """Let time pass; return the trials that are at a milestone or whose canonical evaluation is over."""
        step_s = self.step_s() if self.blocked_s <= 0 else 0.0
        self.blocked_s = _time_left(self.blocked_s, seconds)
        for trial in self.trials:
            if trial.idle_s > 0:
                trial.idle_s = _time_left(trial.idle_s, seconds)
            elif step_s:
                trial.step += seconds / step_s
        ready = [trial for trial in self.trials if trial.idle_s <= 0]
        return [trial for trial in ready if trial.scored or trial.milestones[0] - trial.step < 1e-6]


def _time_left(before_s: float, elapsed_s: float) -> float:
    left_s = before_s - elapsed_s
    return left_s if left_s > _ALMOST_ZERO_S else 0.0


class SimulatedSweep:
    """One simulation of a sweep.

    Args:
        costs: for each cell, the kinds of trial that its search may propose; one kind in a table.
        devices: number of GPUs, or of nodes without a GPU.
        concurrent: the most trials that run at once.
        quality: the qualities of the trials.
        pick: chooses the kind of a proposal: given the number of kinds, it returns an index.
        finished: records of earlier commands; early stopping knows their scores.
        trials: number of search trials of each cell (`trial_count`), if it is known already.
        audit, audited: as for `EarlyStopping`.
        number: number of this simulation, for the random choices that depend on the trials' keys.

    Attributes:
        seconds, steps, trials: duration, steps and trials of the sweep, once `run` has ended.
    """

    def __init__(
        self,
        space: Space,
        costs: Sequence[Sequence[Cost]],
        *,
        devices: int,
        concurrent: int,
        quality: Quality,
        pick: Callable[[int], Any] = lambda kinds: 0,
        finished: Sequence[TrialRecord] = (),
        trials: Sequence[int] = (),
        audit: float = 0.0,
        audited_steps: Mapping[str, int] = MappingProxyType({}),
        number: int = 0,
    ) -> None:
        self._space, self._concurrent = space, concurrent
        self._quality, self._pick, self._number = quality, pick, number
        self._early_stopping = EarlyStopping(space.stopping_rule, audit=audit, audited_steps=audited_steps)
        self._early_stopping.replay(finished)
        trials = trials or [trial_count(space, cell) for cell in space.cells]
        cells = [
            _simulated_cell(cell.name, kinds, count, finished, space)
            for cell, kinds, count in zip(space.cells, costs, trials, strict=True)
        ]
        self._turns: Turns[_Cell, Cost] = Turns(cells)
        self._waiting: deque[_Trial] = deque()
        self._free_shares = [1.0] * devices
        self._groups: list[_Group] = []
        self.seconds, self.steps, self.trials = 0.0, 0.0, 0
        for cell in cells:
            self._queue_winners(cell)

    def run(self) -> SimulatedSweep:
        self._start_trials()
        while self._groups:
            elapsed_s = min(group.next_event_s() for group in self._groups)
            self.seconds += elapsed_s
            for trial in [trial for group in self._groups for trial in group.advance(elapsed_s)]:
                self._handle(trial)
            self._start_trials()
        return self

    # --- how trials start -----------------------------------------------------------------------------------------

    def _start_trials(self) -> None:
        while len(self._waiting) + sum(len(group.trials) for group in self._groups) < self._concurrent:
            if (trial := self._next_trial()) is None:
                break
            self._waiting.append(trial)
        for trial in list(self._waiting):
            with_room = [device for device, free in enumerate(self._free_shares) if free >= trial.cost.share - 1e-3]
            if with_room:
                self._waiting.remove(trial)
                self._place(trial, max(with_room, key=self._free_shares.__getitem__))

    def _place(self, trial: _Trial, device: int) -> None:
        self._free_shares[device] -= trial.cost.share
        shared_groups = (group for group in self._groups if group.device == device and group.trials[0].cost.shared)
        group = next(shared_groups, None) if trial.cost.shared else None
        if group is None:
            group = _Group(device)
            self._groups.append(group)
        group.trials.append(trial)
        trial.group = group

    def _next_trial(self) -> _Trial | None:
        turn = self._turns.next()
        if turn is None:
            return None
        cost = turn.waiting_trial or turn.cell.costs[self._pick(len(turn.cell.costs))]
        self.trials += 1
        turn.cell.running_count += 1
        last_step = self._space.max_steps
        decision_steps = self._space.decision_steps(cost.eval_every) if turn.phase == "search" else []
        evaluations = {min(last_step, -(-step // cost.eval_every) * cost.eval_every) for step in decision_steps}
        milestones = deque(sorted(evaluations | {last_step}))
        return _Trial(self.trials, turn.cell, cost, turn.phase, cost.begin_s, milestones, len(milestones) - 1)

    # --- how trials end -------------------------------------------------------------------------------------------

    def _handle(self, trial: _Trial) -> None:
        """Decide on a trial that is at a milestone or has had its canonical evaluation."""
        if trial.scored:
            self._end(trial)
            return
        step = trial.milestones.popleft()
        if trial.milestones:
            quality = self._quality(trial.number, trial.decisions - len(trial.milestones))
            key = f"{self._number}-{trial.number}"
            if self._early_stopping.report(trial.cost.stratum, key, step, quality) is Decision.STOP:
                self._end(trial)
        elif trial.phase == "confirm" and trial.cost.score_s > 0:
            assert trial.group is not None
            trial.scored, trial.idle_s = True, trial.cost.score_s
            if trial.cost.shared:  # trials of a group are scored one after another
                trial.group.blocked_s += trial.cost.score_s
                trial.idle_s = trial.group.blocked_s
        else:
            self._end(trial)

    def _end(self, trial: _Trial) -> None:
        group = trial.group
        assert group is not None
        self.steps += round(trial.step)
        self._free_shares[group.device] += trial.cost.share
        group.trials.remove(trial)
        if not group.trials:
            self._groups.remove(group)
        trial.cell.running_count -= 1
        if trial.phase == "search":
            trial.cell.strata[trial.cost.stratum] = trial.cost
            self._queue_winners(trial.cell)

    def _queue_winners(self, cell: _Cell) -> None:
        if cell.search_is_over and not cell.confirm_queued:
            cell.confirm_queued = True
            for stratum, cost in sorted(cell.strata.items()):
                left = max(0, self._space.confirm_seeds - cell.confirmed.get(stratum, 0))
                self._turns.confirm_trials.extend([(cell, cost)] * left)


def _simulated_cell(
    name: str, costs: Sequence[Cost], trials: int, finished: Sequence[TrialRecord], space: Space
) -> _Cell:
    """Return a cell as earlier commands have left it."""
    records = [record for record in finished if record.cell == name]
    searched = [record for record in records if record.phase == "search"]
    strata = {}
    for record in searched:
        costs_in_stratum = [cost for cost in costs if cost.stratum == record.stratum]
        strata[record.stratum or ""] = (costs_in_stratum or costs)[0]
    started = min(trials, len(searched))
    winners = (
        winners_confirm_trials(records) if started == trials else []
    )  # as long as the search goes on they may change
    confirmed = Counter(stratum for stratum, _ in winners)
    return _Cell(planned_count=trials, started_count=started, costs=costs, strata=strata, confirmed=confirmed)


def random_quality(generator: np.random.Generator, trials: int) -> Quality:
    """Return random qualities of the trials of one simulation.

    Two properties of the sweep are random, too: how much an early rung tells of a late one, and whether the search
    finds better trials later on or began with its best ones.
    """
    constancy, trend = generator.uniform(0.4, 0.95), generator.normal(0.0, 0.5)
    trial_qualities: dict[int, float] = {}

    def quality(number: int, rung: int) -> float:
        if number not in trial_qualities:
            trial_qualities[number] = generator.normal() + trend * number / max(1, trials)
        score = constancy * trial_qualities[number] + np.sqrt(1 - constancy**2) * generator.normal()
        return float(np.round(score / _QUALITY_GRAIN) * _QUALITY_GRAIN)

    return quality


@dataclass(frozen=True)
class Forecast:
    """The time that a sweep takes, in seconds, and the median numbers of its trials and of all their steps."""

    low_s: float
    median_s: float
    high_s: float
    trials: int
    steps: int


def forecast(
    space: Space,
    costs: Sequence[Sequence[Cost]],
    *,
    devices: int,
    concurrent: int,
    spread: float,
    start_s: float = 0.0,
    finished: Sequence[TrialRecord] = (),
    audit: float = 0.0,
    audited_steps: Mapping[str, int] = MappingProxyType({}),
    simulations: int = SIMULATIONS,
) -> Forecast:
    """Return the times within which 90 % of the simulated sweeps end.

    Args:
        spread: standard deviation of the logarithm of the factor by which all steps of one sweep are slower or faster.
        start_s: time before the first trial.
        space, costs, devices, concurrent, finished, audit, audited: as for `SimulatedSweep`.
        simulations: number of simulated sweeps.
    """
    seconds, sweeps = [], []
    trials_by_cell = [trial_count(space, cell) for cell in space.cells]
    for seed in range(simulations):
        generator = np.random.default_rng(seed)
        sweep = SimulatedSweep(
            space,
            costs,
            devices=devices,
            concurrent=concurrent,
            quality=random_quality(generator, sum(trials_by_cell)),
            pick=generator.integers,
            finished=finished,
            trials=trials_by_cell,
            audit=audit,
            audited_steps=audited_steps,
            number=seed,
        ).run()
        sweeps.append(sweep)
        seconds.append((start_s + sweep.seconds) * np.exp(spread * generator.normal()))
    low, median, high = np.quantile(seconds, [LOW, 0.5, HIGH])
    trials, steps = (
        round(float(np.median([getattr(sweep, name) for sweep in sweeps]))) for name in ("trials", "steps")
    )
    return Forecast(float(low), float(median), float(high), trials, steps)
