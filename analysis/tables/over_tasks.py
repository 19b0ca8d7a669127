"""Each method over all tasks of one backbone: the interquartile mean, beside the plain one."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count, percent
from analysis.stats import interquartile

LEAST = 4  # tasks: of fewer, nothing is left between the quarters


@dataclass(frozen=True, kw_only=True)
class Row:
    """interquartile: mean, and the ends of its 95 % interval. parameters: fewest and most of its cells."""

    method: str
    interquartile: tuple[float, float, float]
    mean: float
    parameters: tuple[int, int]
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Info:
    backbone: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]  # methods that are not confirmed on all tasks


def compute(groups: Sequence[Group]) -> Info | Missing:
    """One cell a method and task: that of the best selection accuracy."""
    known = [group for group in groups if group.confirmed]
    if len(known) < LEAST:
        return Missing(f"it needs {LEAST} tasks with confirmed cells", quiet=True)
    rows, left_out = [], []
    for method in dict.fromkeys(cell.method for group in known for cell in group.confirmed):
        cells = [group.best(method) for group in known]
        if None in cells:
            left_out.append(method_label(method))
        else:
            rows.append(_row(method, [cell for cell in cells if cell is not None]))
    if not rows:
        return Missing("no method has confirmed cells on all tasks", quiet=True)
    rows.sort(key=lambda row: -row.interquartile[0])
    tasks = tuple(group.task_title for group in known)
    return Info(backbone=known[0].backbone_name, tasks=tasks, rows=tuple(rows), left_out=tuple(left_out))


def _row(method: str, cells: Sequence[Cell]) -> Row:
    estimates = [cell.accuracy for cell in cells if cell.accuracy]
    sizes = [cell.trainable_parameters or 0 for cell in cells]
    return Row(
        method=method,
        interquartile=interquartile(estimates),
        mean=fmean(each.mean for each in estimates),
        parameters=(min(sizes), max(sizes)),
        seeds=min(each.seeds for each in estimates),
    )


def render(info: Info) -> Table:
    return Table.of(
        info.rows,
        caption=f"Over {len(info.tasks)} tasks with {info.backbone}",
        columns=(
            Column(title="method", align="left", text=lambda row: method_label(row.method)),
            Column(title="params", text=lambda row: " to ".join(dict.fromkeys(map(count, row.parameters)))),
            Column(title="interquartile mean % [95 % CI]", text=_interquartile),
            Column(title="mean %", text=lambda row: percent(row.mean)),
            Column(title="seeds, at least", text=lambda row: count(row.seeds)),
        ),
        notes=(
            f"Tasks: {', '.join(info.tasks)}; of each method the size with the best selection accuracy there.",
            "Interquartile mean: without the lowest and the highest quarter of the tasks. Its interval draws "
            "each task's mean from that task's own interval over seeds and examples; the tasks are as given.",
            f"Not confirmed on all tasks, and left out: {', '.join(info.left_out)}." if info.left_out else "",
        ),
    )


def _interquartile(row: Row) -> str:
    mean, low, high = map(percent, row.interquartile)
    return f"{mean} [{low}, {high}]"


SPEC = TableSpec(name="over_tasks", title="Over all tasks", info=compute, render=render, across=True)
