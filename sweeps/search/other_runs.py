"""Finished trials of other runs: taken instead of run again, or learned from."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lopt.config import TrialConfig, key_of
from lopt.errors import one_line
from lopt.records import TrialRecord
from sweeps.results.store import FINAL, Store
from sweeps.space import Cell, Space, point_of

_REVISIONS = {"task": "data_revision", "backbone": "model_revision"}
EVERY_RUN = "all"


class OtherRuns:
    """Finished trials of other runs, for a sweep that would otherwise run them again.

    Args:
        store: of the sweep; what is taken is copied there.
        runs: names of runs beside it, or "all".

    Raises:
        ValueError: a run that does not exist.
    """

    def __init__(self, store: Store, runs: Sequence[str]) -> None:
        self._store = store
        self._records: dict[str, tuple[TrialRecord, Store]] = {}
        self._keys_there: dict[str, str] = {}  # of trials that have another key in their own run
        self.taken: Counter[str] = Counter()  # by run
        for other, records in _read(store, runs):
            for record in records:
                if record.status in FINAL:
                    self._records.setdefault(record.key, (record, other))

    def announce(self, total: int) -> None:
        """Says how many of the sweep's trials have been taken, and from where."""
        runs = ", ".join(self.taken) or f"none of the {len(self._records)} found there fits"
        print(f"reused {self.taken.total()} of {total} trials ({runs})", flush=True)

    def search_records(
        self, space: Space, resolve: Callable[[TrialConfig], TrialConfig], have: Iterable[TrialRecord], seed: int
    ) -> list[TrialRecord]:
        """Takes search trials of the space, up to its number a cell; those it has already are counted."""
        self._rename([resolve(config) for config in space.all_examples])
        counts = Counter(record.cell for record in have if record.phase == "search")
        records = []
        for record, _ in sorted(self._records.values(), key=lambda pair: (pair[0].started_at, pair[0].key)):
            config = _config_of(record)
            if config is None or record.phase != "search" or config.seed != seed:
                continue
            for cell in space.cells:
                if counts[cell.name] >= (space.trials if cell.search else 1) or space.misfit(cell, config):
                    continue
                if resolve(space.config(cell, point_of(cell, config), seed=seed)).key == record.key:
                    taken = self.take(record.key, cell.name, space.stratum(cell, config))
                    if taken is not None:
                        counts[cell.name] += 1
                        records.append(taken)
                    break
        return records

    def _rename(self, configs: Iterable[TrialConfig]) -> None:
        """Adds trials with the same folders under other names, as they would be with these. A key has the name of a
        folder, and the revision, which says what is in it."""
        paths = {
            (field, getattr(config, revision)): getattr(config, field)
            for config in configs
            for field, revision in _REVISIONS.items()
            if Path(getattr(config, field)).is_absolute()
        }
        for record, other in list(self._records.values()) if paths else ():
            values = dict(record.config)
            for field, revision in _REVISIONS.items():
                if Path(values[field]).is_absolute():
                    values[field] = paths.get((field, values.get(revision)), values[field])
            key = key_of(values)
            if key not in self._records:
                self._records[key] = (dataclasses.replace(record, key=key, config=values), other)
                self._keys_there[key] = record.key

    def take(self, key: str, cell: str, stratum: str) -> TrialRecord | None:
        """The finished trial of that key, now the store's own; None when there is none."""
        record, other = self._records.get(key, (None, None))
        if record is None or other is None or self._store.read(key) is not None:
            return None
        provenance = {**record.provenance, "reused_from": other.run}
        record = dataclasses.replace(record, cell=cell, stratum=stratum, provenance=provenance)
        self._store.adopt(record, other, self._keys_there.get(key))
        self.taken[other.run] += 1
        return record


def warm_start_records(store: Store, runs: Sequence[str]) -> list[TrialRecord]:
    """What a searcher can learn from other runs: their search trials that have an accuracy.

    Raises:
        ValueError: a run that does not exist.
    """
    return [
        record
        for _, records in _read(store, runs)
        for record in records
        if record.phase == "search" and record.status in ("complete", "stopped")
    ]


def can_warm_start(cell: Cell, record: TrialRecord, metric: str) -> bool:
    """Whether a trial, of whatever task and backbone, has the method and shape of a cell, inside its ranges, and was
    scored by the cell's metric: scores by another one cannot be compared."""
    config = _config_of(record)
    if config is None or config.metric != metric:
        return False
    point = point_of(cell, config)
    shape = {name: cell.fixed[name] for name in ("method", "length", "rank") if name in cell.fixed}
    return (
        bool(point)
        and all(getattr(config, name) == value for name, value in shape.items())
        and all(value in cell.search[name] for name, value in point.items())
        and ("method" in shape or "method" in point)
    )


def _read(store: Store, runs: Sequence[str]) -> Iterator[tuple[Store, list[TrialRecord]]]:
    """Other runs with their records. One that is not named, and that this program cannot read, is left out."""
    for run in _names(store, runs):
        try:
            other = Store(store.out, run)
            other.places = store.places
            records = other.peek()
        except ValueError as error:
            if EVERY_RUN not in runs:
                raise
            print(f"run {run} is left out: {one_line(error)}", flush=True)
        else:
            yield other, records


def _names(store: Store, runs: Sequence[str]) -> list[str]:
    out = store.folder.parent
    if EVERY_RUN in runs:
        names = sorted(folder.name for folder in out.glob("*") if (folder / "manifest.json").is_file())
        return [run for run in names if run != store.run]
    for run in runs:
        other = Store(store.out, run)
        if not (other.folder / "manifest.json").is_file():
            raise ValueError(f"run {run!r} is not in {out}: give the name of a folder there that holds a run")
        if other.folder == store.folder:
            raise ValueError(f"run {run!r} is the run itself, which continues anyway: name another one")
    return list(dict.fromkeys(runs))


def _config_of(record: TrialRecord) -> TrialConfig | None:
    """A trial's configuration; None where this program cannot run it, for its method or task is not here."""
    try:
        return TrialConfig.from_dict(record.config)
    except ValueError:
        return None
