"""What earlier commands and other runs have left, and which of it a space can use."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopt import methods
from lopt.config import TrialConfig, key_of, known_as
from lopt.errors import one_line
from lopt.records import TrialRecord
from sweeps.space import Cell, Space, placeless, point_of
from sweeps.store import FINAL, Store

_REVISIONS = {"task": "data_revision", "backbone": "model_revision"}
EVERY_RUN = "all"


def changes(store: Store, space: Space) -> list[str]:
    """What of the space has changed since the run began and may: its cells, their ranges, trials a cell.

    Raises:
        ValueError: other settings have changed, under which the finished trials would not be comparable; or they are
            not known, for trials are there and the manifest is not.
    """
    manifest = store.manifest()
    if manifest is None and store.holds_a_run():
        raise ValueError(
            f"run {store.run!r} holds trials, but its manifest.json is gone, which says under what settings they were "
            "made: put it back, or give --name for a new run, --fresh to begin this one anew"
        )
    if manifest is None or manifest.get("identity") == space.identity():
        return []
    old, new = (placeless(each) for each in (manifest.get("space", {}), json.loads(json.dumps(space.to_dict()))))
    changed = _differences(old, new)
    if _same_rules(old, new) and (changed or _same_trials(store, space, old, new)):
        return changed
    raise ValueError(
        f"run {store.run!r} holds space {old.get('name')} with other settings ({'; '.join(changed) or 'changed'}): "
        "give --name for a new run, --fresh to begin this one anew, or the settings it began with"
    )


def check_moved(store: Store, records: Iterable[TrialRecord]) -> None:
    """Sees that folders which have moved since the run began hold what they held.

    Raises:
        ValueError: other rows, or other weights; or they cannot be read.
    """
    from lopt import backbones, data

    began_with = json.dumps((store.manifest() or {}).get("space", {}), ensure_ascii=False)
    used = list(records)
    for (field, _), folder in store.places.items():
        if re.search(re.escape(folder) + r"(?=[\"',]|$)", began_with):
            continue
        name, revision = {"task": ("data", data.data_revision), "backbone": ("model", backbones.model_revision)}[field]
        before = {record.config.get(f"{name}_revision") for record in used if record.config[field] == folder}
        if before and (now := revision(folder)) not in before:
            raise ValueError(
                f"run {store.run!r} holds trials of {name} revision {', '.join(map(str, before))}; that of {folder} is "
                f"{now}: give --name for a new run, or what it began with"
            )


def fitting(space: Space, records: Iterable[TrialRecord]) -> tuple[list[TrialRecord], Counter[str]]:
    """Records of one run under a space that may have changed since: those of its trials, and why the others are none,
    counted. A trial that its cell no longer has, and another cell has, is that one's: cells may have other names."""
    cells = {cell.name: cell for cell in space.cells}
    fit, why = [], Counter[str]()
    for record in records:
        cell = cells.get(record.cell or "")
        misfit = _misfit(space, cell, record) if cell else "is no longer there"
        if not misfit:
            fit.append(record)
        elif other := next((each for each in cells.values() if not _misfit(space, each, record)), None):
            stratum = space.stratum(other, TrialConfig.from_dict(record.config))
            fit.append(dataclasses.replace(record, cell=other.name, stratum=stratum))
        else:
            why[f"{cell.name}: {misfit}" if cell else f"cell {record.cell} {misfit}"] += 1
    return fit, why


def _misfit(space: Space, cell: Cell, record: TrialRecord) -> str | None:
    try:
        return space.misfit(cell, TrialConfig.from_dict(record.config))
    except ValueError as error:  # of a method or a task that is not here
        return one_line(error)


def former_defaults(space: Space, configs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Options whose default has changed since the run began, with the value that its trials have.

    configs: of the run's trials. An option that the space gives is not among them.
    """
    named = {name.rpartition(".")[2] for cell in space.cells for name in {**space.base, **cell.fixed, **cell.search}}
    named |= {*space.base.get("options", {})}
    return {
        name: former
        for config in configs
        if config["method"] in methods.names()
        for name, former in methods.get(config["method"]).FORMER_DEFAULTS.items()
        if name not in named and config["options"].get(name) == former
    }


def _config_of(record: TrialRecord) -> TrialConfig | None:
    """A trial's configuration; None where this program cannot run it, for its method or task is not here."""
    try:
        return TrialConfig.from_dict(record.config)
    except ValueError:
        return None


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

    def __len__(self) -> int:
        return len(self._records)

    def search_records(
        self, space: Space, settle: Callable[[TrialConfig], TrialConfig], have: Iterable[TrialRecord], seed: int
    ) -> list[TrialRecord]:
        """Takes search trials of the space, up to its number a cell; those it has already are counted."""
        self._rename([settle(config) for config in space.all_examples])
        counts = Counter(record.cell for record in have if record.phase == "search")
        found = []
        for record, _ in sorted(self._records.values(), key=lambda pair: (pair[0].started_at, pair[0].key)):
            config = _config_of(record)
            if config is None or record.phase != "search" or config.seed != seed:
                continue
            for cell in space.cells:
                wanted = counts[cell.name] < (space.trials if cell.search else 1)
                if (
                    wanted
                    and not space.misfit(cell, config)
                    and _of_cell(space, cell, config, settle).key == record.key
                ):
                    taken = self.take(record.key, cell.name, space.stratum(cell, config))
                    if taken is not None:
                        counts[cell.name] += 1
                        found.append(taken)
                    break
        return found

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
        made = {**record.provenance, "reused_from": other.run}
        record = dataclasses.replace(record, cell=cell, stratum=stratum, provenance=made)
        self._store.adopt(record, other, self._keys_there.get(key))
        self.taken[other.run] += 1
        return record


def lessons(store: Store, runs: Sequence[str]) -> list[TrialRecord]:
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


def teaches(cell: Cell, record: TrialRecord, metric: str) -> bool:
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


def _of_cell(
    space: Space, cell: Cell, config: TrialConfig, settle: Callable[[TrialConfig], TrialConfig]
) -> TrialConfig:
    return settle(space.config(cell, point_of(cell, config), seed=config.seed))


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
        found = sorted(folder.name for folder in out.glob("*") if (folder / "manifest.json").is_file())
        return [run for run in found if run != store.run]
    for run in runs:
        other = Store(store.out, run)
        if not (other.folder / "manifest.json").is_file():
            raise ValueError(f"run {run!r} is not in {out}: give the name of a folder there that holds a run")
        if other.folder == store.folder:
            raise ValueError(f"run {run!r} is the run itself, which continues anyway: name another one")
    return list(dict.fromkeys(runs))


def _same_rules(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two spaces differ only in which trials they have, not in how one is run and judged."""
    return all(old.get(n) == new[n] for n in new if n not in ("cells", "trials_per_cell", "confirm_seeds", "title"))


def _same_trials(store: Store, space: Space, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether nothing but the place of a folder has changed, of what the spaces say and of what the folder says."""
    before = {cell.get("name"): cell.get("config") for cell in old.get("cells", [])}
    if any(before.get(cell["name"]) != cell["config"] for cell in new["cells"]):
        return False
    said = {(known_as(e.task), e.template, e.label_words) for e in space.all_examples}
    return all(
        (known_as(c["task"]), c["template"], tuple(c["label_words"])) in said
        for c in (record.config for record in store.records())
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two spaces, in words; four of it."""
    found = []
    before, after = {**old, **old.get("base", {})}, {**new, **new.get("base", {})}
    for name in after:
        if name not in ("base", "cells", "confirm_seeds", "title") and before.get(name) != after[name]:
            found.append(f"{name} {before.get(name)} → {after[name]}")
    cells = [{c.get("name"): c for c in space.get("cells", [])} for space in (old, new)]
    gone, come = ([name for name in cells[a] if name not in cells[1 - a]] for a in (0, 1))
    found += [f"{word} {', '.join(map(str, names[:3]))}{', …' * (len(names) > 3)}" for word, names in
              (("without cells", gone), ("new cells", come)) if names]  # fmt: skip
    for name in [name for name in cells[1] if name in cells[0]]:
        ranges = [cells[side][name].get("search", {}) for side in (0, 1)]
        found += [f"{name}: {n} {ranges[0].get(n)} → {r}" for n, r in ranges[1].items() if ranges[0].get(n) != r]
        if cells[0][name].get("first") != cells[1][name].get("first"):
            found.append(f"{name}: other first points")
    return [*found[:4], *([f"{len(found) - 4} more"] if len(found) > 4 else [])]


def announce(
    run: str,
    finished: list[TrialRecord],
    failed: list[TrialRecord],
    changed: list[str],
    misfits: Counter[str],
    moved: Counter[str],
    former: Mapping[str, Any],
) -> None:
    """Says with what a run goes on, what of it no longer counts, and what counts in another cell (as in "a → b")."""
    if changed:
        print(f"the space has changed since run {run} began: {'; '.join(changed)}", flush=True)
    for reason, count in misfits.most_common():
        print(f"  {count} finished trial{'s' * (count > 1)} kept, but no longer counted: {reason}", flush=True)
    for cells, count in moved.most_common():
        print(f"  {count} trial{'s' * (count > 1)} now of another cell, which has their settings: {cells}", flush=True)
    if finished or failed:
        again = f"; {len(failed)} failed, tried again" if failed else ""
        print(f"continuing run {run}: {len(finished)} trials are finished{again}", flush=True)
    for name, value in former.items():
        print(
            f"run {run} began with {name} {value}, which was the default then, and keeps it: it is one draw for all "
            "seeds. --fresh or --name begins a run that draws it anew with each seed",
            flush=True,
        )
