"""The accuracy of each method over all tasks of one backbone: the interquartile mean, and the plain one."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.registry import Missing, TableSpec
from analysis.render import INTERVAL_TITLE, Column, Table, count, parameters_column, percent
from analysis.stats import interquartile_mean

_LEAST_TASKS = 4  # a quarter of fewer tasks is less than one task, so the interquartile mean would leave out none


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method over all tasks.

    Attributes:
        interquartile_mean: the interquartile mean, and the low and high end of its 95 % interval.
        mean: the plain mean.
        parameter_range: the fewest and the most trainable parameters of its cells.
        fewest_seeds: the number of seeds of the cell that has the fewest.
    """

    method: str
    interquartile_mean: tuple[float, float, float]
    mean: float
    parameter_range: tuple[int, int]
    fewest_seeds: int


@dataclass(frozen=True, kw_only=True)
class Info:
    backbone: str
    task_titles: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out_methods: tuple[str, ...]  # methods that are not confirmed on all tasks


def compute(groups: Sequence[Group]) -> Info | Missing:
    """Compute the table from one cell for each method and task: the one with the best held-out accuracy."""
    confirmed_groups = [group for group in groups if group.confirmed_cells]
    if len(confirmed_groups) < _LEAST_TASKS:
        return Missing(f"it needs {_LEAST_TASKS} tasks with confirmed cells", quiet=True)
    method_rows, left_out_methods = [], []
    for method in dict.fromkeys(cell.method for group in confirmed_groups for cell in group.confirmed_cells):
        cells = [group.best_cell(method) for group in confirmed_groups]
        if None in cells:
            left_out_methods.append(method_label(method))
        else:
            method_rows.append(_method_row(method, [cell for cell in cells if cell is not None]))
    if not method_rows:
        return Missing("no method has confirmed cells on all tasks", quiet=True)
    method_rows.sort(key=lambda row: -row.interquartile_mean[0])
    task_titles = tuple(group.task_title for group in confirmed_groups)
    return Info(
        backbone=confirmed_groups[0].backbone_name,
        task_titles=task_titles,
        rows=tuple(method_rows),
        left_out_methods=tuple(left_out_methods),
    )


def _method_row(method: str, cells: Sequence[Cell]) -> Row:
    estimates = [cell.accuracy for cell in cells if cell.accuracy]
    parameter_counts = [cell.trainable_parameters or 0 for cell in cells]
    return Row(
        method=method,
        interquartile_mean=interquartile_mean(estimates),
        mean=fmean(estimate.mean for estimate in estimates),
        parameter_range=(min(parameter_counts), max(parameter_counts)),
        fewest_seeds=min(estimate.seeds for estimate in estimates),
    )


def render(info: Info) -> Table:
    return Table.from_rows(
        info.rows,
        caption=f"The accuracy of each method over {len(info.task_titles)} tasks with {info.backbone}",
        columns=(
            Column(title="method", align="left", text=lambda row: method_label(row.method)),
            parameters_column(lambda row: " to ".join(dict.fromkeys(map(count, row.parameter_range)))),
            Column(
                title=f"interquartile mean, % {INTERVAL_TITLE}",
                csv_name="interquartile mean % [95 % CI]",
                text=_format_interquartile,
            ),
            Column(title="mean, %", csv_name="mean %", text=lambda row: percent(row.mean)),
            Column(title="seeds (fewest)", csv_name="seeds, at least", text=lambda row: count(row.fewest_seeds)),
        ),
        notes=(
            f"The tasks are {', '.join(info.task_titles)}. Each method is shown with its best cell on each task, "
            "chosen by held-out accuracy.",
            "The interquartile mean leaves out the lowest and the highest quarter of the tasks. Its interval comes "
            "from random draws of each task's accuracy, from that task's own interval over seeds and examples. The "
            "tasks themselves are not drawn.",
            f"Methods that are not confirmed on all tasks are left out: {', '.join(info.left_out_methods)}."
            if info.left_out_methods
            else "",
        ),
    )


def _format_interquartile(row: Row) -> str:
    mean, low, high = map(percent, row.interquartile_mean)
    return f"{mean} [{low}, {high}]"


SPEC = TableSpec(name="over_tasks", title="Over all tasks", info=compute, render=render, across=True)
