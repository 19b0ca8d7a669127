"""How long a sweep will take: played through many times, with what its steps were measured to take.

Each time the qualities of the trials are drawn anew, and the sweep's own early stopping decides on them. Trials come in
the sweep's own order and wait for room as they do on Ray; trials that share a device step together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.points import trials_of
from sweeps.scheduler import StratifiedASHA
from sweeps.study import confirmed_winners
from sweeps.trial import METRIC, TIME

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


@dataclass(eq=False)
class _Trial:
    """A trial on its way. idle_s: until it takes part in steps, or has been scored."""

    number: int
    cell: int
    cost: Cost
    phase: str
    idle_s: float
    milestones: deque[int]
    step: float = 0.0
    scored: bool = False
    group: _Group | None = None

    @property
    def handle(self) -> Any:
        return SimpleNamespace(trial_id=str(self.number), config={"phase": self.phase, "stratum": self.cost.stratum})


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
        spared: asked whether a trial that would be stopped is audited, and runs to the end instead.

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
        finished: Iterable[TrialRecord] = (),
        spared: Callable[[], bool] = lambda: False,
        trials: Sequence[int] = (),
    ) -> None:
        self._space, self._costs, self._concurrent = space, costs, concurrent
        self._quality, self._pick, self._spared = quality, pick, spared
        self._asha = StratifiedASHA(
            grace_steps=space.grace_steps, reduction_factor=space.reduction_factor, max_steps=space.max_steps
        )
        finished = list(finished)
        self._asha.replay(finished)
        names = [cell.name for cell in space.cells]
        begun = Counter(record.cell for record in finished if record.phase == "search")
        self._trials = list(trials) or [trials_of(space, cell) for cell in space.cells]
        self._started = [min(most, begun[name]) for most, name in zip(self._trials, names, strict=True)]
        self._searching = [0] * len(names)
        self._found: list[dict[str, Cost]] = [{} for _ in names]  # the strata of a cell, each with a kind of its trials
        for record in finished:
            if record.phase == "search" and record.cell in names:
                place = names.index(record.cell)
                same = [cost for cost in costs[place] if cost.stratum == record.stratum]
                self._found[place][record.stratum or ""] = (same or costs[place])[0]
        over = [
            name for n, name in enumerate(names) if self._started[n] == self._trials[n]
        ]  # else the winner may change
        self._confirmed = Counter(stratum for stratum, _ in confirmed_winners(r for r in finished if r.cell in over))
        self._confirming = [False] * len(names)
        self._confirm: deque[tuple[int, Cost]] = deque()
        self._waiting: deque[_Trial] = deque()
        self._free = [1.0] * devices
        self._groups: list[_Group] = []
        self.seconds, self.steps, self.trials = 0.0, 0.0, 0
        for place in range(len(names)):
            self._when_searched(place)

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
            trial = self._next()
            if trial is None:
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
        """As `SweepSearcher` does: confirm trials first, then cells in turn."""
        if self._confirm:
            return self._made(*self._confirm.popleft(), "confirm")
        open_cells = [place for place, most in enumerate(self._trials) if self._started[place] < most]
        if not open_cells:
            return None
        place = min(open_cells, key=self._started.__getitem__)
        self._started[place] += 1
        self._searching[place] += 1
        return self._made(place, self._costs[place][self._pick(len(self._costs[place]))], "search")

    def _made(self, place: int, cost: Cost, phase: str) -> _Trial:
        self.trials += 1
        rungs = self._space.rungs if phase == "search" else []
        evaluations = (-(-rung // cost.eval_every) * cost.eval_every for rung in rungs)
        whole = self._space.max_steps
        milestones = deque([*sorted({step for step in evaluations if step < whole}), whole])
        trial = _Trial(self.trials, place, cost, phase, cost.begin_s, milestones)
        self._asha.on_trial_add(None, trial.handle)
        return trial

    # --- what becomes of them -------------------------------------------------------------------------------------

    def _arrived(self, trial: _Trial) -> None:
        if trial.scored:
            self._leave(trial)
            return
        step = trial.milestones.popleft()
        if trial.milestones:
            rung = len(self._space.rungs) - len(trial.milestones)
            report = {TIME: step, METRIC: self._quality(trial.number, rung), "status": "running"}
            if self._asha.on_trial_result(None, trial.handle, report) == "STOP":
                if self._spared():
                    trial.milestones = deque([self._space.max_steps])  # it competes no more
                else:
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
        self._asha.on_trial_remove(None, trial.handle)
        self._free[group.device] += trial.cost.share
        group.trials.remove(trial)
        if not group.trials:
            self._groups.remove(group)
        if trial.phase == "search":
            self._searching[trial.cell] -= 1
            self._found[trial.cell][trial.cost.stratum] = trial.cost
            self._when_searched(trial.cell)

    def _when_searched(self, place: int) -> None:
        over = self._started[place] == self._trials[place] and not self._searching[place]
        if over and not self._confirming[place]:
            self._confirming[place] = True
            for stratum, cost in sorted(self._found[place].items()):
                left = max(0, self._space.confirm_seeds - self._confirmed[stratum])
                self._confirm.extend([(place, cost)] * left)


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
    finished: Iterable[TrialRecord] = (),
    audit: float = 0.0,
    draws: int = DRAWS,
) -> Forecast:
    """The times within which 90 % of the played sweeps end. The steps of one are all slower or faster by one factor,
    whose logarithm has the standard deviation `spread`. audit: share of the trials to be stopped that run on."""
    finished, seconds, plays = list(finished), [], []
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
            spared=lambda: bool(audit) and draw.random() < audit,  # noqa: B023  # called before the next draw
        ).run()
        plays.append(play)
        seconds.append((start_s + play.seconds) * np.exp(spread * draw.normal()))
    low, median, high = np.quantile(seconds, [LOW, 0.5, HIGH])
    trials, steps = (round(float(np.median([getattr(p, name) for p in plays]))) for name in ("trials", "steps"))
    return Forecast(float(low), float(median), float(high), trials, steps)
