"""The text around the numbers: warnings, failures, stuck trials and caveats."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import predictions, published, render
from analysis.audit import audit_early_stopping, audit_text
from analysis.cells import Cell, Group
from analysis.compare_published import comparable_points
from analysis.comparisons import reference_cell
from analysis.load import Results
from analysis.methods import method_label
from analysis.optimism import surprise_texts
from analysis.records import Trial, grouped
from analysis.runs import Run
from lopt import metrics

_SEPARATE_REPORTS = "make a separate report of each run"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Failed trials of one exception type. `message` is that of the first of them."""

    type: str
    count: int
    message: str
    cells: tuple[str, ...]


def warnings(results: Results, groups: Sequence[Group]) -> list[str]:
    """Return what a reader of the report must know before the first number."""
    texts = []
    planned_cells = [cell for group in groups for cell in group.cells if cell.is_planned]
    confirmed_count = sum(cell.accuracy is not None for cell in planned_cells)
    unfinished_runs = [run.name for run in results.runs if run.status != "complete"]
    is_single = len(results.runs) == 1
    if unfinished_runs:
        progress = "The run is not finished" if is_single else f"Not finished yet: {', '.join(unfinished_runs)}"
        texts.append(f"{progress}. {confirmed_count} of {len(planned_cells)} cells have a confirmed trial.")
    elif confirmed_count < len(planned_cells):
        progress = "The run is complete" if is_single else "The runs are complete"
        texts.append(f"{progress}, but only {confirmed_count} of {len(planned_cells)} cells have a confirmed trial.")
    texts += filter(None, (_few_seeds_text(results, group, len(groups) > 1) for group in groups if not unfinished_runs))
    if not results.trials:
        texts.append("There is no readable trial record yet.")
    if missing_folders := [f"{run.name}/trials" for run in results.runs if not _has_trials_folder(run)]:
        texts.append(
            f"Missing: {', '.join(missing_folders)}. The records of the trials should be there, one JSON file each; "
            "trials.parquet is made from them and is not read."
        )
    if results.unreadable_files:
        kind = "record" if any("/trials/" in file for file in results.unreadable_files) else "file"
        singular, plural = f"{kind} could not be read and is", f"{kind}s could not be read and are"
        files = _count_text(len(results.unreadable_files), singular, plural)
        texts.append(f"{files} left out: {'; '.join(results.unreadable_files)}.")
    texts += filter(None, (_unusable_predictions_text(group, len(groups) > 1) for group in groups))
    confirmed_cells = [(group, cell) for group in groups for cell in group.confirmed_cells]
    stale_cells = [_cell_name(groups, group, cell) for group, cell in confirmed_cells if not cell.is_winner_confirmed]
    if stale_cells:
        texts.append(
            "The search has found a better setting than the confirmed one, but no trial has confirmed it yet: "
            f"{', '.join(stale_cells)}. The numbers are those of the earlier setting."
        )
    if len({json.dumps(run.reference, sort_keys=True) for run in results.runs}) > 1:
        texts.append(
            "The runs declare different references. For each backbone and task, the reference is that of the first run "
            "that has it."
        )
    comparability_texts = (_different_examples_text, _different_weights_text, _different_metrics_text)
    texts += filter(None, (write_text(group) for group in groups for write_text in comparability_texts))
    run_provenances = [run.manifest.get("provenance") or {} for run in results.runs]
    if any(source.get("dirty") for source in run_provenances) or any(trial.dirty for trial in results.trials):
        texts.append("Unclean working tree: some of these numbers were made with uncommitted changes to the code.")
    if len(commits := {trial.commit for trial in results.trials if trial.commit}) > 1:
        texts.append(f"The trials were made with {len(commits)} different commits of the code.")
    return texts


def _unusable_predictions_text(group: Group, has_several_groups: bool) -> str | None:
    """Name the files of predictions that cannot be used, and say how the report changes without them."""
    cells = group.confirmed_cells
    unusable = predictions.unusable_predictions([trial for cell in cells for trial in cell.confirmed_trials])
    if not unusable:
        return None
    unusable_keys, reference = {entry.trial.key for entry in unusable}, reference_cell(group)
    affected_cells = [cell for cell in cells if any(trial.key in unusable_keys for trial in cell.confirmed_trials)]
    effects = []
    if cells_of_several_seeds := [cell for cell in affected_cells if len(cell.confirmed_trials) > 1]:
        effects.append(f"intervals come from the seeds' scores alone ({_labels(cells_of_several_seeds)})")
    if reference and len(reference.confirmed_trials) > 1:
        cells_without_test = cells if reference in affected_cells else affected_cells
        if untested_cells := [cell for cell in cells_without_test if cell is not reference]:
            effects.append(f"there is no test and no verdict against the reference ({_labels(untested_cells)})")
    if len(cells) > 1:
        effects.append("the certainty of the frontier is estimated from each cell's own interval")
    beginning = f"For {group.title}: predictions" if has_several_groups else "Predictions"
    files = "; ".join(dict.fromkeys(f"{entry.file} ({entry.reason})" for entry in unusable))
    return f"{beginning} that cannot be used: {files}. Without them, {'; '.join(effects) or 'nothing changes'}."


def failures(groups: Sequence[Group]) -> list[Failure]:
    """Return the failed trials by exception type, most frequent first."""
    failed_trials = [(group, trial) for group in groups for trial in group.trials if trial.status == "failed"]
    failures_by_type = grouped(failed_trials, lambda pair: pair[1].error_type or "unknown")
    return [
        Failure(
            type=error_type,
            count=len(pairs),
            message=pairs[0][1].error_message or "",
            cells=tuple(dict.fromkeys(_trial_cell_name(groups, group, trial) for group, trial in pairs)),
        )
        for error_type, pairs in sorted(failures_by_type.items(), key=lambda item: -len(item[1]))
    ]


def stuck_trials(groups: Sequence[Group]) -> list[str]:
    """Name the trials on which training had no effect, as `Trial.is_stuck` defines it."""
    return [
        f"{_trial_cell_name(groups, group, trial)}, learning rate {render.number(trial.learning_rate)}, "
        f"seed {trial.seed} ({trial.phase}, {trial.status}, {trial.key})"
        for group in groups
        for trial in group.trials
        if trial.is_stuck
    ]


def _trial_cell_name(groups: Sequence[Group], group: Group, trial: Trial) -> str:
    """Name the cell of a trial, as `_cell_name` does."""
    trial_cell = next(cell for cell in group.cells if any(member is trial for member in cell.trials))
    return _cell_name(groups, group, trial_cell)


def _cell_name(groups: Sequence[Group], group: Group, cell: Cell) -> str:
    """Return the cell's label, with the title of its group if there are several groups."""
    return cell.label if len(groups) == 1 else f"{cell.label} on {group.title}"


def _labels(cells: Sequence[Cell]) -> str:
    return ", ".join(cell.label for cell in cells)


def _count_text(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"


def _has_trials_folder(run: Run) -> bool:
    """Return whether a run has its folder of trials, or has only begun and does not need it yet."""
    has_only_begun = run.status != "complete" and not (run.path / "trials.parquet").is_file()
    return has_only_begun or (run.path / "trials").is_dir()


def _few_seeds_text(results: Results, group: Group, has_several_groups: bool) -> str | None:
    """Name the cells of complete runs that have fewer seeds than planned, even if failed seeds are counted."""
    seed_counts = [(run.manifest.get("space") or {}).get("confirm_seeds") for run in results.runs]
    planned_seeds = min((count for count in seed_counts if isinstance(count, int)), default=0)
    planned_cells = [cell for cell in group.confirmed_cells if cell.is_planned]
    short_cells = [cell for cell in planned_cells if len(cell.confirmed_trials) + cell.lost_seed_count < planned_seeds]
    if not short_cells:
        return None
    beginning = f"For {group.title}: fewer" if has_several_groups else "Fewer"
    cell_texts = ", ".join(f"{cell.label} ({len(cell.confirmed_trials)})" for cell in short_cells)
    return f"{beginning} confirmed seeds than the {planned_seeds} planned: {cell_texts}."


def _different_examples_text(group: Group) -> str | None:
    """Name the cells that were scored on different test examples in pooled runs, and so cannot be compared."""
    cell_groups = grouped(group.confirmed_cells, lambda cell: cell.confirmed_trials[0].scored_on).values()
    if len(cell_groups) < 2:
        return None
    examples = "; ".join(f"{examples_text(cells[0].confirmed_trials[0])} ({_labels(cells)})" for cells in cell_groups)
    return (
        f"For {group.title}, not all cells were scored on the same test examples: {examples}. A difference between "
        f"them may come from that alone, so {_SEPARATE_REPORTS}."
    )


def examples_text(trial: Trial) -> str:
    """Say which examples a confirmed trial was scored on."""
    return (
        f"{trial.test_n or 0:,} of the {trial.test_split_size or trial.test_n or 0:,} examples of {trial.test_split}, "
        f"data revision {trial.data_revision or 'unknown'}"
    )


def _different_weights_text(group: Group) -> str | None:
    """Name the weights if the backbone's folder held different weights in the pooled runs."""
    cells = group.confirmed_cells if Path(group.backbone).is_absolute() else ()
    cells_by_revision = grouped(cells, lambda cell: cell.confirmed_trials[0].model_revision or "unknown")
    if len(cells_by_revision) < 2:
        return None
    revisions = "; ".join(f"{revision} ({_labels(cells)})" for revision, cells in cells_by_revision.items())
    return (
        f"For {group.title}, the backbone's folder did not hold the same weights for all cells: "
        f"{revisions}. A difference between them may come from that alone, so {_SEPARATE_REPORTS}."
    )


def _different_metrics_text(group: Group) -> str | None:
    """Name the metrics if the trials of pooled runs were selected by different ones."""
    metric_names = sorted({metrics.title(trial.metric) for trial in group.trials})
    if len(metric_names) < 2:
        return None
    return (
        f"For {group.title}, trials are selected by different metrics ({', '.join(metric_names)}), so neither the "
        f"choice of cells nor the answer is valid: {_SEPARATE_REPORTS}."
    )


def _selection_metric_text(group: Group) -> str | None:
    """Say by which metric trials are selected, unless it is accuracy for all of them."""
    titles = sorted({metrics.title(trial.metric) for trial in group.trials if trial.metric != metrics.ACCURACY})
    if not titles:
        return None
    if len({trial.metric for trial in group.trials}) > 1:
        return (
            f"For {group.title}, some trials are selected by {' or '.join(titles)} on the held-out data and "
            f"others by another metric. These scores cannot be compared: {_SEPARATE_REPORTS}."
        )
    return (
        f"For {group.title}, steps, trials and settings are selected by {titles[0]}. Cells are compared by it, too, "
        "and it is given in percent. Where it is not a mean over examples, intervals and tests use jackknife pseudo-values "
        "of the examples; where examples belong together, they use those of the clusters. Only the optimism, the "
        "accuracy after a cut to a lower rank, and comparisons with published numbers are about plain accuracy."
    )


def notes(results: Results, groups: Sequence[Group]) -> Iterator[str]:
    """Say how the numbers were made and what they do not show."""
    confirmed_trials = [trial for trial in results.trials if trial.is_confirmed]
    for protocol in dict.fromkeys(trial.protocol for trial in results.trials if trial.protocol):
        yield f"Protocol: {protocol}"
    for group in groups:
        if group.shots is not None:
            yield (
                f"The runs on {group.title} are few-shot runs (shots = {group.shots}). They are not compared with the "
                "published numbers, which come from all of the training data."
            )
        if metric_note := _selection_metric_text(group):
            yield metric_note
        yield from surprise_texts(group)
    confirmed_cells = [(group, cell) for group in groups for cell in group.confirmed_cells]
    for group, cell in confirmed_cells:
        if cell.confirmed_configuration_count > 1:
            yield (
                f"{_cell_name(groups, group, cell)}: {cell.confirmed_configuration_count} settings have confirmed "
                "trials, because the search had other winners before. The numbers are those of the setting that did "
                f"best in the search, at learning rate {render.number(cell.confirmed_trials[0].learning_rate)}."
            )
    for run in results.runs:
        run_trials = [trial for trial in results.trials if trial.run == run.path_text]
        if text := audit_text(audit_early_stopping(run_trials, run.rungs[0] if run.rungs else None)):
            yield text if len(results.runs) == 1 else f"{run.name}: {text}"
    if source_runs := [trial.reused_from for trial in results.trials if trial.reused_from is not None]:
        trials_text = _count_text(len(source_runs), "trial was", "trials were")
        yield f"{trials_text} not run for this sweep but taken from {', '.join(sorted({*source_runs}))}."
    cells_of_several_seeds = [cell for _, cell in confirmed_cells if len(cell.confirmed_trials) > 1]
    frozen_trials = [trial for cell in cells_of_several_seeds for trial in cell.confirmed_trials if trial.frozen_draw]
    frozen_draws = {(method_label(trial.method), trial.frozen_draw) for trial in frozen_trials}
    for method, draw in sorted(frozen_draws, key=str):
        yield (
            f"{method} has one frozen random matrix for all seeds ({draw}). Its intervals over seeds hold for this "
            "matrix only, because they do not include the variance between matrices."
        )
    if any(group.task == "movie_snippets" for group in groups):
        yield (
            "84 % of SST-2's validation sentences also occur in movie_snippets. Results on the two are therefore never "
            "independent evidence, and a prompt trained on one must not be scored on the other."
        )
    subsets = {
        (group.task_title, trial.test_split, trial.test_n, trial.test_split_size)
        for group in groups
        for trial in group.trials
        if trial.is_confirmed and trial.test_n and trial.test_split_size and trial.test_n < trial.test_split_size
    }
    for task, split, subset_size, split_size in sorted(subsets, key=str):
        yield f"{task} was scored on {subset_size:,} of the {split_size:,} examples of its {split} split."
    if cut_count := sum(trial.truncated_count for trial in confirmed_trials):
        test_cut_count = sum(trial.test_truncated_count for trial in confirmed_trials)
        scored_count = sum(trial.test_n or 0 for trial in confirmed_trials)
        cut_percent = 100 * test_cut_count / scored_count
        share_text = f"{test_cut_count:,} of {scored_count:,} test examples of confirmed trials ({cut_percent:.1f} %)"
        other_parts = ", and some examples for training or selection" if cut_count > test_cut_count else ""
        yield f"Texts that did not fit into the model's input were cut: {share_text}{other_parts}."
    if results.left_out_count:
        trials_text = _count_text(results.left_out_count, "trial of a cell or range", "trials of cells or ranges")
        yield f"Left out: {trials_text} that the space no longer has."
    if results.superseded_count:
        singular, plural = "earlier failure of a trial that was", "earlier failures of trials that were"
        yield f"Not counted: {_count_text(results.superseded_count, singular, plural)} tried again since."
    if results.repeated_count:
        singular, plural = "record repeats a trial that has", "records repeat trials that have"
        yield f"{_count_text(results.repeated_count, singular, plural)} a record already. Each trial counts once."
        if results.differing_count:
            yield f"Repeated records with other results: {results.differing_count}. The run given first counts."


def caveats(groups: Sequence[Group], has_published_numbers: bool) -> tuple[str, ...]:
    """Return what to know about the published numbers, if a table shows them or a group can be compared with them."""
    return published.CAVEATS if has_published_numbers or any(comparable_points(group) for group in groups) else ()
