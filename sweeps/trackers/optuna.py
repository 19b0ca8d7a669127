"""A tracker that mirrors the search into Optuna's journal, one study for each cell.

`optuna-dashboard results/<run>/optuna.log` shows the studies while the sweep runs. Nothing is ever read back from the
journal to decide something. Confirm trials are no part of a search, so they are left out.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from lopt.config import TrialConfig
from lopt.records import TrialRecord
from sweeps.search.study import to_distribution
from sweeps.space import point_of
from sweeps.trackers import Tracker
from sweeps.trackers._trials import failure_note, final_metrics, plain_settings
from sweeps.work.evaluations import evaluation_to_dict, evaluations_in
from sweeps.work.job import Job, Report

if TYPE_CHECKING:
    from sweeps.results.store import Store
    from sweeps.space import Space


class OptunaJournal(Tracker):
    name = "optuna"

    def __init__(self, store: Store, space: Space) -> None:
        super().__init__(store, space)
        self._path = self.local_folder("optuna.log")
        self._cell_by_name = {cell.name: cell for cell in space.cells}
        self._has_begun = False
        self._study_ids: dict[str, int] = {}  # by cell
        self._trial_ids: dict[str, int] = {}  # by the trial's key

    @cached_property
    def _storage(self) -> JournalStorage:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return JournalStorage(JournalFileBackend(str(self._path)))

    def on_started(self, job: Job) -> None:
        if job.phase == "search":
            if not self._has_begun:
                self._begin()
            if job.key not in self._trial_ids:
                self._add_trial(job.cell, job.config, job.stratum)

    def _begin(self) -> None:
        """Note what the journal has already, and add the trials that the run finished before it had a journal."""
        self._has_begun = True
        storage = self._storage
        for study_name in optuna.get_all_study_names(storage):
            study_id = storage.get_study_id_from_name(study_name)
            self._study_ids[study_name.removeprefix(f"{self.store.run}/")] = study_id
            for trial in storage.get_all_trials(study_id, deepcopy=False):
                if trial.state != TrialState.FAIL:
                    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                    self._trial_ids[trial.user_attrs.get("key", "")] = trial_id
        for record in self.store.readable_records():
            is_searched = record.phase == "search" and record.cell in self._cell_by_name
            if is_searched and record.status != "failed" and record.key not in self._trial_ids:
                self._add_record(record)

    def _add_record(self, record: TrialRecord) -> None:
        self._add_trial(record.cell or "", TrialConfig.from_dict(record.config), record.stratum or "")
        evaluations = [evaluation_to_dict(evaluation, record.metric) for evaluation in record.evaluations]
        self._add_evaluations(record.key, evaluations)
        self._end_trial(record)

    def _add_trial(self, cell_name: str, config: TrialConfig, stratum: str) -> None:
        cell = self._cell_by_name[cell_name]
        if cell_name not in self._study_ids:
            study_name = f"{self.store.run}/{cell_name}"
            self._study_ids[cell_name] = self._storage.create_new_study([StudyDirection.MAXIMIZE], study_name)
            self._storage.set_study_user_attr(self._study_ids[cell_name], "space", self.space.name)
        point = point_of(cell, config)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=point,
            distributions={name: to_distribution(cell.search[name]) for name in point},
            user_attrs={"key": config.key, "stratum": stratum, **plain_settings(config)},
        )
        self._trial_ids[config.key] = self._storage.create_new_trial(self._study_ids[cell_name], trial)

    def on_reported(self, job: Job, report: Report) -> None:
        if job.phase == "search":
            self._add_evaluations(job.key, evaluations_in(report))

    def _add_evaluations(self, key: str, evaluations: list[dict[str, Any]]) -> None:
        for evaluation in evaluations:
            if evaluation["score"] is not None:
                step, score = int(evaluation["step"]), float(evaluation["score"])
                self._storage.set_trial_intermediate_value(self._trial_ids[key], step, score)

    def on_ended(self, job: Job, record: TrialRecord) -> None:
        if job.phase == "search":
            self._end_trial(record)

    def _end_trial(self, record: TrialRecord) -> None:
        trial_id = self._trial_ids[record.key]
        for name, value in final_metrics(record).items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        if note := failure_note(record):
            self._storage.set_trial_user_attr(trial_id, "error", note)
        states = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
        state = states.get(record.status, TrialState.FAIL)
        score = record.selection_score
        # The dashboard draws a pruned trial at its value.
        self._storage.set_trial_state_values(trial_id, state, [score] if score is not None else None)
        if record.status == "failed":
            del self._trial_ids[record.key]  # it is another trial of the study when it is tried again


SPEC = OptunaJournal
