"""Table 1 of the LoPT paper: the full prompt, LoPT-1 and LoPT-2 at n=10, r=2 on GPT-2 large."""

from analysis import compare_published, published
from analysis.cells import Group
from analysis.compare_published import Row
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count, numbers

_POINTS = {(point.cell, point.task): point for point in published.table_points("table1")}


def compute(group: Group) -> Info[Row] | Missing:
    if not any((cell.method, cell.length, cell.rank) == ("lopt2", 10, 2) for cell in group.cells):
        return Missing("no LoPT-2 n=10 r=2 among the cells", quiet=True)
    rows = [
        compare_published.compared_row(group, point, _POINTS.get((name, group.task)))
        for (name, task), point in _POINTS.items()
        if task == "sst2"
    ]
    return Info(group=group, rows=tuple(rows))


def render(info: Info[Row]) -> Table:
    def texts(row: Row) -> tuple[str, ...]:
        published_points = (_POINTS[row.point.cell, task] for task in ("sst2", "ag_news"))
        accuracies = (f"{point.accuracy_percent:.1f}" for point in published_points)
        return count(row.point.trainable_parameters), *accuracies, count(row.parameters)

    columns = (
        Column(title="method", align="left"),
        Column(title="published parameters", csv_name="params, paper"),
        *numbers("published SST-2 %", "published AGNews %"),
        Column(title="our parameters", csv_name="params, ours"),
    )
    return compare_published.compared_table(info, "Table 1 of the paper (n=10, r=2 on GPT-2 large)", columns, texts)


SPEC = TableSpec(
    name="table1", title="Two forms of LoPT (Table 1)", info=compute, render=render, place=70, published=True
)
