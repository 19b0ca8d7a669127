"""Table 3 of the LoPT paper: LoPT-1 by prompt length n and rank r, against the full prompt of n=10."""

from dataclasses import replace

from analysis import beside_published, published
from analysis.beside_published import Row
from analysis.cells import Group
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Table, change, count

LEAST = 3  # cells: fewer are no table of length and rank


def compute(group: Group) -> Info[Row] | Missing:
    points = published.table("table3")
    settings = {(point.method, point.length, point.rank) for point in points}
    if len(settings & {(cell.method, cell.length, cell.rank) for cell in group.cells}) < LEAST:
        return Missing(f"fewer than {LEAST} of Table 3's cells among the cells", quiet=True)
    return Info(group=group, rows=tuple(beside_published.row(group, point) for point in points))


def render(info: Info[Row]) -> Table:
    full = info.rows[0]  # the table begins with the full prompt

    def texts(row: Row) -> tuple[str, ...]:
        ours = change(row.parameters, full.parameters) if row.parameters and full.parameters else "–"
        theirs = change(row.point.trainable_parameters, full.point.trainable_parameters)
        return theirs, f"{row.point.accuracy_percent:.1f}", count(row.parameters), ours

    titles = ("cell", "Δ params, paper", "published %", "params, ours", "Δ params, ours")
    table = beside_published.table(info, "Table 3 of the paper (LoPT-1 on GPT-2 large, SST-2)", titles, texts)
    note = "Δ is against the full prompt of n=10: 12,800 parameters in the paper, our own count in ours."
    return replace(table, notes=(note, *table.notes))


SPEC = TableSpec(
    name="table3", title="Length and rank (Table 3)", info=compute, render=render, place=60, published=True
)
