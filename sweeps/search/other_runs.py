"""Finished trials of other runs. They are copied instead of trained again, or they warm-start the sampler."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lopt.config import TrialConfig, key_of_values
from lopt.errors import to_one_line
from lopt.records import TrialRecord
from sweeps.results.store import FINAL_STATUSES, Store
from sweeps.space import Cell, Space, point_of

# For each field of TrialConfig that may be a folder, the field with the revision of its content.
_REVISION_FIELDS = {"task": "data_revision", "backbone": "model_revision"}
EVERY_RUN = "all"


class OtherRuns:
    """Finished trials of other runs, for a sweep that would otherwise train them again.

    Args:
        store: the sweep's own store, into which reused trials are copied.
        runs: names of runs in the same folder, or "all".

    Raises:
        ValueError: A run does not exist.
    """

    def __init__(self, store: Store, runs: Sequence[str]) -> None:
        self._store = store
        self._record_and_store_by_key: dict[str, tuple[TrialRecord, Store]] = {}
        # A trial's key in its own run, by its key here; only if they differ.
        self._original_key_by_key: dict[str, str] = {}
        self._reused_count_by_run: Counter[str] = Counter()  # number of reused trials, by the name of their run
        for other_store, records in _read_runs(store, runs):
            for record in records:
                if record.status in FINAL_STATUSES:
                    self._record_and_store_by_key.setdefault(record.key, (record, other_store))

    def announce(self, trial_count: int) -> None:
        """Print how many of the sweep's trials are reused, and from which runs."""
        no_runs_text = (
            f"none of the {len(self._record_and_store_by_key)} finished trials of other runs has these settings"
        )
        runs_text = ", ".join(self._reused_count_by_run) or no_runs_text
        print(f"reused {self._reused_count_by_run.total()} of {trial_count} trials ({runs_text})", flush=True)

    def reuse_search_trials(
        self, space: Space, resolve: Callable[[TrialConfig], TrialConfig], finished: Iterable[TrialRecord], seed: int
    ) -> list[TrialRecord]:
        """Reuse search trials of the space, at most as many as each cell still needs.

        Args:
            resolve: fills in the precision and the revisions of a configuration.
            finished: records that the run has already; they count towards the number of trials of their cells.
            seed: the seed of the space's search trials.

        Returns:
            The records of the reused trials, which have been copied into the sweep's store.
        """
        self._add_copies_with_present_folders([resolve(config) for config in space.all_sample_configs])
        trial_count_by_cell = Counter(record.cell for record in finished if record.phase == "search")
        reused_records = []
        records = [record for record, _ in self._record_and_store_by_key.values()]
        for record in sorted(records, key=lambda record: (record.started_at, record.key)):
            config = _config_of(record)
            if config is None or record.phase != "search" or config.seed != seed:
                continue
            for cell in space.cells:
                is_full = trial_count_by_cell[cell.name] >= (space.trials if cell.search else min(1, space.trials))
                if is_full or space.mismatch_reason(cell, config):
                    continue
                if resolve(space.config(cell, point_of(cell, config), seed=seed)).key == record.key:
                    reused_record = self.reuse_trial(record.key, cell.name, space.stratum(cell, config))
                    if reused_record is not None:
                        trial_count_by_cell[cell.name] += 1
                        reused_records.append(reused_record)
                    break
        return reused_records

    def _add_copies_with_present_folders(self, configs: Iterable[TrialConfig]) -> None:
        """Copy each record whose task or backbone has another folder in `configs`, and give the copy that folder.

        The copy is needed because a trial's key contains the folder's name and revision. The revision identifies the
        folder's content, so two folders with the same revision are the same task or backbone.
        """
        folder_by_revision = {
            (field, getattr(config, revision_field)): getattr(config, field)
            for config in configs
            for field, revision_field in _REVISION_FIELDS.items()
            if Path(getattr(config, field)).is_absolute()
        }
        for record, other_store in list(self._record_and_store_by_key.values()) if folder_by_revision else ():
            settings = dict(record.config)
            for field, revision_field in _REVISION_FIELDS.items():
                if Path(settings[field]).is_absolute():
                    settings[field] = folder_by_revision.get((field, settings.get(revision_field)), settings[field])
            key = key_of_values(settings)
            if key not in self._record_and_store_by_key:
                self._record_and_store_by_key[key] = (
                    dataclasses.replace(record, key=key, config=settings),
                    other_store,
                )
                self._original_key_by_key[key] = record.key

    @staticmethod
    def reuse_nothing(key: str, cell: str, stratum: str) -> None:
        """Take the place of `reuse_trial` where seeds are added until it is decided.

        A verdict must not rest on seeds whose results were known when margin and looks were chosen.
        """

    def reuse_trial(self, key: str, cell: str, stratum: str) -> TrialRecord | None:
        """Copy the finished trial of this key into the sweep's store, and return its record.

        Return None if no other run has finished the trial, or if the sweep's store has a record of it already.
        """
        record, other_store = self._record_and_store_by_key.get(key, (None, None))
        if record is None or other_store is None or self._store.read(key) is not None:
            return None
        provenance = {**record.provenance, "reused_from": other_store.run}
        record = dataclasses.replace(record, cell=cell, stratum=stratum, provenance=provenance)
        self._store.adopt(record, other_store, self._original_key_by_key.get(key))
        self._reused_count_by_run[other_store.run] += 1
        return record


def warm_start_records(store: Store, runs: Sequence[str]) -> list[TrialRecord]:
    """Return what a sampler can learn from other runs: the records of complete and of stopped search trials.

    Raises:
        ValueError: A run does not exist.
    """
    return [
        record
        for _, records in _read_runs(store, runs)
        for record in records
        if record.phase == "search" and record.status in ("complete", "stopped")
    ]


def can_warm_start(cell: Cell, record: TrialRecord, metric: str) -> bool:
    """Return whether the search of a cell can learn from a trial of another run.

    The trial must lie inside the cell's ranges and have the method, length and rank that the cell fixes. Its task and
    backbone do not matter. It must have been scored by the cell's `metric`, because other scores cannot be compared.
    """
    config = _config_of(record)
    if config is None or config.metric != metric:
        return False
    point = point_of(cell, config)
    fixed_shape = {name: cell.fixed[name] for name in ("method", "length", "rank") if name in cell.fixed}
    return (
        bool(point)
        and all(getattr(config, name) == value for name, value in fixed_shape.items())
        and all(value in cell.search[name] for name, value in point.items())
        and ("method" in fixed_shape or "method" in point)
    )


def _read_runs(store: Store, runs: Sequence[str]) -> Iterator[tuple[Store, list[TrialRecord]]]:
    """Yield the stores of other runs with their records.

    If `runs` contains "all", a run that this program cannot read is left out. A run that is named must be readable.
    """
    for run in _run_names(store, runs):
        try:
            other_store = Store(store.out, run)
            other_store.current_folders = store.current_folders
            records = other_store.readable_records()
        except ValueError as error:
            if EVERY_RUN not in runs:
                raise
            print(f"run {run} is left out: {to_one_line(error)}", flush=True)
        else:
            yield other_store, records


def _run_names(store: Store, runs: Sequence[str]) -> list[str]:
    """Return the names of the runs that `runs` lists, each once. "all" means every run except the store's own.

    Raises:
        ValueError: A run does not exist, or is the store's own.
    """
    results_folder = store.folder.parent
    if EVERY_RUN in runs:
        run_names = sorted(folder.name for folder in results_folder.glob("*") if (folder / "manifest.json").is_file())
        return [run for run in run_names if run != store.run]
    for run in runs:
        folder = Store(store.out, run).folder
        if not (folder / "manifest.json").is_file():
            raise ValueError(
                f"run {run!r} is not in {results_folder}: give the name of a folder there that holds a run"
            )
        if folder == store.folder:
            raise ValueError(f"run {run!r} is this run itself, which continues anyway: name another run")
    return list(dict.fromkeys(runs))


def _config_of(record: TrialRecord) -> TrialConfig | None:
    """Return a trial's configuration; None if its method or its task is not installed here."""
    try:
        return TrialConfig.from_dict(record.config)
    except ValueError:
        return None


def announce_warm_start(space: Space, records: Sequence[TrialRecord]) -> None:
    """Say from how many trials of other runs the search learns."""
    metrics = {config.metric for config in space.all_sample_configs}
    used_count = sum(record.metric in metrics for record in records)
    unused_count = len(records) - used_count
    note = f"; {unused_count} more cannot be used: they were selected by another metric" if unused_count else ""
    print(f"the search learns from {used_count} trial{'s' * (used_count != 1)} of other runs{note}", flush=True)
