"""Read a results store, in a folder or behind a URL: `<run>/manifest.json`, `trials/<key>.json`, `baselines.json`.

Only the JSON records count. `trials.parquet` is made from them and is not read here.
A record that cannot be read is skipped, and its file is named. A manifest that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.folders import Folders
from analysis.group_sequential import SequentialDesign
from analysis.json_fields import get_object, json_object
from analysis.noninferiority import DEFAULT_MARGIN
from analysis.records import Trial, trial_from_record
from analysis.runs import (
    READ_ERRORS,
    Baseline,
    PlannedCell,
    Run,
    error_text,
    is_file,
    load_baselines,
    load_run,
    parse_json,
)
from lopt.locations import Location, read_files, to_location
from lopt.migrations import LATER_SETTINGS

if TYPE_CHECKING:
    import pandas as pd

_CellOrBaseline = TypeVar("_CellOrBaseline", PlannedCell, Baseline)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Pooled runs.

    Attributes:
        trials: all trials, each of them once.
        records: the records of these trials, by key.
        unreadable_files: files that cannot be read, each as "name: reason".
        superseded_count: number of old failures that have been tried again since.
        left_out_count: number of trials that do not fit their run's space any more, because the space has changed.
        repeated_count: number of records whose key an earlier record of any run has as well.
        differing_count: number of repeated records whose results differ from those of the earlier record.
        margin: difference in accuracy (a fraction) within which a smaller cell is as good as the reference.
        declared_margins: the margins that the runs' spaces declare or once declared, each of them once. Runs of earlier
            versions have none.
    """

    runs: tuple[Run, ...]
    trials: tuple[Trial, ...]
    records: dict[str, dict[str, Any]]
    baselines: tuple[Baseline, ...]
    unreadable_files: tuple[str, ...]
    superseded_count: int
    left_out_count: int
    repeated_count: int
    differing_count: int
    margin: float
    declared_margins: tuple[float, ...]

    @property
    def design(self) -> SequentialDesign | None:
        """The looks of a run that adds seeds until it is decided. None if its tests do not apply here, because runs are
        pooled or the report has another margin."""
        design = self.runs[0].design if len(self.runs) == 1 else None
        return design if design and design.margin == self.margin else None

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each trial, for use in a notebook."""
        import pandas as pd

        return pd.DataFrame([asdict(trial) for trial in self.trials], columns=list(Trial.__dataclass_fields__))

    def config(self, member: PlannedCell | Trial) -> dict[str, Any]:
        """Return values of fields of TrialConfig: those of a trial's record, or those that a cell's plan sets."""
        return LATER_SETTINGS | self.records[member.key]["config"] if isinstance(member, Trial) else member.config

    def declared_reference(self, members: Sequence[PlannedCell | Trial]) -> dict[str, Any]:
        """Return the values of the reference that the first of the runs of these cells and trials declares."""
        member_ids = {id(member) for member in members}
        run_names = {member.run for member in members if isinstance(member, Trial)}
        return next(
            run.reference
            for run in self.runs
            if run.path_text in run_names or any(id(cell) in member_ids for cell in run.cells)
        )


def load(run_paths: Sequence[Location], margin: float | None = None, folders: Folders | None = None) -> Results:
    """Read and pool runs. Of several records with the same key, one counts: usually the first that did not fail
    (`_should_replace` has the exact rule).

    Args:
        run_paths: the folders or URLs of the runs.
        margin: difference in accuracy (a fraction) within which a smaller cell is as good as the reference. None means
            the smallest margin that a run declares, or `DEFAULT_MARGIN` if none does.
        folders: the canonical paths of folders. Calls whose results will be compared share it, so that a folder that
            has moved between the runs has one path in all results.

    Raises:
        ReportError: a run's manifest cannot be read. Other files that cannot be read are in `unreadable_files`.
    """
    runs: list[Run] = []
    trials: dict[str, Trial] = {}
    records: dict[str, dict[str, Any]] = {}
    baselines: dict[object, Baseline] = {}
    unreadable_files: list[str] = []
    superseded_count = repeated_count = differing_count = left_out_count = 0
    folders = folders or Folders()
    for run_path in run_paths:
        run = load_run(run_path)
        runs.append(run)
        unreadable_files += run.unreadable_files
        # A file whose name begins with a dot is still being written.
        record_files = [file for file in (run_path / "trials").glob("*.json") if not file.name.startswith(".")]
        current_files = [file for file in record_files if ".failed-" not in file.name]
        superseded_count += len(record_files) - len(current_files)
        counted_files = [file for file in current_files if file.name.removesuffix(".json") not in run.left_out_keys]
        left_out_count += len(current_files) - len(counted_files)
        for file, content in read_files(sorted(counted_files, key=lambda file: file.name)):
            try:
                if isinstance(content, OSError):
                    raise content
                record = json_object(parse_json(content), "a record")
                record["config"] = folders.with_canonical_paths(get_object(record, "config"), run.cells)
                trial = trial_from_record(record, run.path_text)
                trial = replace(trial, audited_at=run.audits.get(trial.key))
            except READ_ERRORS as error:
                unreadable_files.append(f"{run_path.name}/trials/{file.name}: {error_text(error)}")
                continue
            earlier_trial = trials.get(trial.key)
            if earlier_trial is not None:
                repeated_count += 1
                neither_failed = "failed" not in (earlier_trial.status, trial.status)
                differing_count += neither_failed and _result_scores(earlier_trial) != _result_scores(trial)
            if earlier_trial is None or _should_replace(trial, earlier_trial):
                trials[trial.key], records[trial.key] = trial, record
        try:
            for baseline in load_baselines(run_path / "baselines.json"):
                baseline = _with_canonical_paths(baseline, folders)
                baselines[baseline.backbone, baseline.task, baseline.test_split, baseline.test_n] = baseline
        except READ_ERRORS as error:
            unreadable_files.append(f"{run_path.name}/baselines.json: {error_text(error)}")
    margins = [run.margin for run in runs if run.margin is not None]
    former_margins = [former_margin for run in runs for former_margin in run.former_margins]
    cells_of_runs = [tuple(_with_canonical_paths(cell, folders) for cell in run.cells) for run in runs]
    return Results(
        runs=tuple(replace(run, cells=cells) for run, cells in zip(runs, cells_of_runs, strict=True)),
        trials=tuple(trials.values()),
        records=records,
        baselines=tuple(baselines.values()),
        unreadable_files=tuple(unreadable_files),
        superseded_count=superseded_count,
        left_out_count=left_out_count,
        repeated_count=repeated_count,
        differing_count=differing_count,
        margin=min(margins, default=DEFAULT_MARGIN) if margin is None else margin,
        declared_margins=tuple(dict.fromkeys([*margins, *former_margins])),
    )


def declaration_warnings(results: Results) -> list[str]:
    """Return warnings if the report does not use the margin or the looks that the runs declared before their trials."""
    warnings = []
    others = [declared for declared in results.declared_margins if declared != results.margin]
    if others:
        declared_text = " and ".join(f"{100 * other:g} pp" for other in others)
        warnings.append(
            f"This report uses a margin of {100 * results.margin:g} pp, but before the trials a margin of "
            f"{declared_text} was declared."
        )
    names = [run.name for run in results.runs if run.design] if results.design is None else []
    if names:
        runs_text = f"{'Run' if len(names) == 1 else 'Runs'} {', '.join(names)}"
        reason = "pools several runs" if len(results.runs) > 1 else "has another margin"
        warnings.append(
            f"{runs_text} added seeds until a question was decided, but this report {reason}. So its verdicts are "
            "exploratory: the chance that one of them is wrong may be above 5 %."
        )
    return warnings


def _result_scores(trial: Trial) -> tuple[float | None, float | None]:
    return trial.test_score(trial.metric), trial.selection_score


def _should_replace(trial: Trial, earlier_trial: Trial) -> bool:
    """Return whether the trial counts in place of an earlier one with the same key.

    A finished trial replaces a failed one. If both finished with the same scores, a trial with predictions replaces a
    trial without.
    """
    if earlier_trial.status == "failed" or trial.status == "failed":
        return earlier_trial.status == "failed" and trial.status != "failed"
    have_same_scores = _result_scores(trial) == _result_scores(earlier_trial)
    return have_same_scores and trial.is_confirmed and _has_predictions(trial) and not _has_predictions(earlier_trial)


def _has_predictions(trial: Trial) -> bool:
    return is_file(to_location(trial.run) / "predictions" / f"{trial.key}.parquet")


def _with_canonical_paths(cell_or_baseline: _CellOrBaseline, folders: Folders) -> _CellOrBaseline:
    return replace(
        cell_or_baseline,
        task=folders.canonical_path(cell_or_baseline.task),
        backbone=folders.canonical_path(cell_or_baseline.backbone),
    )
