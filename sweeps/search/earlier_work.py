"""What earlier commands have left of a run, and which of it the space, which may have changed, can use."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lopt import methods
from lopt.config import TrialConfig, known_as
from lopt.errors import one_line
from lopt.records import TrialRecord
from sweeps.results.store import FINAL, Store
from sweeps.space import WORDS, Cell, Space, placeless

# Which trials a space has; all else is how one is run and judged.
_MAY_DIFFER = ("cells", "trials_per_cell", "confirm_seeds", "title", "sampler")


@dataclass(frozen=True, kw_only=True)
class EarlierWork:
    """What earlier commands have left of a run.

    Attributes:
        finished, failed: records of trials that the space has.
        changed: what of the space has changed since, in words.
        misfits: why other finished trials no longer count, with their number.
        moved: records of trials that are now of another cell. moves: from and to which cell, with their number.
        left_out: keys of trials that the space no longer has.
        former: options whose default has changed since the run began, with the value that its trials have.
    """

    finished: list[TrialRecord]
    failed: list[TrialRecord]
    changed: list[str]
    misfits: Counter[str]
    moved: list[TrialRecord]
    moves: Counter[str]
    left_out: list[str]
    former: dict[str, Any]

    def announce(self, run: str) -> None:
        """Says with what a run goes on, what of it no longer counts, and what counts in another cell."""
        if self.changed:
            print(f"the space has changed since run {run} began: {'; '.join(self.changed)}", flush=True)
        for reason, count in self.misfits.most_common():
            print(f"  {count} finished trial{'s' * (count > 1)} kept, but no longer counted: {reason}", flush=True)
        for cells, count in self.moves.most_common():
            trials = f"{count} trial{'s' * (count > 1)}"
            print(f"  {trials} now of another cell, which has their settings: {cells}", flush=True)
        if self.finished or self.failed:
            again = f"; {len(self.failed)} failed, tried again" if self.failed else ""
            print(f"continuing run {run}: {len(self.finished)} trials are finished{again}", flush=True)
        for name, value in self.former.items():
            print(
                f"run {run} began with {name} {value}, which was the default then, and keeps it: it is one draw for "
                "all seeds. --fresh or --name begins a run that draws it anew with each seed",
                flush=True,
            )


def read_earlier_work(store: Store, space: Space) -> EarlierWork:
    """What earlier commands have left of the store's run.

    Raises:
        ValueError: it cannot go on with this space (see `changes`, `check_moved`).
    """
    store.know(space.all_examples)
    changed = changes(store, space)
    records = store.records()
    check_moved(store, records)
    finished = [record for record in records if record.status in FINAL]
    failed = [record for record in records if record.status == "failed"]
    misfits = Counter[str]()
    if changed or store.left_out():
        finished, misfits = fitting(space, finished)
        failed, _ = fitting(space, failed)
    kept = [*finished, *failed]
    cells = {record.key: record.cell for record in records}
    moved = [record for record in kept if record.cell != cells[record.key]]
    begun = (config.to_dict() for config, _ in store.interrupted())
    return EarlierWork(
        finished=finished,
        failed=failed,
        changed=changed,
        misfits=misfits,
        moved=moved,
        moves=Counter(f"{cells[record.key]} → {record.cell}" for record in moved),
        left_out=sorted(cells.keys() - {record.key for record in kept}),
        former=former_defaults(space, [*(record.config for record in kept), *begun]),
    )


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
    described = manifest.get("space", {}), json.loads(json.dumps(space.to_dict()))
    old, new = ({**WORDS, **placeless(one)} for one in described)
    changed = _differences(old, new)
    same_rules = all(old.get(name) == new[name] for name in new if name not in _MAY_DIFFER)
    if same_rules and (changed or _same_trials(store, space, old, new)):
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
    differences = []
    before, after = {**old, **old.get("base", {})}, {**new, **new.get("base", {})}
    for name in after:
        if name not in ("base", "cells", "confirm_seeds", "title") and before.get(name) != after[name]:
            differences.append(f"{name} {before.get(name)} → {after[name]}")
    cells = [{c.get("name"): c for c in space.get("cells", [])} for space in (old, new)]
    gone, come = ([name for name in cells[a] if name not in cells[1 - a]] for a in (0, 1))
    differences += [f"{word} {', '.join(map(str, names[:3]))}{', …' * (len(names) > 3)}" for word, names in
              (("without cells", gone), ("new cells", come)) if names]  # fmt: skip
    for name in [name for name in cells[1] if name in cells[0]]:
        ranges = [cells[side][name].get("search", {}) for side in (0, 1)]
        differences += [f"{name}: {n} {ranges[0].get(n)} → {r}" for n, r in ranges[1].items() if ranges[0].get(n) != r]
        if cells[0][name].get("first") != cells[1][name].get("first"):
            differences.append(f"{name}: other first points")
    return [*differences[:4], *([f"{len(differences) - 4} more"] if len(differences) > 4 else [])]
