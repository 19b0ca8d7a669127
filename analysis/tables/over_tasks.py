"""Each method over all tasks of one backbone: trimmed mean, mean rank, and probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from analysis.cells import Cell, Group
from analysis.comparisons import cell_name, reference_cell
from analysis.frontier import Interval, draw_accuracies, has_draws
from analysis.methods import method_label
from analysis.registry import Missing, TableSpec
from analysis.render import INTERVAL_TITLE, Column, Table, count, parameters_column, percent
from analysis.task_means import mean_ranks, probability_of_improvement, trimmed_mean

_LEAST_TASKS = 4  # a quarter of fewer tasks is less than one task, so the trimmed mean would leave out none


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method over all tasks. A measure is an `Interval`, or a number if no interval is known.

    Attributes:
        trimmed_mean: the trimmed mean of the accuracies.
        normalised_mean: the trimmed mean of (accuracy - majority) / (reference - majority). It is None if a task has no
            reference, or no majority class that the reference is clearly above.
        mean_rank: the mean rank among the methods of the table.
        improvement: the probability that a run does better than a run of the reference. It is None if a task has no
            reference.
        mean: the plain mean of the accuracies.
        parameter_range: the fewest and the most trainable parameters of its cells.
        fewest_seeds: the number of seeds of the cell that has the fewest.
    """

    method: str
    trimmed_mean: Interval | float
    normalised_mean: Interval | float | None
    mean_rank: Interval | float
    improvement: Interval | None
    mean: float
    parameter_range: tuple[int, int]
    fewest_seeds: int


@dataclass(frozen=True, kw_only=True)
class Info:
    backbone: str
    task_titles: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out_methods: tuple[str, ...]  # methods that are not confirmed on all tasks
    reference_names: tuple[str, ...]  # the names of the references of the tasks, without repetition


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The cells that stand for the methods on one task.

    Attributes:
        cells: the best cell of each method.
        reference: the cell that the others are compared with.
        means_M: mean accuracy of each cell.
        draws_DM: drawn accuracies of the cells, `[draws, methods]`, if all of them have two seeds.
        reference_draws_D: those of the reference, from the same draws.
        majority_accuracy: accuracy of the majority class, if the reference is clearly above it.
    """

    cells: tuple[Cell, ...]
    reference: Cell | None
    means_M: np.ndarray
    draws_DM: np.ndarray | None
    reference_draws_D: np.ndarray | None
    majority_accuracy: float | None


def compute(groups: Sequence[Group]) -> Info | Missing:
    """Compute the table from one cell for each method and task: the one with the best held-out accuracy."""
    confirmed_groups = [group for group in groups if group.confirmed_cells]
    if len(confirmed_groups) < _LEAST_TASKS:
        return Missing(f"it needs {_LEAST_TASKS} tasks with confirmed cells", quiet=True)
    names = dict.fromkeys(cell.method for group in confirmed_groups for cell in group.confirmed_cells)
    methods = [name for name in names if all(group.best_cell(name) is not None for group in confirmed_groups)]
    if not methods:
        return Missing("no method has confirmed cells on all tasks", quiet=True)
    tasks = [_task(group, methods) for group in confirmed_groups]
    draws_by_task = [task.draws_DM for task in tasks if task.draws_DM is not None]
    ranks = mean_ranks(
        np.stack([task.means_M for task in tasks]), draws_by_task if len(draws_by_task) == len(tasks) else None
    )
    rows = [_row(method, index, tasks, ranks[index]) for index, method in enumerate(methods)]
    rows.sort(key=lambda row: -_value(row.trimmed_mean))
    return Info(
        backbone=confirmed_groups[0].backbone_title,
        task_titles=tuple(group.task_title for group in confirmed_groups),
        rows=tuple(rows),
        left_out_methods=tuple(method_label(name) for name in names if name not in methods),
        reference_names=tuple(dict.fromkeys(cell_name(task.reference) for task in tasks if task.reference)),
    )


def _task(group: Group, methods: Sequence[str]) -> _Task:
    cells = tuple(cell for method in methods if (cell := group.best_cell(method)) is not None)
    reference = reference_cell(group)
    all_cells = (*cells, reference) if reference else cells
    draws_DC = draw_accuracies(all_cells) if all(map(has_draws, all_cells)) else None
    reference_index = cells.index(reference) if reference in cells else len(cells)  # its draws are the same ones
    majority = group.majority_accuracy
    is_clear = majority is not None and reference and reference.accuracy and reference.accuracy.low > majority
    return _Task(
        cells=cells,
        reference=reference,
        means_M=np.array([cell.accuracy.mean for cell in cells if cell.accuracy]),
        draws_DM=None if draws_DC is None else draws_DC[:, : len(cells)],
        reference_draws_D=None if draws_DC is None or reference is None else draws_DC[:, reference_index],
        majority_accuracy=majority if is_clear else None,
    )


def _row(method: str, index: int, tasks: Sequence[_Task], mean_rank: Interval | float) -> Row:
    cells = [task.cells[index] for task in tasks]
    means = [float(task.means_M[index]) for task in tasks]
    draws = [task.draws_DM[:, index] for task in tasks if task.draws_DM is not None]
    draws_DT = np.stack(draws, axis=1) if len(draws) == len(tasks) else None
    parameter_counts = [cell.trainable_parameters or 0 for cell in cells]
    references = [task.reference for task in tasks if task.reference is not None]
    has_references = len(references) == len(tasks)
    return Row(
        method=method,
        trimmed_mean=trimmed_mean(means, draws_DT),
        normalised_mean=_normalised_mean(means, draws_DT, tasks),
        mean_rank=mean_rank,
        improvement=probability_of_improvement(
            [(_runs(cell), _runs(reference)) for cell, reference in zip(cells, references, strict=True)]
        )
        if has_references and any(cell is not reference for cell, reference in zip(cells, references, strict=True))
        else None,
        mean=fmean(means),
        parameter_range=(min(parameter_counts), max(parameter_counts)),
        fewest_seeds=min(cell.accuracy.seeds for cell in cells if cell.accuracy),
    )


def _normalised_mean(
    means: Sequence[float], draws_DT: np.ndarray | None, tasks: Sequence[_Task]
) -> Interval | float | None:
    normalised_means, normalised_draws = [], []
    for i, (mean, task) in enumerate(zip(means, tasks, strict=True)):
        majority = task.majority_accuracy
        if majority is None or task.reference is None or task.reference.accuracy is None:
            return None
        normalised_means.append((mean - majority) / (task.reference.accuracy.mean - majority))
        if draws_DT is not None and task.reference_draws_D is not None:
            # A draw in which the reference is hardly above the majority class is as uncertain as can be.
            spans_D = np.maximum(task.reference_draws_D - majority, 1e-3)
            normalised_draws.append((draws_DT[:, i] - majority) / spans_D)
    return trimmed_mean(
        normalised_means, np.stack(normalised_draws, axis=1) if len(normalised_draws) == len(tasks) else None
    )


def _runs(cell: Cell) -> list[float]:
    scores = (trial.test_score(cell.metric) for trial in cell.confirmed_trials)
    return [score for score in scores if score is not None]


def _value(measure: Interval | float) -> float:
    return measure.value if isinstance(measure, Interval) else measure


def render(info: Info) -> Table:
    return Table.from_rows(
        info.rows,
        caption=f"Each method over {len(info.task_titles)} tasks with {info.backbone}",
        columns=(
            Column(title="method", align="left", text=lambda row: method_label(row.method)),
            parameters_column(lambda row: " to ".join(dict.fromkeys(map(count, row.parameter_range)))),
            Column(
                title=f"trimmed mean, % {INTERVAL_TITLE}",
                csv_name="trimmed mean % [95 % CI]",
                text=lambda row: _format(row.trimmed_mean, scale=100, decimals=1),
            ),
            Column(
                title=f"normalised trimmed mean {INTERVAL_TITLE}",
                csv_name="normalised trimmed mean [95 % CI]",
                text=lambda row: _format(row.normalised_mean, scale=1, decimals=3),
            ),
            Column(
                title=f"mean rank {INTERVAL_TITLE}",
                csv_name="mean rank [95 % CI]",
                text=lambda row: _format(row.mean_rank, scale=1, decimals=2),
            ),
            Column(
                title=f"probability of improvement, % {INTERVAL_TITLE}",
                csv_name="probability of improvement % [95 % CI]",
                text=lambda row: _format(row.improvement, scale=100, decimals=0),
            ),
            Column(title="mean, %", csv_name="mean %", text=lambda row: percent(row.mean)),
            Column(title="seeds (fewest)", csv_name="seeds, at least", text=lambda row: count(row.fewest_seeds)),
        ),
        notes=(
            f"The tasks are {', '.join(info.task_titles)}. Each method is shown with its best cell on each task, "
            "chosen by held-out accuracy. Intervals cover other seeds and test examples of these tasks; the tasks "
            "themselves are not drawn.",
            "The trimmed mean over tasks leaves out the lowest and the highest quarter of the tasks. The normalised "
            "one first sets the accuracy of the majority class to 0 and that of the reference to 1, on each task. It "
            "is missing (–) unless the reference is clearly above the majority class on all tasks. The intervals are "
            "quantiles of random draws: the mean accuracy plus an error of the seeds, from Student's t distribution, "
            "and an error of the examples, which are resampled once for all methods.",
            "Rank 1 is the best method on a task. The interval of the mean rank counts, on each task, the methods that "
            "are certainly better and those that are certainly worse; the intervals of all its differences from the "
            "others hold together with 95 % confidence.",
            "The probability of improvement is the share of pairs, one run of the method and one of the reference, in "
            "which the method is higher; ties count one half, and the share is averaged over tasks (Agarwal et al. "
            "2021). Its interval contains the probabilities that the observed share does not contradict (Newcombe "
            "2006), with a quantile of Student's t distribution. It covers other runs on the same test examples.",
            f"The reference on the tasks is {' or '.join(info.reference_names)}." if info.reference_names else "",
            "Methods with one seed on a task have no interval of the means and ranks, because the variation between "
            "seeds is unknown."
            if any(row.fewest_seeds < 2 for row in info.rows)
            else "",
            f"Methods that are not confirmed on all tasks are left out: {', '.join(info.left_out_methods)}."
            if info.left_out_methods
            else "",
        ),
    )


def _format(measure: Interval | float | None, *, scale: float, decimals: int) -> str:
    """Write a measure as `value [low, high]`, or as the value alone, or a dash for None."""
    if measure is None:
        return "–"
    if not isinstance(measure, Interval):
        return f"{scale * measure:.{decimals}f}"
    value, low, high = (f"{scale * number:.{decimals}f}" for number in (measure.value, measure.low, measure.high))
    return f"{value} [{low}, {high}]"


SPEC = TableSpec(name="over_tasks", title="Over all tasks", info=compute, render=render, across=True)
