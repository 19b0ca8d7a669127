"""Table 1 of the LoPT paper: full prompt, LoPT-1 and LoPT-2 at n=10, r=2 on GPT-2 large."""

from analysis import beside_published, published
from analysis.beside_published import Row
from analysis.cells import Group
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Table, count

_POINTS = {(point.cell, point.task): point for point in published.table("table1")}


def compute(group: Group) -> Info[Row] | Missing:
    if not any((cell.method, cell.length, cell.rank) == ("lopt2", 10, 2) for cell in group.cells):
        return Missing("no LoPT-2 n=10 r=2 among the cells", quiet=True)
    rows = [
        beside_published.row(group, point, _POINTS.get((name, group.task)))
        for (name, task), point in _POINTS.items()
        if task == "sst2"
    ]
    return Info(group=group, rows=tuple(rows))


def render(info: Info[Row]) -> Table:
    def texts(row: Row) -> tuple[str, ...]:
        published_percents = (_POINTS[row.point.cell, task].accuracy_percent for task in ("sst2", "ag_news"))
        shown = (f"{percent:.1f}" for percent in published_percents)
        return count(row.point.trainable_parameters), *shown, count(row.parameters)

    titles = ("method", "params, paper", "published SST-2 %", "published AGNews %", "params, ours")
    return beside_published.table(info, "Table 1 of the paper (n=10, r=2 on GPT-2 large)", titles, texts)


SPEC = TableSpec(
    name="table1", title="Two forms of LoPT (Table 1)", info=compute, render=render, place=70, published=True
)
