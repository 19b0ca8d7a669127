"""The queue of trials: each cell is searched by its own study (`sweeps.search.study`), then its winner is confirmed.

As soon as the search of a cell is over, the confirm trials of its winner join the queue, so no device waits for the
slowest cell.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lopt.config import TrialConfig
from lopt.records import TrialRecord
from sweeps.planning.points import trial_count
from sweeps.search.other_runs import can_warm_start
from sweeps.search.study import CellStudy, Proposal
from sweeps.search.turns import CellTurns, Turns
from sweeps.search.winners import winner
from sweeps.space import Cell, Space

SEARCH_SEED = 0  # all search trials share it, so they differ in the searched fields and not in luck


@dataclass(eq=False, kw_only=True)
class _CellQueue(CellTurns):
    """One cell with its study (None if the cell searches nothing) and the records of its search trials."""

    cell: Cell
    study: CellStudy | None
    records: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True, eq=False, kw_only=True)
class QueuedTrial:
    """One trial of the queue, which waits or runs.

    Attributes:
        proposal: the study's proposal for this trial. None if the study need not be told how the trial ends: its cell
            searches nothing, it is a confirm trial, or it is a retry whose failure the study already knows.
    """

    config: TrialConfig
    phase: str
    cell: Cell
    stratum: str
    proposal: Proposal | None = None


class TrialQueue:
    """All trials of a sweep, in the order in which they begin.

    Args:
        space: the space to search.
        resolve: fills in the precision and the revisions of a configuration.
        finished: records of trials that earlier commands have finished; these trials are not run again.
        failed: records of trials that failed under earlier commands; these trials are tried again.
        interrupted: search trials that have a checkpoint but no record, each with the name of its cell.
        find_reusable: returns the record of a confirm trial from another run, given its key, cell and stratum; None if
            no other run has finished it.
        warm_start_records: records of search trials of other runs; only the sampler uses them.
    """

    def __init__(
        self,
        space: Space,
        *,
        resolve: Callable[[TrialConfig], TrialConfig],
        finished: Iterable[TrialRecord],
        failed: Iterable[TrialRecord],
        interrupted: Iterable[tuple[TrialConfig, str]] = (),
        find_reusable: Callable[[str, str, str], TrialRecord | None] = lambda key, cell, stratum: None,
        warm_start_records: Iterable[TrialRecord] = (),
    ) -> None:
        self.space, self._resolve, self._find_reusable = space, resolve, find_reusable
        self._finished = {record.key: record for record in finished}
        self._tried_keys: set[str] = set()  # of search trials that this command has begun or will try again
        self._running: dict[QueuedTrial, _CellQueue] = {}
        cell_queues = [self._make_cell_queue(cell, number) for number, cell in enumerate(space.cells)]
        self._turns: Turns[_CellQueue, QueuedTrial] = Turns(cell_queues)
        queues_by_name = {cell_queue.cell.name: cell_queue for cell_queue in cell_queues}
        for record in failed:
            cell_queue = queues_by_name.get(record.cell or "")
            if cell_queue is None or record.phase == "confirm":  # `_queue_winners` queues confirm trials
                continue
            if cell_queue.study:
                cell_queue.study.replay(record)
            cell_queue.started_count = min(cell_queue.planned_count, cell_queue.started_count + 1)
            self._queue_again(cell_queue, TrialConfig.from_dict(record.config), None)
        for config, cell_name in interrupted:
            cell_queue = queues_by_name.get(cell_name)
            if (
                cell_queue is None
                or cell_queue.started_count >= cell_queue.planned_count
                or space.mismatch_reason(cell_queue.cell, config)
            ):
                continue
            if resolve(config).key != config.key:  # the data or the weights have changed
                continue
            cell_queue.started_count += 1
            self._queue_again(cell_queue, config, cell_queue.study.resume(config) if cell_queue.study else None)
        warm_start_records = list(warm_start_records)
        for cell_queue in cell_queues:
            if cell_queue.study:
                metric = space.sample_trial(cell_queue.cell).metric if warm_start_records else ""
                cell_queue.study.enqueue_first(
                    record for record in warm_start_records if can_warm_start(cell_queue.cell, record, metric)
                )
            self._queue_winners(cell_queue)

    def _make_cell_queue(self, cell: Cell, number: int) -> _CellQueue:
        trials, study = trial_count(self.space, cell), None
        if cell.search:
            # A continued study has another seed, so that it does not repeat the random points of the first command.
            seeds = {"seed": number, "sampler_seed": number + 1000 * len(self._finished)}
            study = CellStudy(cell, trials=trials, sampler=self.space.sampler, **seeds)
        finished = self._finished.values()
        records = [record for record in finished if record.phase == "search" and record.cell == cell.name]
        if study:
            for record in records:
                study.replay(record)
        started = min(trials, len(records))
        return _CellQueue(planned_count=trials, started_count=started, cell=cell, study=study, records=records)

    def _queue_again(self, cell_queue: _CellQueue, config: TrialConfig, proposal: Proposal | None) -> None:
        """Queue a search trial that an earlier command has begun."""
        self._tried_keys.add(config.key)
        stratum = self.space.stratum(cell_queue.cell, config)
        trial = QueuedTrial(config=config, phase="search", cell=cell_queue.cell, stratum=stratum, proposal=proposal)
        self._turns.put_back(cell_queue, "search", trial)

    # --- how trials begin and end --------------------------------------------------------------------------------

    @property
    def has_waiting(self) -> bool:
        """Whether a trial is known to wait for its turn."""
        return bool(self._turns)

    def next(self) -> QueuedTrial | None:
        """Begin the next trial and return it; None if none waits now. Confirm trials may still follow later."""
        while turn := self._turns.next():
            cell_queue, trial = turn.cell, turn.waiting
            if trial is None:
                trial = self._new_trial(cell_queue)
            if trial is not None:
                self._running[trial] = cell_queue
                cell_queue.running_count += 1
                return trial
            cell_queue.started_count = cell_queue.planned_count  # every point of the cell has been tried
            self._queue_winners(cell_queue)
        return None

    def _new_trial(self, cell_queue: _CellQueue) -> QueuedTrial | None:
        """Return a search trial that has not been tried yet; None if every point of the cell has been tried."""

        def is_known(point: Mapping[str, Any]) -> bool:
            key = self._search_config(cell_queue.cell, point).key
            return key in self._finished or key in self._tried_keys

        proposal = cell_queue.study.propose(is_known) if cell_queue.study else None
        if cell_queue.study and proposal is None:
            return None
        config = self._search_config(cell_queue.cell, proposal.point if proposal else {})
        self._tried_keys.add(config.key)
        stratum = self.space.stratum(cell_queue.cell, config)
        return QueuedTrial(config=config, phase="search", cell=cell_queue.cell, stratum=stratum, proposal=proposal)

    def _search_config(self, cell: Cell, point: Mapping[str, Any]) -> TrialConfig:
        return self._resolve(self.space.config(cell, point, seed=SEARCH_SEED))

    def report(self, trial: QueuedTrial, step: int, score: float) -> None:
        """Tell the study the best score of a running trial up to a step."""
        if trial.proposal:
            trial.proposal.report(step, score)

    def put_back(self, trial: QueuedTrial) -> None:
        """Queue a trial again because it had not begun, or because it is to continue later."""
        cell_queue = self._running.pop(trial)
        cell_queue.running_count -= 1
        self._turns.put_back(cell_queue, trial.phase, trial)

    def end(self, trial: QueuedTrial, record: TrialRecord | None) -> None:
        """Take note that a trial has ended; `record` is None if its process died and left no record."""
        cell_queue = self._running.pop(trial)
        cell_queue.running_count -= 1
        if record is not None and record.status != "failed":
            self._finished[trial.config.key] = record
        if trial.phase == "search":
            if record is not None:
                cell_queue.records.append(record)
            if cell_queue.study and trial.proposal:
                cell_queue.study.tell(trial.proposal, record)
            elif cell_queue.study and record is not None:
                cell_queue.study.replay(record)
            self._queue_winners(cell_queue)

    def _queue_winners(self, cell_queue: _CellQueue) -> None:
        """Queue the confirm trials of a cell whose search is over: the winner of each stratum with every confirm seed.

        Confirm trials that this run or another one has finished already are not queued.
        """
        if not cell_queue.searched or cell_queue.confirming:
            return
        cell_queue.confirming = True
        for stratum in sorted({record.stratum or "" for record in cell_queue.records}):
            winning_record = winner(record for record in cell_queue.records if (record.stratum or "") == stratum)
            if winning_record is None:
                continue
            for seed in range(SEARCH_SEED + 1, SEARCH_SEED + 1 + self.space.confirm_seeds):
                config = TrialConfig.from_dict(winning_record.config).replace(seed=seed)
                if config.key in self._finished:
                    continue
                if reused_record := self._find_reusable(config.key, cell_queue.cell.name, stratum):
                    self._finished[config.key] = reused_record
                else:
                    trial = QueuedTrial(config=config, phase="confirm", cell=cell_queue.cell, stratum=stratum)
                    self._turns.confirm.append((cell_queue, trial))

    # --- how much is left ----------------------------------------------------------------------------------------

    def counts(self) -> tuple[int, int]:
        """Return the numbers of search trials and of confirm trials that are known to be left or running."""
        cells = self._turns.cells
        search = sum(cell.planned_count - cell.started_count + cell.running_count + cell.repeat_count for cell in cells)
        not_queued_yet = sum(self.space.confirm_seeds for cell in cells if not cell.confirming)
        running_confirm = self._running_confirm_count()
        return search - running_confirm, len(self._turns.confirm) + not_queued_yet + running_confirm

    def steps_left(self, steps: Mapping[str, int]) -> float:
        """Return the expected number of steps that are left.

        Args:
            steps: the steps that running trials have done, by their keys.
        """
        space, (_, confirm) = self.space, self.counts()
        expected = (confirm - self._running_confirm_count()) * float(space.max_steps)
        for cell in self._turns.cells:
            expected += sum(
                space.expected_steps(position) for position in range(cell.started_count + 1, cell.planned_count + 1)
            )
            expected += cell.repeat_count * space.expected_steps(max(1, cell.started_count))
        for trial, cell in self._running.items():
            whole_trial = space.max_steps if trial.phase == "confirm" else space.expected_steps(cell.started_count)
            expected += max(0.0, whole_trial - steps.get(trial.config.key, 0))
        return expected

    def _running_confirm_count(self) -> int:
        return sum(trial.phase == "confirm" for trial in self._running)
