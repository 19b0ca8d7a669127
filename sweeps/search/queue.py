"""Which trial runs next: one Optuna study a cell (`sweeps.search.study`), then each winner again with fresh seeds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lopt.config import TrialConfig
from lopt.records import TrialRecord
from sweeps.planning.points import trials_of
from sweeps.search.other_runs import can_warm_start
from sweeps.search.study import CellStudy, Proposal
from sweeps.search.turns import CellTurns, Turns
from sweeps.search.winners import winner
from sweeps.space import Cell, Space

SEARCH_SEED = 0  # all search trials share it: they differ in what is searched, not in luck


@dataclass(eq=False, kw_only=True)
class _CellQueue(CellTurns):
    """One cell: its study (None when nothing is searched), and the records of its search."""

    cell: Cell
    study: CellStudy | None
    records: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True, eq=False, kw_only=True)
class QueuedTrial:
    """One trial of the queue: waiting, or running.

    Attributes:
        asked: its cell's study's account of it; None if the study need not be told: nothing is searched, a confirm
            trial, or a retry whose failure it already knows.
    """

    config: TrialConfig
    phase: str
    cell: Cell
    stratum: str
    proposal: Proposal | None = None


class TrialQueue:
    """All trials of a sweep, in the order in which they begin.

    Args:
        space: what to run.
        settle: fills in precision and revisions of a configuration.
        finished: records of earlier commands; their trials are not run again.
        failed: records that are to be tried again.
        interrupted: search trials with a checkpoint and no record, each with the name of its cell.
        take: the record of a confirm trial that another run has finished, by its key, cell and stratum.
        lessons: search trials of other runs, for the sampler alone.
    """

    def __init__(
        self,
        space: Space,
        *,
        resolve: Callable[[TrialConfig], TrialConfig],
        finished: Iterable[TrialRecord],
        failed: Iterable[TrialRecord],
        interrupted: Iterable[tuple[TrialConfig, str]] = (),
        take: Callable[[str, str, str], TrialRecord | None] = lambda key, cell, stratum: None,
        warm_start_records: Iterable[TrialRecord] = (),
    ) -> None:
        self.space, self._settle, self._take = space, resolve, take
        self._done = {record.key: record for record in finished}
        self._tried: set[str] = set()  # keys of search trials that this command has begun, or will try again
        self._running: dict[QueuedTrial, _CellQueue] = {}
        cells = [self._cell_queue(cell, number) for number, cell in enumerate(space.cells)]
        self._turns: Turns[_CellQueue, QueuedTrial] = Turns(cells)
        by_name = {cell.cell.name: cell for cell in cells}
        for record in failed:
            cell = by_name.get(record.cell or "")
            if cell is None or record.phase == "confirm":  # a confirm trial without a record is queued by itself
                continue
            if cell.study:
                cell.study.replay(record)
            cell.started = min(cell.trials, cell.started + 1)
            self._repeat(cell, TrialConfig.from_dict(record.config), None)
        for config, cell_name in interrupted:
            cell = by_name.get(cell_name)
            if cell is None or cell.started >= cell.trials or space.misfit(cell.cell, config):
                continue
            if resolve(config).key != config.key:  # of other data or weights
                continue
            cell.started += 1
            self._repeat(cell, config, cell.study.resume(config) if cell.study else None)
        warm_start_records = list(warm_start_records)
        for cell in cells:
            if cell.study:
                metric = space.example(cell.cell).metric if warm_start_records else ""
                cell.study.enqueue_first(
                    record for record in warm_start_records if can_warm_start(cell.cell, record, metric)
                )
            self._queue_winners(cell)

    def _cell_queue(self, cell: Cell, number: int) -> _CellQueue:
        trials, study = trials_of(self.space, cell), None
        if cell.search:
            seeds = {"seed": number, "continued_seed": number + 1000 * len(self._done)}
            study = CellStudy(cell, trials=trials, sampler=self.space.sampler, **seeds)
        records = [r for r in self._done.values() if r.phase == "search" and r.cell == cell.name]
        if study:
            for record in records:
                study.replay(record)
        return _CellQueue(trials=trials, started=min(trials, len(records)), cell=cell, study=study, records=records)

    def _repeat(self, cell: _CellQueue, config: TrialConfig, proposal: Proposal | None) -> None:
        self._tried.add(config.key)
        stratum = self.space.stratum(cell.cell, config)
        trial = QueuedTrial(config=config, phase="search", cell=cell.cell, stratum=stratum, proposal=proposal)
        self._turns.put_back(cell, "search", trial)

    # --- what becomes of trials ----------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether a trial waits for its turn, as far as is known."""
        return bool(self._turns)

    def next(self) -> QueuedTrial | None:
        """The trial that begins now; None when none waits, though winners may come when others end."""
        while turn := self._turns.next():
            cell, trial = turn.cell, turn.waiting
            if trial is None:
                trial = self._new_trial(cell)
            if trial is not None:
                self._running[trial] = cell
                cell.running += 1
                return trial
            cell.started = cell.trials  # nothing new is left to try
            self._queue_winners(cell)
        return None

    def _new_trial(self, cell: _CellQueue) -> QueuedTrial | None:
        def is_known(point: Mapping[str, Any]) -> bool:
            key = self._search_config(cell.cell, point).key
            return key in self._done or key in self._tried

        proposal = cell.study.propose(is_known) if cell.study else None
        if cell.study and proposal is None:
            return None
        config = self._search_config(cell.cell, proposal.point if proposal else {})
        self._tried.add(config.key)
        stratum = self.space.stratum(cell.cell, config)
        return QueuedTrial(config=config, phase="search", cell=cell.cell, stratum=stratum, proposal=proposal)

    def _search_config(self, cell: Cell, point: Mapping[str, Any]) -> TrialConfig:
        return self._settle(self.space.config(cell, point, seed=SEARCH_SEED))

    def report(self, trial: QueuedTrial, step: int, score: float) -> None:
        """The best score of a running trial up to a step."""
        if trial.proposal:
            trial.proposal.report(step, score)

    def put_back(self, trial: QueuedTrial) -> None:
        """The trial waits again: it had not begun, or is to go on later."""
        cell = self._running.pop(trial)
        cell.running -= 1
        self._turns.put_back(cell, trial.phase, trial)

    def end(self, trial: QueuedTrial, record: TrialRecord | None) -> None:
        """`record` is None when the trial was cut off and left nothing."""
        cell = self._running.pop(trial)
        cell.running -= 1
        if record is not None and record.status != "failed":
            self._done[trial.config.key] = record
        if trial.phase == "search":
            if record is not None:
                cell.records.append(record)
            if cell.study and trial.proposal:
                cell.study.tell(trial.proposal, record)
            elif cell.study and record is not None:
                cell.study.replay(record)
            self._queue_winners(cell)

    def _queue_winners(self, cell: _CellQueue) -> None:
        """Queues the winners of a cell whose search is over: one of each stratum in it, with every confirm seed."""
        if not cell.searched or cell.confirming:
            return
        cell.confirming = True
        for stratum in sorted({record.stratum or "" for record in cell.records}):
            best = winner(r for r in cell.records if (r.stratum or "") == stratum)
            if best is None:
                continue
            for seed in range(SEARCH_SEED + 1, SEARCH_SEED + 1 + self.space.confirm_seeds):
                config = TrialConfig.from_dict(best.config).replace(seed=seed)
                if config.key in self._done:
                    continue
                if taken := self._take(config.key, cell.cell.name, stratum):
                    self._done[config.key] = taken
                else:
                    trial = QueuedTrial(config=config, phase="confirm", cell=cell.cell, stratum=stratum)
                    self._turns.confirm.append((cell, trial))

    # --- what is left --------------------------------------------------------------------------------------------

    def counts(self) -> tuple[int, int]:
        """Trials still to run as far as known: (search, confirm), those running included."""
        cells = self._turns.cells
        search = sum(cell.trials - cell.started + cell.running + cell.to_repeat for cell in cells)
        waiting = sum(self.space.confirm_seeds for cell in cells if not cell.confirming)
        running = self._running_confirm()
        return search - running, len(self._turns.confirm) + waiting + running

    def steps_left(self, steps: Mapping[str, int]) -> float:
        """Steps still to do, as far as can be expected; `steps` has those of running trials, by their keys."""
        space, (_, confirm) = self.space, self.counts()
        left = (confirm - self._running_confirm()) * float(space.max_steps)
        for cell in self._turns.cells:
            left += sum(space.expected_steps(n) for n in range(cell.started + 1, cell.trials + 1))
            left += cell.to_repeat * space.expected_steps(max(1, cell.started))
        for trial, cell in self._running.items():
            whole = space.max_steps if trial.phase == "confirm" else space.expected_steps(cell.started)
            left += max(0.0, whole - steps.get(trial.config.key, 0))
        return left

    def _running_confirm(self) -> int:
        return sum(trial.phase == "confirm" for trial in self._running)
