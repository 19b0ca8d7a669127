"""Read a results store, in a folder or behind a URL: `<run>/manifest.json`, `trials/<key>.json`, `baselines.json`.

The JSON records are the source of truth. `trials.parquet` is derived from them and is not read here.
A record that cannot be read is named and skipped. A manifest that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.folders import Folders
from analysis.noninferiority import MARGIN
from analysis.records import Trial, get_object, json_object, trial_from_record
from analysis.runs import (
    UNREADABLE,
    Baseline,
    PlannedCell,
    Run,
    error_text,
    is_file,
    load_baselines,
    load_run,
    parse_json,
)
from lopt.locations import Location, location, read_files

if TYPE_CHECKING:
    import pandas as pd

_InFolders = TypeVar("_InFolders", PlannedCell, Baseline)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Pooled runs.

    Attributes:
        trials: each trial once.
        records: the trials' records, by key.
        unreadable: files that cannot be read, as "name: why".
        superseded: number of old failures that have been tried again since.
        left_out: number of trials that are not in their run's space any more, because the space has changed.
        repeated: number of records whose key another file has too, in the same run or in another.
        differing: number of repeated records whose results differ from those that count.
        margin: difference in accuracy (a fraction) within which a smaller prompt is as good as the full one.
    """

    runs: tuple[Run, ...]
    trials: tuple[Trial, ...]
    records: dict[str, dict[str, Any]]
    baselines: tuple[Baseline, ...]
    unreadable: tuple[str, ...]
    superseded: int
    left_out: int
    repeated: int
    differing: int
    margin: float

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each trial, for use in a notebook."""
        import pandas as pd

        return pd.DataFrame([asdict(trial) for trial in self.trials], columns=list(Trial.__dataclass_fields__))


def load(paths: Sequence[Location], margin: float = MARGIN, folders: Folders | None = None) -> Results:
    """Read and pool runs. A key that several files have counts once; a finished record counts before a failed one.

    Args:
        paths: the folders or URLs of the runs.
        margin: difference in accuracy (a fraction) within which a smaller prompt is as good as the full one.
        folders: the folders of other results, if these results will be compared with them.

    Raises:
        ReportError: a run's manifest cannot be read. Records that cannot be read are named in `unreadable`.
    """
    runs: list[Run] = []
    trials: dict[str, Trial] = {}
    records: dict[str, dict[str, Any]] = {}
    baselines: dict[object, Baseline] = {}
    unreadable: list[str] = []
    superseded = repeated = differing = left_out = 0
    folders = folders or Folders()
    for path in paths:
        run = load_run(path)
        runs.append(run)
        unreadable += run.unreadable
        # A name that begins with a dot is that of a file being written.
        files = [file for file in (path / "trials").glob("*.json") if not file.name.startswith(".")]
        current_files = [file for file in files if ".failed-" not in file.name]
        superseded += len(files) - len(current_files)
        kept_files = [file for file in current_files if file.name.removesuffix(".json") not in run.left_out]
        left_out += len(current_files) - len(kept_files)
        for file, content in read_files(sorted(kept_files, key=lambda file: file.name)):
            try:
                if isinstance(content, OSError):
                    raise content
                record = json_object(parse_json(content), "a record")
                record["config"] = folders.with_canonical_paths(get_object(record, "config"), run.cells)
                trial = trial_from_record(record, run.path_text)
                trial = replace(trial, audited_at=run.audits.get(trial.key))
            except UNREADABLE as error:
                unreadable.append(f"{path.name}/trials/{file.name}: {error_text(error)}")
                continue
            earlier = trials.get(trial.key)
            if earlier is not None:
                repeated += 1
                both_finished = "failed" not in (earlier.status, trial.status)
                differing += both_finished and _result(earlier) != _result(trial)
            if earlier is None or _replaces(trial, earlier):
                trials[trial.key], records[trial.key] = trial, record
        try:
            for baseline in load_baselines(path / "baselines.json"):
                baseline = _with_canonical_paths(baseline, folders)
                baselines[baseline.backbone, baseline.task, baseline.test_split, baseline.test_n] = baseline
        except UNREADABLE as error:
            unreadable.append(f"{path.name}/baselines.json: {error_text(error)}")
    cells_of_runs = [tuple(_with_canonical_paths(cell, folders) for cell in run.cells) for run in runs]
    return Results(
        runs=tuple(replace(run, cells=cells) for run, cells in zip(runs, cells_of_runs, strict=True)),
        trials=tuple(trials.values()),
        records=records,
        baselines=tuple(baselines.values()),
        unreadable=tuple(unreadable),
        superseded=superseded,
        left_out=left_out,
        repeated=repeated,
        differing=differing,
        margin=margin,
    )


def _result(trial: Trial) -> tuple[float | None, float | None]:
    return trial.test_accuracy, trial.selection_score


def _replaces(trial: Trial, earlier: Trial) -> bool:
    """Return whether the trial counts in place of an earlier one with the same key.

    A finished trial replaces a failed one. If both finished with the same results, one with predictions replaces one
    without.
    """
    if earlier.status == "failed" or trial.status == "failed":
        return earlier.status == "failed" and trial.status != "failed"
    same_result = _result(trial) == _result(earlier)
    return same_result and trial.confirmed and _has_predictions(trial) and not _has_predictions(earlier)


def _has_predictions(trial: Trial) -> bool:
    return is_file(location(trial.run) / "predictions" / f"{trial.key}.parquet")


def _with_canonical_paths(item: _InFolders, folders: Folders) -> _InFolders:
    return replace(item, task=folders.canonical_path(item.task), backbone=folders.canonical_path(item.backbone))
