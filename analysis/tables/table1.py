"""Table 1 of the LoPT paper: full prompt, LoPT-1 and LoPT-2 at n=10, r=2 on GPT-2 large."""

from __future__ import annotations

from dataclasses import dataclass

from analysis import published
from analysis.beside_published import VERDICTS, Beside, protocol, set_beside, verdicts
from analysis.cells import Group
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count, interval, numbers
from analysis.stats import BOLD, Estimate, describe, standing_out


@dataclass(frozen=True, kw_only=True)
class Row:
    cell: str
    published_parameters: int
    sst2_percent: float
    ag_news_percent: float
    parameters: int | None
    ours: Estimate | None
    missing: str  # what to say where ours is None
    beside: Beside


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    rows: tuple[Row, ...]


def compute(group: Group) -> Info | Missing:
    if not any((cell.method, cell.length, cell.rank) == ("lopt2", 10, 2) for cell in group.cells):
        return Missing("no LoPT-2 n=10 r=2 among the cells", quiet=True)
    points = {(point.cell, point.task): point for point in published.table("table1")}
    rows = []
    for name in dict.fromkeys(name for name, _ in points):
        sst2, ag_news = points[name, "sst2"], points[name, "ag_news"]
        cell = group.find(sst2.method, sst2.length, sst2.rank)
        ours = cell.accuracy if cell else None
        point = points.get((name, group.task), sst2)
        rows.append(
            Row(
                cell=name,
                published_parameters=sst2.trainable_parameters,
                sst2_percent=sst2.accuracy_percent,
                ag_news_percent=ag_news.accuracy_percent,
                parameters=cell.trainable_parameters if cell else None,
                ours=ours,
                missing="not confirmed" if cell and cell.trials else "not run",
                beside=set_beside(group, cell, point),
            )
        )
    return Info(group=group, rows=tuple(rows))


def render(info: Info) -> Table:
    best = standing_out([row.ours for row in info.rows])
    said, obstacle = verdicts(row.beside for row in info.rows)
    return Table(
        caption=f"Table 1 of the paper (n=10, r=2 on GPT-2 large) beside {info.group.title}",
        columns=(
            Column(title="method", align="left"),
            *numbers(
                "params, paper",
                "published SST-2 %",
                "published AGNews %",
                "params, ours",
                "ours % [95 % CI] (N)",
                "difference, pp",
            ),
            Column(title="verdict", align="left"),
        ),
        rows=tuple(
            (
                row.cell,
                count(row.published_parameters),
                f"{row.sst2_percent:.1f}",
                f"{row.ag_news_percent:.1f}",
                count(row.parameters),
                interval(row.ours, row.missing),
                row.beside.points,
                verdict,
            )
            for row, verdict in zip(info.rows, said, strict=True)
        ),
        notes=(
            obstacle or VERDICTS,
            protocol(info.group),
            describe([row.ours for row in info.rows if row.ours]),
            BOLD if best is not None else "",
        ),
        bold=frozenset() if best is None else frozenset({(best, 5)}),
    )


SPEC = TableSpec(
    name="table1", title="Two forms of LoPT (Table 1)", info=compute, render=render, place=70, published=True
)
