"""How long a sweep will take: played through many times, with what its steps were measured to take.

Each time the qualities of the trials are drawn anew, and the sweep's own early stopping decides on them. Trials come in
the sweep's own order and wait for room as they do on Ray; trials that share a device step together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.planning.points import trials_of
from sweeps.search.early_stopping import Decision, EarlyStopping
from sweeps.search.turns import CellTurns, Turns
from sweeps.search.winners import confirmed_winners

if TYPE_CHECKING:
    from lopt.records import TrialRecord
    from sweeps.space import Space

DRAWS = 300
LOW, HIGH = 0.05, 0.95  # quantiles that a prediction names
_GRAIN = 0.2  # accuracies of few examples are often equal, in standard deviations of the trials of a cell
_SOON = 1e-9

# The value that a trial shows at a rung: (its number, the rung's number).
Quality = Callable[[int, int], float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one kind of trial.

    stratum: whom it competes with. shared: whether it steps together with the others on its device. share: of the
    device. fixed_s: of a step, once for all that share it. step_s: what this trial adds, less than nothing where few
    trials make poor use of the device. least_s: what no step falls below. evaluation_s: of its held-out examples.
    begin_s: from its place to its first step. score_s: its canonical evaluation, during which nobody on the device
    steps.
    """

    stratum: str
    shared: bool
    share: float
    fixed_s: float
    step_s: float
    evaluation_s: float
    begin_s: float
    score_s: float
    eval_every: int
    least_s: float = 0.0


@dataclass(eq=False, kw_only=True)
class _Cell(CellTurns):
    """A cell. costs: the kinds of trial that its search may propose. strata: those of its trials so far, each with one
    of their kinds. confirmed: trials of its winners that earlier commands have finished, by stratum."""

    costs: Sequence[Cost]
    strata: dict[str, Cost]
    confirmed: Mapping[str, int]


@dataclass(eq=False)
class _Trial:
    """A trial on its way. idle_s: until it takes part in steps, or has been scored."""

    number: int
    cell: _Cell
    cost: Cost
    phase: str
    idle_s: float
    milestones: deque[int]
    decisions: int  # of early stopping, at most
    step: float = 0.0
    scored: bool = False
    group: _Group | None = None


@dataclass(eq=False)
class _Group:
    """Trials that step together on a device."""

    device: int
    trials: list[_Trial] = field(default_factory=list)
    blocked_s: float = 0.0

    def step_s(self) -> float:
        stepping = [trial.cost for trial in self.trials if trial.idle_s <= 0]
        if not stepping:
            return 0.0
        step_s = max(cost.fixed_s for cost in stepping) + sum(cost.step_s for cost in stepping)
        evaluations_s = sum(cost.evaluation_s / cost.eval_every for cost in stepping)
        return max(step_s, *(cost.least_s for cost in stepping)) + evaluations_s

    def wait_s(self) -> float:
        """Until one of its trials is at a milestone, or an idle one is ready."""
        waits = [trial.idle_s for trial in self.trials if trial.idle_s > 0]
        if self.blocked_s > 0:
            return min([self.blocked_s, *waits])
        step_s = self.step_s()
        return min([*waits, *(step_s * (t.milestones[0] - t.step) for t in self.trials if t.idle_s <= 0)])

    def go_on(self, seconds: float) -> list[_Trial]:
        """Lets time pass; those that are at a milestone, or have been scored."""
        step_s = self.step_s() if self.blocked_s <= 0 else 0.0
        self.blocked_s = _less(self.blocked_s, seconds)
        for trial in self.trials:
            if trial.idle_s > 0:
                trial.idle_s = _less(trial.idle_s, seconds)
            elif step_s:
                trial.step += seconds / step_s
        return [t for t in self.trials if t.idle_s <= 0 and (t.scored or t.milestones[0] - t.step < 1e-6)]


def _less(rest_s: float, seconds: float) -> float:
    rest_s -= seconds
    return rest_s if rest_s > _SOON else 0.0


class Play:
    """One way a sweep can go.

    Args:
        costs: for each cell, the kinds of trial that its search may propose; one in a table.
        devices: GPUs, or nodes without one. concurrent: the most trials at once.
        quality: of the trials; pick: which kind a proposal is, given their number.
        finished: records of earlier commands, of which the rungs know.
        trials: search trials of each cell, `points.trials_of` it.
        audit, audited: as of `EarlyStopping`. number: of the play, for chance that hangs on trials' keys.

    Attributes:
        seconds, steps, trials: what it took, after `run`.
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
        audited: Mapping[str, int] = MappingProxyType({}),
        number: int = 0,
    ) -> None:
        self._space, self._concurrent = space, concurrent
        self._quality, self._pick, self._number = quality, pick, number
        self._early_stopping = EarlyStopping(space.stopping_rule, audit=audit, audited=audited)
        self._early_stopping.replay(finished)
        trials = trials or [trials_of(space, cell) for cell in space.cells]
        cells = [
            _cell(cell.name, kinds, most, finished, space)
            for cell, kinds, most in zip(space.cells, costs, trials, strict=True)
        ]
        self._turns: Turns[_Cell, Cost] = Turns(cells)
        self._waiting: deque[_Trial] = deque()
        self._free = [1.0] * devices
        self._groups: list[_Group] = []
        self.seconds, self.steps, self.trials = 0.0, 0.0, 0
        for cell in cells:
            self._queue_winners(cell)

    def run(self) -> Play:
        self._fill()
        while self._groups:
            wait = min(group.wait_s() for group in self._groups)
            self.seconds += wait
            for trial in [trial for group in self._groups for trial in group.go_on(wait)]:
                self._arrived(trial)
            self._fill()
        return self

    # --- which trials run -----------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while len(self._waiting) + sum(len(group.trials) for group in self._groups) < self._concurrent:
            if (trial := self._next()) is None:
                break
            self._waiting.append(trial)
        for trial in list(self._waiting):
            room = [device for device, free in enumerate(self._free) if free >= trial.cost.share - 1e-3]
            if room:
                self._waiting.remove(trial)
                self._place(trial, max(room, key=self._free.__getitem__))

    def _place(self, trial: _Trial, device: int) -> None:
        self._free[device] -= trial.cost.share
        together = (g for g in self._groups if g.device == device and g.trials[0].cost.shared)
        group = next(together, None) if trial.cost.shared else None
        if group is None:
            group = _Group(device)
            self._groups.append(group)
        group.trials.append(trial)
        trial.group = group

    def _next(self) -> _Trial | None:
        turn = self._turns.next()
        if turn is None:
            return None
        cost = turn.waiting or turn.cell.costs[self._pick(len(turn.cell.costs))]
        self.trials += 1
        turn.cell.running += 1
        whole = self._space.max_steps
        decisions = self._space.decision_steps(cost.eval_every) if turn.phase == "search" else []
        evaluations = {min(whole, -(-step // cost.eval_every) * cost.eval_every) for step in decisions}
        milestones = deque(sorted(evaluations | {whole}))
        return _Trial(self.trials, turn.cell, cost, turn.phase, cost.begin_s, milestones, len(milestones) - 1)

    # --- what becomes of them -------------------------------------------------------------------------------------

    def _arrived(self, trial: _Trial) -> None:
        if trial.scored:
            self._leave(trial)
            return
        step = trial.milestones.popleft()
        if trial.milestones:
            quality = self._quality(trial.number, trial.decisions - len(trial.milestones))
            key = f"{self._number}-{trial.number}"
            if self._early_stopping.report(trial.cost.stratum, key, step, quality) is Decision.STOP:
                self._leave(trial)
        elif trial.phase == "confirm" and trial.cost.score_s > 0:
            assert trial.group is not None
            trial.scored, trial.idle_s = True, trial.cost.score_s
            if trial.cost.shared:  # one after another
                trial.group.blocked_s += trial.cost.score_s
                trial.idle_s = trial.group.blocked_s
        else:
            self._leave(trial)

    def _leave(self, trial: _Trial) -> None:
        group = trial.group
        assert group is not None
        self.steps += round(trial.step)
        self._free[group.device] += trial.cost.share
        group.trials.remove(trial)
        if not group.trials:
            self._groups.remove(group)
        trial.cell.running -= 1
        if trial.phase == "search":
            trial.cell.strata[trial.cost.stratum] = trial.cost
            self._queue_winners(trial.cell)

    def _queue_winners(self, cell: _Cell) -> None:
        if cell.searched and not cell.confirming:
            cell.confirming = True
            for stratum, cost in sorted(cell.strata.items()):
                left = max(0, self._space.confirm_seeds - cell.confirmed.get(stratum, 0))
                self._turns.confirm.extend([(cell, cost)] * left)


def _cell(name: str, costs: Sequence[Cost], trials: int, finished: Sequence[TrialRecord], space: Space) -> _Cell:
    """A cell as earlier commands have left it."""
    records = [record for record in finished if record.cell == name]
    searched = [record for record in records if record.phase == "search"]
    strata = {}
    for record in searched:
        same = [cost for cost in costs if cost.stratum == record.stratum]
        strata[record.stratum or ""] = (same or costs)[0]
    started = min(trials, len(searched))
    winners = confirmed_winners(records) if started == trials else []  # else the winner may change
    confirmed = Counter(stratum for stratum, _ in winners)
    return _Cell(trials=trials, started=started, costs=costs, strata=strata, confirmed=confirmed)


def random_quality(draw: np.random.Generator, trials: int) -> Quality:
    """Qualities of one sweep's trials: how much an early rung tells of a late one, and whether the search gets better
    or began with its best, is drawn, too."""
    constancy, trend = draw.uniform(0.4, 0.95), draw.normal(0.0, 0.5)
    own: dict[int, float] = {}

    def quality(number: int, rung: int) -> float:
        if number not in own:
            own[number] = draw.normal() + trend * number / max(1, trials)
        value = constancy * own[number] + np.sqrt(1 - constancy**2) * draw.normal()
        return float(np.round(value / _GRAIN) * _GRAIN)

    return quality


@dataclass(frozen=True)
class Forecast:
    """Seconds, low to high; and what sweeps of that length run: trials, and steps of all."""

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
    audited: Mapping[str, int] = MappingProxyType({}),
    draws: int = DRAWS,
) -> Forecast:
    """The times within which 90 % of the played sweeps end. The steps of one are all slower or faster by one factor,
    whose logarithm has the standard deviation `spread`. audit, audited: as of `EarlyStopping`."""
    seconds, plays = [], []
    trials_each = [trials_of(space, cell) for cell in space.cells]
    for seed in range(draws):
        draw = np.random.default_rng(seed)
        play = Play(
            space,
            costs,
            devices=devices,
            concurrent=concurrent,
            quality=random_quality(draw, sum(trials_each)),
            pick=draw.integers,
            finished=finished,
            trials=trials_each,
            audit=audit,
            audited=audited,
            number=seed,
        ).run()
        plays.append(play)
        seconds.append((start_s + play.seconds) * np.exp(spread * draw.normal()))
    low, median, high = np.quantile(seconds, [LOW, 0.5, HIGH])
    trials, steps = (round(float(np.median([getattr(p, name) for p in plays]))) for name in ("trials", "steps"))
    return Forecast(float(low), float(median), float(high), trials, steps)
