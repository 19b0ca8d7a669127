"""The queue of trials: each cell is searched by its own study (`sweeps.search.study`), then its winner is confirmed.

The confirm trials of a cell's winner join the queue as soon as the search of this cell is over, so no device waits for
the slowest cell.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lopt.config import TrialConfig
from lopt.records import TrialRecord
from sweeps.planning.points import search_trial_count
from sweeps.search.other_runs import can_warm_start
from sweeps.search.study import CellStudy, Proposal
from sweeps.search.turns import CellCounts, Turns
from sweeps.search.winners import winner
from sweeps.space import Cell, Space

SEARCH_SEED = 0  # all search trials share it, so they differ in the searched fields and not in luck


@dataclass(eq=False, kw_only=True)
class _CellSearch(CellCounts):
    """The search of one cell: its study (None if the cell searches nothing) and the records of its search trials."""

    cell: Cell
    study: CellStudy | None
    records: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True, eq=False, kw_only=True)
class QueuedTrial:
    """One trial of the queue, which waits or runs.

    Attributes:
        proposal: the study's proposal for this trial. None for a trial that no study has proposed: a confirm trial, a
            trial of a cell that searches nothing, or a failed trial that is tried again and is in the study already.
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
        reuse_trial: given the key, cell and stratum of a confirm trial, copies its record from another run and returns
            it; None if no other run has finished the trial.
        warm_start_records: records of search trials of other runs; only the sampler uses them.
        seeds_needed: called when no trial is left. Returns how many confirm seeds a cell and stratum should have, so
            that a sweep can add seeds until it is decided.
    """

    def __init__(
        self,
        space: Space,
        *,
        resolve: Callable[[TrialConfig], TrialConfig],
        finished: Iterable[TrialRecord],
        failed: Iterable[TrialRecord],
        interrupted: Iterable[tuple[TrialConfig, str]] = (),
        reuse_trial: Callable[[str, str, str], TrialRecord | None] = lambda key, cell, stratum: None,
        warm_start_records: Iterable[TrialRecord] = (),
        seeds_needed: Callable[[], Mapping[tuple[str, str], int]] = dict,
    ) -> None:
        self._seeds_needed = seeds_needed
        self._winners: dict[tuple[str, str], tuple[_CellSearch, str, TrialConfig]] = {}  # by cell and stratum
        self.space, self._resolve, self._reuse_trial = space, resolve, reuse_trial
        self._finished_record_by_key = {record.key: record for record in finished}
        self._tried_keys: set[str] = set()  # keys of trials that this command has begun or queued
        self._search_by_running_trial: dict[QueuedTrial, _CellSearch] = {}
        self._expected_step_totals = [0.0]  # of a cell's first n search trials together, for n from 0 on
        cell_searches = [self._new_cell_search(cell, index) for index, cell in enumerate(space.cells)]
        self._turns: Turns[_CellSearch, QueuedTrial] = Turns(cell_searches)
        search_by_cell_name = {cell_search.cell.name: cell_search for cell_search in cell_searches}
        for record in failed:
            cell_search = search_by_cell_name.get(record.cell or "")
            if cell_search is None or record.phase == "confirm":  # `_queue_winners` queues confirm trials
                continue
            if cell_search.study:
                cell_search.study.replay(record)
            cell_search.started_count = min(cell_search.planned_count, cell_search.started_count + 1)
            self._queue_again(cell_search, TrialConfig.from_dict(record.config), None)
        for config, cell_name in interrupted:
            cell_search = search_by_cell_name.get(cell_name)
            if (
                cell_search is None
                or cell_search.started_count >= cell_search.planned_count
                or space.mismatch_reason(cell_search.cell, config)
            ):
                continue
            if resolve(config).key != config.key:  # the data or the weights have changed
                continue
            cell_search.started_count += 1
            self._queue_again(cell_search, config, cell_search.study.resume(config) if cell_search.study else None)
        warm_start_records = list(warm_start_records)
        for cell_search in cell_searches:
            if cell_search.study:
                metric = str(space.sample_config(cell_search.cell).metric) if warm_start_records else ""
                cell_search.study.enqueue_first_points(
                    record for record in warm_start_records if can_warm_start(cell_search.cell, record, metric)
                )
            self._queue_winners(cell_search)
        self._queue_needed_seeds()

    def _new_cell_search(self, cell: Cell, index: int) -> _CellSearch:
        planned_count, study = search_trial_count(self.space, cell), None
        if cell.search:
            # In a continued study the sampler has another seed, so that it does not repeat its earlier random points.
            study_seeds = {"seed": index, "sampler_seed": index + 1000 * len(self._finished_record_by_key)}
            study = CellStudy(cell, trial_count=planned_count, sampler=self.space.sampler, **study_seeds)
        finished_records = self._finished_record_by_key.values()
        records = [record for record in finished_records if record.phase == "search" and record.cell == cell.name]
        if study:
            for record in records:
                study.replay(record)
        started_count = min(planned_count, len(records))
        return _CellSearch(
            planned_count=planned_count, started_count=started_count, cell=cell, study=study, records=records
        )

    def _queue_again(self, cell_search: _CellSearch, config: TrialConfig, proposal: Proposal | None) -> None:
        """Queue a search trial that an earlier command has begun."""
        self._tried_keys.add(config.key)
        stratum = self.space.stratum(cell_search.cell, config)
        trial = QueuedTrial(config=config, phase="search", cell=cell_search.cell, stratum=stratum, proposal=proposal)
        self._turns.put_back(cell_search, "search", trial)

    # --- how trials begin and end --------------------------------------------------------------------------------

    @property
    def has_waiting_trial(self) -> bool:
        """Whether a trial waits now. Confirm trials may still follow later."""
        return bool(self._turns)

    def begin_next_trial(self) -> QueuedTrial | None:
        """Begin the next trial and return it; None if none waits now. Confirm trials may still follow later."""
        while turn := self._turns.take_next():
            cell_search, trial = turn.cell_search, turn.waiting_item
            if trial is None:
                trial = self._new_trial(cell_search)
            if trial is not None:
                self._search_by_running_trial[trial] = cell_search
                cell_search.running_count += 1
                return trial
            cell_search.started_count = cell_search.planned_count  # every point of the cell has been tried
            self._queue_winners(cell_search)
            self._queue_needed_seeds()
        return None

    def _new_trial(self, cell_search: _CellSearch) -> QueuedTrial | None:
        """Return a search trial that has not been tried yet; None if every point of the cell has been tried."""

        def is_known(point: Mapping[str, Any]) -> bool:
            key = self._search_config(cell_search.cell, point).key
            return key in self._finished_record_by_key or key in self._tried_keys

        proposal = cell_search.study.propose(is_known) if cell_search.study else None
        if cell_search.study and proposal is None:
            return None
        config = self._search_config(cell_search.cell, proposal.point if proposal else {})
        self._tried_keys.add(config.key)
        stratum = self.space.stratum(cell_search.cell, config)
        return QueuedTrial(config=config, phase="search", cell=cell_search.cell, stratum=stratum, proposal=proposal)

    def _search_config(self, cell: Cell, point: Mapping[str, Any]) -> TrialConfig:
        return self._resolve(self.space.config(cell, point, seed=SEARCH_SEED))

    def report(self, trial: QueuedTrial, step: int, best_score: float) -> None:
        """Report the best score of a running trial up to `step` to its study."""
        if trial.proposal:
            trial.proposal.report(step, best_score)

    def put_back(self, trial: QueuedTrial) -> None:
        """Queue a trial again, because its process died before it began, or because it will continue later."""
        cell_search = self._search_by_running_trial.pop(trial)
        cell_search.running_count -= 1
        self._turns.put_back(cell_search, trial.phase, trial)

    def end(self, trial: QueuedTrial, record: TrialRecord | None) -> None:
        """Register the end of a trial. `record` is None if its process died and left no record."""
        cell_search = self._search_by_running_trial.pop(trial)
        cell_search.running_count -= 1
        if record is not None and record.status != "failed":
            self._finished_record_by_key[trial.config.key] = record
        if trial.phase == "search":
            if record is not None:
                cell_search.records.append(record)
            if cell_search.study and trial.proposal:
                cell_search.study.tell(trial.proposal, record)
            elif cell_search.study and record is not None:
                cell_search.study.replay(record)
            self._queue_winners(cell_search)
        self._queue_needed_seeds()

    def _queue_winners(self, cell_search: _CellSearch) -> None:
        """Queue the confirm trials of a cell whose search is over: the winner of each stratum with every confirm seed.

        More seeds may follow (`_queue_needed_seeds`).
        """
        if not cell_search.is_search_over or cell_search.has_queued_confirm_trials:
            return
        cell_search.has_queued_confirm_trials = True
        winning_config_by_stratum: dict[str, TrialConfig] = {}
        if not cell_search.planned_count:  # the space has no search trials, and the cell has one configuration only
            config = self._confirmed_config(cell_search.cell) or self._search_config(cell_search.cell, {})
            winning_config_by_stratum[self.space.stratum(cell_search.cell, config)] = config
        for stratum in sorted({record.stratum or "" for record in cell_search.records}):
            winning_record = winner(record for record in cell_search.records if (record.stratum or "") == stratum)
            if winning_record is not None:
                winning_config_by_stratum[stratum] = TrialConfig.from_dict(winning_record.config)
        for stratum, config in winning_config_by_stratum.items():
            self._winners[cell_search.cell.name, stratum] = cell_search, stratum, config
            self._queue_seeds(cell_search, stratum, config, self.space.confirm_seeds)

    def _confirmed_config(self, cell: Cell) -> TrialConfig | None:
        """Return the configuration that earlier commands have confirmed in a cell; None if there is none."""
        finished_records = self._finished_record_by_key.values()
        confirmed = (record for record in finished_records if (record.phase, record.cell) == ("confirm", cell.name))
        record = next(confirmed, None)
        return TrialConfig.from_dict(record.config) if record else None

    def _queue_seeds(self, cell_search: _CellSearch, stratum: str, winning_config: TrialConfig, seeds: int) -> None:
        """Queue confirm trials until the winner has so many seeds.

        Confirm trials that this run or another one has finished already are not queued, nor any trial twice.
        """
        for seed in range(SEARCH_SEED + 1, SEARCH_SEED + 1 + seeds):
            config = winning_config.replace(seed=seed)
            if config.key in self._finished_record_by_key or config.key in self._tried_keys:
                continue
            self._tried_keys.add(config.key)
            if reused_record := self._reuse_trial(config.key, cell_search.cell.name, stratum):
                self._finished_record_by_key[config.key] = reused_record
            else:
                trial = QueuedTrial(config=config, phase="confirm", cell=cell_search.cell, stratum=stratum)
                self._turns.confirm_items.append((cell_search, trial))

    def _queue_needed_seeds(self) -> None:
        """If no trial is left, queue the seeds that are needed for a decision."""
        while self.count_unfinished_trials() == (0, 0):
            tried_count = len(self._tried_keys)
            for cell_and_stratum, seeds in self._seeds_needed().items():
                if cell_and_stratum in self._winners:
                    self._queue_seeds(*self._winners[cell_and_stratum], seeds)
            if len(self._tried_keys) == tried_count:  # nothing is needed, or it has been tried and has failed
                return

    # --- how much is left ----------------------------------------------------------------------------------------

    def count_unfinished_trials(self) -> tuple[int, int]:
        """Return how many search trials and how many confirm trials are left or running, as far as known now."""
        cell_searches, running_confirm_count = self._turns.cell_searches, self._running_confirm_count()
        running_search_count = len(self._search_by_running_trial) - running_confirm_count
        waiting_search_count = sum(
            cell_search.planned_count - cell_search.started_count + cell_search.requeued_count
            for cell_search in cell_searches
        )
        searching_count = sum(not cell_search.has_queued_confirm_trials for cell_search in cell_searches)
        later_confirm_count = self.space.confirm_seeds * searching_count
        confirm_count = len(self._turns.confirm_items) + later_confirm_count + running_confirm_count
        return waiting_search_count + running_search_count, confirm_count

    def count_waiting_trials(self) -> Counter[bool]:
        """Return how many trials could begin now, by whether they share a backbone. Running ones do not count."""
        counts: Counter[bool] = Counter()
        for cell_search in self._turns.cell_searches:
            waiting_count = cell_search.planned_count - cell_search.started_count + cell_search.requeued_count
            counts[self.space.sample_config(cell_search.cell).shares_backbone] += waiting_count
        counts.update(trial.config.shares_backbone for _, trial in self._turns.confirm_items)
        return counts

    def steps_left(self, steps_done: Mapping[str, int]) -> float:
        """Return the expected number of steps that are left.

        Args:
            steps_done: the steps that running trials have done, by key.
        """
        max_steps = self.space.max_steps
        expected_steps = (self.count_unfinished_trials()[1] - self._running_confirm_count()) * float(max_steps)
        for cell_search in self._turns.cell_searches:
            started_count = cell_search.started_count
            expected_steps += self._steps_of_first(max(started_count, cell_search.planned_count))
            expected_steps -= self._steps_of_first(started_count)
            expected_steps += cell_search.requeued_count * self._expected_steps(max(1, started_count))
        for trial, cell_search in self._search_by_running_trial.items():
            is_confirm = trial.phase == "confirm"
            trial_steps = max_steps if is_confirm else self._expected_steps(cell_search.started_count)
            expected_steps += max(0.0, trial_steps - steps_done.get(trial.config.key, 0))
        return expected_steps

    def _steps_of_first(self, count: int) -> float:
        """Return the expected steps of a cell's first search trials together."""
        totals = self._expected_step_totals
        while len(totals) <= count:
            totals.append(totals[-1] + self.space.expected_steps(len(totals)))
        return totals[count]

    def _expected_steps(self, position: int) -> float:
        """Return the expected steps of the search trial at a position (from 1) of its cell."""
        return self._steps_of_first(position) - self._steps_of_first(position - 1)

    def _running_confirm_count(self) -> int:
        return sum(trial.phase == "confirm" for trial in self._search_by_running_trial)
