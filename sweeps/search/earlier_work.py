"""What earlier commands have left of a run, and which of its trials still fit the space.

A user may change the space between two commands.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lopt import methods
from lopt.config import TrialConfig, name_without_path
from lopt.errors import to_one_line
from lopt.records import TrialRecord
from sweeps.results.store import FINAL_STATUSES, Store
from sweeps.space import PLUGIN_DEFAULTS, Cell, Space, without_paths

# These may change between the commands of a run, because they only decide which trials there are. All other settings of
# a space decide how a trial is trained and judged.
_CHANGEABLE_SETTINGS = ("cells", "trials_per_cell", "confirm_seeds", "title", "sampler")


@dataclass(frozen=True, kw_only=True)
class EarlierWork:
    """What earlier commands have left of a run.

    Attributes:
        finished: records of the finished trials that fit the space.
        failed: records of the failed trials that fit the space.
        space_changes: what has changed in the space since the run began, in words.
        misfit_count_by_reason: the number of finished trials that no longer count, by the reason.
        moved_records: records of trials that now belong to another cell.
        move_count_by_cells: the number of these trials, by "old cell → new cell".
        left_out_keys: keys of trials that the space no longer has.
        former_default_by_option: for each option whose default has changed since the run began, the former
            default, which the run's trials have.
    """

    finished: list[TrialRecord]
    failed: list[TrialRecord]
    space_changes: list[str]
    misfit_count_by_reason: Counter[str]
    moved_records: list[TrialRecord]
    move_count_by_cells: Counter[str]
    left_out_keys: list[str]
    former_default_by_option: dict[str, Any]

    def announce(self, run: str) -> None:
        """Print which trials the run continues with, which no longer count, and which now count in another cell."""
        if self.space_changes:
            print(f"the space has changed since run {run} began: {'; '.join(self.space_changes)}", flush=True)
        for reason, count in self.misfit_count_by_reason.most_common():
            trials_text = f"{count} finished trials are" if count > 1 else "1 finished trial is"
            print(f"  {trials_text} kept, but no longer counted: {reason}", flush=True)
        for cells_text, count in self.move_count_by_cells.most_common():
            trials_text = f"{count} trials now belong" if count > 1 else "1 trial now belongs"
            print(f"  {trials_text} to another cell, which has the same settings: {cells_text}", flush=True)
        if self.finished or self.failed:
            failed_text = f"; {len(self.failed)} failed and will be tried again" if self.failed else ""
            trials_text = "1 trial is" if len(self.finished) == 1 else f"{len(self.finished)} trials are"
            print(f"continuing run {run}: {trials_text} finished{failed_text}", flush=True)
        for option, value in self.former_default_by_option.items():
            print(
                f"run {run} began with {option} {value}, which was the default then, and keeps it: all seeds share one "
                "random draw. To make a new draw for each seed, start a new run with --fresh or --name",
                flush=True,
            )


def read_earlier_work(store: Store, space: Space) -> EarlierWork:
    """Return what earlier commands have left of the store's run.

    Raises:
        ValueError: The run cannot continue with this space (see `space_changes` and `check_moved_folders`).
    """
    store.remember_folders(space.all_sample_configs)
    changes = space_changes(store, space)
    records = store.records()
    check_moved_folders(store, records)
    finished_records = [record for record in records if record.status in FINAL_STATUSES]
    failed_records = [record for record in records if record.status == "failed"]
    misfit_count_by_reason = Counter[str]()
    if changes or store.left_out_keys():
        finished_records, misfit_count_by_reason = divide_by_fit(space, finished_records)
        failed_records, _ = divide_by_fit(space, failed_records)
    fitting_records = [*finished_records, *failed_records]
    former_cell_by_key = {record.key: record.cell for record in records}
    moved_records = [record for record in fitting_records if record.cell != former_cell_by_key[record.key]]
    interrupted_configs = (config.to_dict() for config, _ in store.interrupted_trials())
    configs = [*(record.config for record in fitting_records), *interrupted_configs]
    return EarlierWork(
        finished=finished_records,
        failed=failed_records,
        space_changes=changes,
        misfit_count_by_reason=misfit_count_by_reason,
        moved_records=moved_records,
        move_count_by_cells=Counter(f"{former_cell_by_key[record.key]} → {record.cell}" for record in moved_records),
        left_out_keys=sorted(former_cell_by_key.keys() - {record.key for record in fitting_records}),
        former_default_by_option=former_defaults(space, configs),
    )


def space_changes(store: Store, space: Space) -> list[str]:
    """Return what has changed in the space since the run began, such as cells, ranges or the number of trials per cell.

    Raises:
        ValueError: Other settings have changed, so the finished trials would not be comparable with new trials. Or the
            run has trials but no manifest, so its settings are unknown.
    """
    manifest = store.manifest()
    if manifest is None and store.contains_run():
        raise ValueError(
            f"run {store.run!r} holds trials, but its manifest.json, which has their settings, is missing: put it "
            "back, or give --name for a new run, or --fresh to start this run over"
        )
    if manifest is None or manifest.get("identity") == space.identity():
        return []
    space_dicts = manifest.get("space", {}), json.loads(json.dumps(space.to_dict()))
    old_settings, new_settings = ({**PLUGIN_DEFAULTS, **without_paths(space_dict)} for space_dict in space_dicts)
    changes = _differences(old_settings, new_settings)
    fixed_names = [name for name in new_settings if name not in _CHANGEABLE_SETTINGS]
    is_comparable = all(old_settings.get(name) == new_settings[name] for name in fixed_names)
    if is_comparable and (changes or _has_same_trials(store, space, old_settings, new_settings)):
        return changes
    raise ValueError(
        f"run {store.run!r} belongs to space {old_settings.get('name')}, but with other settings "
        f"({'; '.join(changes) or 'they have changed'}): give --name for a new run, --fresh to start this one over, or "
        "the settings it began with"
    )


def check_moved_folders(store: Store, records: Iterable[TrialRecord]) -> None:
    """Check that folders which have moved since the run began hold the same content as before.

    Raises:
        ValueError: A folder holds other rows or other weights, or cannot be read.
    """
    from lopt import backbones, data

    manifest_text = json.dumps((store.manifest() or {}).get("space", {}), ensure_ascii=False)
    records = list(records)
    for (field, _), folder in store.current_folders.items():
        if re.search(re.escape(folder) + r"(?=[\"',]|$)", manifest_text):
            continue  # the folder has not moved
        content, read_revision = (
            ("data", data.data_revision) if field == "task" else ("model", backbones.model_revision)
        )
        configs = [record.config for record in records if record.config[field] == folder]
        old_revisions = {config.get(f"{content}_revision") for config in configs}
        if old_revisions and (new_revision := read_revision(folder)) not in old_revisions:
            raise ValueError(
                f"run {store.run!r} was trained on {content} revision {', '.join(map(str, old_revisions))}, but "
                f"{folder} holds revision {new_revision}: give --name for a new run, or the folder that the "
                "run began with"
            )


def divide_by_fit(space: Space, records: Iterable[TrialRecord]) -> tuple[list[TrialRecord], Counter[str]]:
    """Divide the records of a run into those that fit the space as it is now, and the others.

    If a trial no longer fits its own cell but fits another one, it moves there. The other one may be the same cell
    under a new name.

    Returns:
        The records that fit, with their present cell and stratum; and the number of other records, by the reason.
    """
    cell_by_name = {cell.name: cell for cell in space.cells}
    fitting_records, misfit_count_by_reason = [], Counter[str]()
    for record in records:
        old_cell = cell_by_name.get(record.cell or "")
        reason = _misfit_reason(space, old_cell, record) if old_cell else "is no longer in the space"
        new_cells = (cell for cell in cell_by_name.values() if not _misfit_reason(space, cell, record))
        if not reason:
            fitting_records.append(record)
        elif new_cell := next(new_cells, None):
            stratum = space.stratum(new_cell, TrialConfig.from_dict(record.config))
            fitting_records.append(dataclasses.replace(record, cell=new_cell.name, stratum=stratum))
        else:
            misfit_count_by_reason[f"{old_cell.name}: {reason}" if old_cell else f"cell {record.cell} {reason}"] += 1
    return fitting_records, misfit_count_by_reason


def _misfit_reason(space: Space, cell: Cell, record: TrialRecord) -> str:
    """Return why a record's trial does not belong to a cell; an empty text if it does."""
    try:
        return space.mismatch_reason(cell, TrialConfig.from_dict(record.config))
    except ValueError as error:  # the method or the task is not installed here
        return to_one_line(error)


def former_defaults(space: Space, configs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return, for each option whose default has changed since the run began, the value that the run's trials have.

    Options that the space itself sets are left out.

    Args:
        configs: configurations of the run's trials.
    """
    names_in_space = {
        name.rpartition(".")[2] for cell in space.cells for name in {**space.base, **cell.fixed, **cell.search}
    }
    names_in_space |= {*space.base.get("options", {})}
    return {
        option: former_default
        for config in configs
        if config["method"] in methods.names()
        for option, former_default in methods.get(config["method"]).FORMER_DEFAULTS.items()
        if option not in names_in_space and config["options"].get(option) == former_default
    }


def _has_same_trials(store: Store, space: Space, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether only paths of folders have changed, but no cell, and no task's template or label words."""
    old_config_by_cell = {cell.get("name"): cell.get("config") for cell in old.get("cells", [])}
    if any(old_config_by_cell.get(cell["name"]) != cell["config"] for cell in new["cells"]):
        return False
    new_tasks = {
        (name_without_path(config.task), config.template, config.label_words) for config in space.all_sample_configs
    }
    return all(
        (name_without_path(config["task"]), config["template"], tuple(config["label_words"])) in new_tasks
        for config in (record.config for record in store.records())
    )


def _differences(old_space: Mapping[str, Any], new_space: Mapping[str, Any]) -> list[str]:
    """Return at most four differences between two described spaces, in words, and the number of further differences."""
    differences = []
    old_settings, new_settings = ({**space, **space.get("base", {})} for space in (old_space, new_space))
    for name in new_settings:
        if name not in ("base", "cells", "confirm_seeds", "title") and old_settings.get(name) != new_settings[name]:
            differences.append(f"{name} {old_settings.get(name)} → {new_settings[name]}")
    old_cells, new_cells = (
        {cell.get("name"): cell for cell in space.get("cells", [])} for space in (old_space, new_space)
    )
    removed_cells = [name for name in old_cells if name not in new_cells]
    added_cells = [name for name in new_cells if name not in old_cells]
    for label, cell_names in (("removed cells", removed_cells), ("new cells", added_cells)):
        if cell_names:
            differences.append(f"{label} {', '.join(map(str, cell_names[:3]))}{', …' * (len(cell_names) > 3)}")
    for name in [name for name in new_cells if name in old_cells]:
        old_ranges, new_ranges = (cells[name].get("search", {}) for cells in (old_cells, new_cells))
        for field, new_range in new_ranges.items():
            if old_ranges.get(field) != new_range:
                differences.append(f"{name}: {field} {old_ranges.get(field)} → {new_range}")
        if old_cells[name].get("first") != new_cells[name].get("first"):
            differences.append(f"{name}: other settings to try first (`first`)")
    return [*differences[:4], *([f"{len(differences) - 4} more"] if len(differences) > 4 else [])]
