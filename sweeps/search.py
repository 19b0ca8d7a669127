"""Which trial runs next: one Optuna study a cell (`sweeps.study`), then each winner again with fresh seeds.

`SweepSearcher` delegates to the studies in turn, so that every cell gets its equal number of trials.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray.tune.search import Searcher

from lopt.config import TrialConfig
from lopt.records import TrialRecord
from sweeps.earlier import teaches
from sweeps.points import trials_of
from sweeps.space import Cell, Space
from sweeps.study import CellStudy, winner
from sweeps.trial import METRIC, TIME, make_job

SEARCH_SEED = 0  # all search trials share it: they differ in what is searched, not in luck


@dataclass
class _CellState:
    """What has happened in one cell."""

    cell: Cell
    study: CellStudy | None  # None when nothing is searched
    trials: int
    started: int = 0
    running: int = 0
    retries: int = 0  # trials that wait to be tried again, or to go on
    confirming: bool = False
    records: list[TrialRecord] = field(default_factory=list)

    @property
    def searched(self) -> bool:
        return self.started >= self.trials and not self.running and not self.retries


@dataclass(frozen=True)
class _Running:
    state: _CellState
    phase: str
    config: TrialConfig
    stratum: str


def _carried(result: Mapping[str, Any] | None) -> TrialRecord | None:
    """The final record in a last report, for file systems on which a file of another machine is seen late."""
    if not result or result.get("status", "running") == "running":
        return None
    return TrialRecord.from_dict(json.loads(result["record"]))


class SweepSearcher(Searcher):
    """Proposes all trials of a sweep, in Ray Tune's interface.

    Args:
        space: what to run.
        settle: fills in precision and revisions of a configuration.
        place: out, run and threads, for the jobs.
        finished: records of earlier commands; their trials are not run again.
        failed: records that are to be tried again.
        interrupted: search trials that are to go on, with the names of their cells.
        read: the record of a key, when a trial has ended.
        on_start, on_report, on_end: told of each trial: (trial_id, job), (trial_id, report), (trial_id, record).
        on_let_go: told of a trial that a budget has stopped at an evaluation, and of that report, which is empty when
            the trial was still waiting for a place.
        again: whether a trial that has ended without a record is to be tried again at once, for it had not begun.
        may_start: whether a budget allows another trial.
        take: the record of a confirm trial that another run has finished, by its key, cell and stratum.
        lessons: search trials of other runs, for the sampler alone.
    """

    def __init__(
        self,
        space: Space,
        *,
        settle: Callable[[TrialConfig], TrialConfig],
        place: Mapping[str, Any],
        finished: Iterable[TrialRecord],
        failed: Iterable[TrialRecord],
        interrupted: Iterable[tuple[TrialConfig, str]] = (),
        read: Callable[[str], TrialRecord | None],
        on_start: Callable[[str, Mapping[str, Any]], None] = lambda trial_id, job: None,
        on_report: Callable[[str, Mapping[str, Any]], None] = lambda trial_id, report: None,
        on_end: Callable[[str, Mapping[str, Any], TrialRecord | None], None] = lambda trial_id, job, record: None,
        on_let_go: Callable[[str, Mapping[str, Any]], None] = lambda trial_id, report: None,
        again: Callable[[str], bool] = lambda trial_id: False,
        may_start: Callable[[], bool] = lambda: True,
        take: Callable[[str, str, str], TrialRecord | None] = lambda key, cell, stratum: None,
        lessons: Iterable[TrialRecord] = (),
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.space, self._settle, self._place, self._read = space, settle, dict(place), read
        self._on_start, self._on_report, self._on_end, self._may_start = on_start, on_report, on_end, may_start
        self._on_let_go, self._again, self._take = on_let_go, again, take
        self._done = {record.key: record for record in finished}
        self._tried: set[str] = set()  # keys of search trials that this command has begun, or will try again
        self._running: dict[str, _Running] = {}
        self._confirm: deque[tuple[_CellState, TrialConfig, str]] = deque()
        self._retry: deque[tuple[_CellState, TrialConfig]] = deque()
        self.held_back = False  # a budget kept a trial from starting
        self.cells = [self._state(cell, number) for number, cell in enumerate(space.cells)]
        lessons = list(lessons)
        by_name = {state.cell.name: state for state in self.cells}
        for record in failed:
            state = by_name.get(record.cell or "")
            if state is None or record.phase == "confirm":  # a confirm trial without a record is queued by itself
                continue
            if state.study:
                state.study.replay(record)
            state.started = min(state.trials, state.started + 1)
            state.retries += 1
            self._retry.append((state, TrialConfig.from_dict(record.config)))
            self._tried.add(record.key)
        for config, cell_name in interrupted:
            state = by_name.get(cell_name)
            if state is None or state.started >= state.trials or space.misfit(state.cell, config):
                continue
            if settle(config).key != config.key:  # of other data or weights
                continue
            if state.study:
                state.study.resume(config)
            state.started += 1
            state.retries += 1
            self._retry.append((state, config))
            self._tried.add(config.key)
        for state in self.cells:
            if state.study:
                metric = space.example(state.cell).metric if lessons else ""
                state.study.enqueue_first(record for record in lessons if teaches(state.cell, record, metric))
            self._when_searched(state)

    def _state(self, cell: Cell, number: int) -> _CellState:
        trials = trials_of(self.space, cell)
        # TPE that began as it did before would propose what has been tried.
        seeds = {"seed": number, "sampler_seed": number + 1000 * len(self._done)}
        study = CellStudy(cell, trials=trials, **seeds) if cell.search else None
        state = _CellState(cell, study, trials)
        for record in self._done.values():
            if record.phase == "search" and record.cell == cell.name:
                state.records.append(record)
                state.started = min(trials, state.started + 1)
                if study:
                    study.replay(record)
        return state

    # --- Ray Tune's interface ----------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        """The next job; None while everything waits for running trials; FINISHED at the end."""
        self.held_back = self._waiting() and not self._may_start()
        found = None if self.held_back else self._next(trial_id)
        if found is None:
            return None if self._running else Searcher.FINISHED
        self._running[trial_id] = found
        found.state.running += 1
        job = make_job(
            found.config, phase=found.phase, cell=found.state.cell.name, stratum=found.stratum, **self._place
        )
        self._on_start(trial_id, job)
        return job

    def _waiting(self) -> bool:
        return bool(self._confirm or self._retry or any(state.started < state.trials for state in self.cells))

    def _next(self, trial_id: str) -> _Running | None:
        if self._confirm:
            state, config, stratum = self._confirm.popleft()
            return _Running(state, "confirm", config, stratum)
        if self._retry:
            state, config = self._retry.popleft()
            state.retries -= 1
            if state.study:
                state.study.take_over(config, trial_id)
            return _Running(state, "search", config, self.space.stratum(state.cell, config))
        open_cells = [state for state in self.cells if state.started < state.trials]
        if not open_cells:
            return None
        state = min(open_cells, key=lambda s: s.started)  # in turn; `min` keeps the cells' order among equals
        point = state.study.propose(trial_id, partial(self._known, state.cell)) if state.study else {}
        if point is None:  # nothing new is left to try
            state.started = state.trials
            self._when_searched(state)
            return self._next(trial_id)
        state.started += 1
        config = self._search_config(state.cell, point)
        self._tried.add(config.key)
        return _Running(state, "search", config, self.space.stratum(state.cell, config))

    def _search_config(self, cell: Cell, point: Mapping[str, Any]) -> TrialConfig:
        return self._settle(self.space.config(cell, point, seed=SEARCH_SEED))

    def _known(self, cell: Cell, point: Mapping[str, Any]) -> bool:
        key = self._search_config(cell, point).key
        return key in self._done or key in self._tried

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        running = self._running.get(trial_id)
        if running is None:
            return
        if running.phase == "search" and running.state.study and trial_id in running.state.study._ot_trials:
            running.state.study.on_trial_result(trial_id, result)
        self._on_report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        running = self._running.get(trial_id)
        if running is None:
            return
        record = self._read(running.config.key) or _carried(result)
        if record is None and result != {} and not error:
            # It could have gone on: whoever else stops a trial writes a record. A command with a budget left does.
            self._put_back(trial_id)
            self._on_let_go(trial_id, result or {})
        elif record is None and error and self._again(trial_id):
            self._put_back(trial_id)
        else:
            self._end(trial_id, record)

    def _put_back(self, trial_id: str) -> None:
        """The trial waits again."""
        running = self._running.pop(trial_id)
        running.state.running -= 1
        if running.phase == "confirm":
            self._confirm.appendleft((running.state, running.config, running.stratum))
        else:
            if running.state.study:
                running.state.study.give_back(trial_id, running.config)
            running.state.retries += 1
            self._retry.append((running.state, running.config))

    def _end(self, trial_id: str, record: TrialRecord | None) -> None:
        """`record` is None when the trial was cut off and left nothing."""
        running = self._running.pop(trial_id)
        state, key = running.state, running.config.key
        state.running -= 1
        if record is not None and record.status != "failed":
            self._done[key] = record
        if running.phase == "search":
            if record is not None:
                state.records.append(record)
            if state.study and trial_id in state.study._ot_trials:
                score = record.selection_score or 0.0 if record else 0.0
                result = {"status": record.status, METRIC: score, TIME: record.steps} if record else None
                state.study.on_trial_complete(trial_id, result, error=record is None)
            elif state.study and record is not None:  # tried again after a failure: the study has not asked for it
                state.study.replay(record)
            self._when_searched(state)
        job = {"phase": running.phase, "cell": state.cell.name, "stratum": running.stratum}
        self._on_end(trial_id, {**job, "config": running.config.to_dict()}, record)

    def _when_searched(self, state: _CellState) -> None:
        """Queues the winners of a cell whose search is over: one of each stratum in it, with every confirm seed."""
        if not state.searched or state.confirming:
            return
        state.confirming = True
        for stratum in sorted({record.stratum or "" for record in state.records}):
            best = winner(r for r in state.records if r.stratum == stratum)
            if best is None:
                continue
            for seed in range(SEARCH_SEED + 1, SEARCH_SEED + 1 + self.space.confirm_seeds):
                config = TrialConfig.from_dict(best.config).replace(seed=seed)
                if config.key in self._done:
                    continue
                taken = self._take(config.key, state.cell.name, stratum)
                if taken is not None:
                    self._done[config.key] = taken
                else:
                    self._confirm.append((state, config, stratum))

    def counts(self) -> tuple[int, int]:
        """Trials still to run as far as known: (search, confirm), those running included."""
        search = sum(s.trials - s.started + s.running for s in self.cells) + len(self._retry)
        waiting = sum(self.space.confirm_seeds for s in self.cells if not s.confirming)
        running = sum(r.phase == "confirm" for r in self._running.values())
        return search - running, len(self._confirm) + waiting + running

    def steps_left(self, made: Mapping[str, int]) -> float:
        """Steps still to do, as far as can be expected; `made` has those of the running trials."""
        space, (_, confirm) = self.space, self.counts()
        running_confirm = sum(r.phase == "confirm" for r in self._running.values())
        left = (confirm - running_confirm) * float(space.max_steps)
        for state in self.cells:
            left += sum(space.expected_steps(n) for n in range(state.started + 1, state.trials + 1))
        for trial_id, running in self._running.items():
            whole = space.max_steps if running.phase == "confirm" else space.expected_steps(running.state.started)
            left += max(0.0, whole - made.get(trial_id, 0))
        return left

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    # The state is rebuilt from the results store, never from Ray's snapshot.
    def save(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "wb"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        pass
