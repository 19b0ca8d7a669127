"""Table 3 of the LoPT paper: LoPT-1 by prompt length n and rank r, compared with the full prompt of n=10."""

from dataclasses import replace

from analysis import compare_published, published
from analysis.cells import Group
from analysis.compare_published import Row
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, change, count

_LEAST_CELLS = 3  # with fewer cells, the table says nothing about length and rank


def compute(group: Group) -> Info[Row] | Missing:
    points = published.table_points("table3")
    settings = {(point.method, point.length, point.rank) for point in points}
    if len(settings & {(cell.method, cell.length, cell.rank) for cell in group.cells}) < _LEAST_CELLS:
        return Missing(f"the run has fewer than {_LEAST_CELLS} of Table 3's cells", quiet=True)
    return Info(group=group, rows=tuple(compare_published.comparison_row(group, point) for point in points))


def render(info: Info[Row]) -> Table:
    full_row = info.rows[0]  # the full prompt is in the first row

    def middle_texts(row: Row) -> tuple[str, ...]:
        our_count, full_count = row.our_parameters, full_row.our_parameters
        our_change = change(our_count, full_count) if our_count and full_count else "–"
        published_change = change(row.point.trainable_parameters, full_row.point.trainable_parameters)
        return published_change, f"{row.point.accuracy_percent:.1f}", count(our_count), our_change

    columns = (
        Column(title="cell", align="left"),
        Column(title="published change in parameters", csv_name="Δ params, paper"),
        Column(title="published accuracy, %", csv_name="published %"),
        Column(title="our trainable parameters", csv_name="params, ours"),
        Column(title="our change in parameters", csv_name="Δ params, ours"),
    )
    caption = "Table 3 of the paper (LoPT-1 on GPT-2 large, SST-2)"
    table = compare_published.comparison_table(info, caption, columns, middle_texts)
    note = (
        "Changes in parameters are relative to a full prompt of length n = 10. It has 12,800 parameters in the paper; "
        "ours has the number in the first row. r is the rank."
    )
    return replace(table, notes=(note, *table.notes))


SPEC = TableSpec(
    name="table3", title="Length and rank (Table 3)", info=compute, render=render, place=60, published=True
)
