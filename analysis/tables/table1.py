"""Table 1 of the LoPT paper: the full prompt, LoPT-1 and LoPT-2 at n=10, r=2 on GPT-2 large."""

from analysis import compare_published, published
from analysis.cells import Group
from analysis.compare_published import Row
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count

_POINT_BY_ROW_AND_TASK = {(point.row_name, point.task): point for point in published.table_points("table1")}


def compute(group: Group) -> Info[Row] | Missing:
    if not any((cell.method, cell.length, cell.rank) == ("lopt2", 10, 2) for cell in group.cells):
        return Missing("the run has no cell LoPT-2 n=10 r=2", quiet=True)
    rows = [
        compare_published.comparison_row(group, point, _POINT_BY_ROW_AND_TASK.get((row_name, group.task)))
        for (row_name, task), point in _POINT_BY_ROW_AND_TASK.items()
        if task == "sst2"
    ]
    return Info(group=group, rows=tuple(rows))


def render(info: Info[Row]) -> Table:
    def middle_texts(row: Row) -> tuple[str, ...]:
        published_points = (_POINT_BY_ROW_AND_TASK[row.point.row_name, task] for task in ("sst2", "ag_news"))
        accuracies = (f"{point.accuracy_percent:.1f}" for point in published_points)
        return count(row.point.trainable_parameters), *accuracies, count(row.our_parameters)

    columns = (
        Column(title="method", align="left"),
        Column(title="published trainable parameters", csv_name="params, paper"),
        Column(title="published accuracy on SST-2, %", csv_name="published SST-2 %"),
        Column(title="published accuracy on AGNews, %", csv_name="published AGNews %"),
        Column(title="our trainable parameters", csv_name="params, ours"),
    )
    caption = "Table 1 of the paper (n=10, r=2 on GPT-2 large)"
    return compare_published.comparison_table(info, caption, columns, middle_texts)


SPEC = TableSpec(
    name="table1", title="Two forms of LoPT (Table 1)", info=compute, render=render, place=70, published=True
)
