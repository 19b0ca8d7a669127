"""Read a results store, in a folder or behind a URL: `<run>/manifest.json`, `trials/<key>.json`, `baselines.json`.

The JSON records are the truth; `trials.parquet` is derived from them and not read here.
A record that cannot be read is named and skipped, a manifest that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.folders import Folders
from analysis.noninferiority import MARGIN
from analysis.records import Trial, json_object, mapping, row
from analysis.runs import UNREADABLE, Baseline, PlannedCell, Run, is_file, load_baselines, load_run, parsed, why
from lopt.locations import Location, location, read_files

if TYPE_CHECKING:
    import pandas as pd

_Placed = TypeVar("_Placed", PlannedCell, Baseline)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Runs, pooled: each trial once, and what was found beside the trials that count."""

    runs: tuple[Run, ...]
    trials: tuple[Trial, ...]
    records: dict[str, dict[str, Any]]  # by key
    baselines: tuple[Baseline, ...]
    unreadable: tuple[str, ...]  # "name: why"
    superseded: int  # old failures, tried again since
    left_out: int  # trials that their run's space, which has changed, no longer has
    repeated: int  # records of a key that another file holds too, of this run or of another
    differing: int  # of these, those with other results than the one that counts
    margin: float  # of accuracy, within which a smaller prompt counts as good as the full one

    @property
    def frame(self) -> pd.DataFrame:
        """One row a trial, for a notebook."""
        import pandas as pd

        return pd.DataFrame([asdict(trial) for trial in self.trials], columns=list(Trial.__dataclass_fields__))


def load(paths: Sequence[Location], margin: float = MARGIN, folders: Folders | None = None) -> Results:
    """Read and pool runs; a key that several hold counts once, a finished record before a failed one.

    Args:
        margin: of accuracy, a fraction, within which a smaller prompt counts as good as the full one.
        folders: where folders of other results lay that these are set against.

    Raises:
        ReportError: a run whose manifest cannot be read. Records that cannot be are named in `unreadable`.
    """
    runs: list[Run] = []
    chosen: dict[str, Trial] = {}
    records: dict[str, dict[str, Any]] = {}
    baselines: dict[object, Baseline] = {}
    unreadable: list[str] = []
    superseded = repeated = differing = left_out = 0
    folders = folders or Folders()
    for path in paths:
        run = load_run(path)
        runs.append(run)
        unreadable += run.unreadable
        files = [file for file in (path / "trials").glob("*.json") if not file.name.startswith(".")]  # being written
        current = [file for file in files if ".failed-" not in file.name]
        superseded += len(files) - len(current)
        counted = [file for file in current if file.name.removesuffix(".json") not in run.left_out]
        left_out += len(current) - len(counted)
        for file, content in read_files(sorted(counted, key=lambda file: file.name)):
            try:
                if isinstance(content, OSError):
                    raise content
                record = json_object(parsed(content), "a record")
                record["config"] = folders.in_one_place(mapping(record, "config"), run.cells)
                trial = row(record, run.shown)
                trial = replace(trial, audited_at=run.audits.get(trial.key))
            except UNREADABLE as error:
                unreadable.append(f"{path.name}/trials/{file.name}: {why(error)}")
                continue
            held = chosen.get(trial.key)
            if held is not None:
                repeated += 1
                both_ran = "failed" not in (held.status, trial.status)
                differing += both_ran and _result(held) != _result(trial)
            if held is None or _counts_before(trial, held):
                chosen[trial.key], records[trial.key] = trial, record
        try:
            for baseline in load_baselines(path / "baselines.json"):
                baseline = _at_one_place(baseline, folders)
                baselines[baseline.backbone, baseline.task, baseline.test_split, baseline.test_n] = baseline
        except UNREADABLE as error:
            unreadable.append(f"{path.name}/baselines.json: {why(error)}")
    return Results(
        runs=tuple(replace(run, cells=tuple(_at_one_place(cell, folders) for cell in run.cells)) for run in runs),
        trials=tuple(chosen.values()),
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


def _counts_before(trial: Trial, held: Trial) -> bool:
    """Whether a record counts in place of an earlier one of its key: a finished one before a failed one, and of two
    with the same results the one that has its predictions."""
    if held.status == "failed" or trial.status == "failed":
        return held.status == "failed" and trial.status != "failed"
    files = [location(each.run) / "predictions" / f"{each.key}.parquet" for each in (trial, held)]
    return _result(trial) == _result(held) and trial.confirmed and is_file(files[0]) and not is_file(files[1])


def _at_one_place(of: _Placed, folders: Folders) -> _Placed:
    return replace(of, task=folders.of(of.task), backbone=folders.of(of.backbone))
