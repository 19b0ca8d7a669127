"""Table 3 of the LoPT paper: LoPT-1 by prompt length n and rank r, against the full prompt of n=10."""

from __future__ import annotations

from dataclasses import dataclass

from analysis import published
from analysis.beside_published import VERDICTS, Beside, protocol, set_beside, verdicts
from analysis.cells import Group
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, change, count, interval, numbers
from analysis.stats import BOLD, Estimate, describe, standing_out

LEAST = 3  # cells: fewer are no table of length and rank


@dataclass(frozen=True, kw_only=True)
class Row:
    cell: str
    published_change: str
    published_percent: float
    parameters: int | None
    change: str
    ours: Estimate | None
    missing: str  # what to say where ours is None
    beside: Beside


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    rows: tuple[Row, ...]


def compute(group: Group) -> Info | Missing:
    points = published.table("table3")
    settings = {(point.method, point.length, point.rank) for point in points}
    if len(settings & {(cell.method, cell.length, cell.rank) for cell in group.cells}) < LEAST:
        return Missing(f"fewer than {LEAST} of Table 3's cells among the cells", quiet=True)
    full = next(point for point in points if point.method == "prompt_tuning")
    our_full = group.find("prompt_tuning", 10, None)
    base = our_full.trainable_parameters if our_full else None
    rows = []
    for point in points:
        cell = group.find(point.method, point.length, point.rank)
        ours = cell.accuracy if cell else None
        parameters = cell.trainable_parameters if cell else None
        rows.append(
            Row(
                cell=point.cell,
                published_change=change(point.trainable_parameters, full.trainable_parameters),
                published_percent=point.accuracy_percent,
                parameters=parameters,
                change=change(parameters, base) if parameters and base else "–",
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
        caption=f"Table 3 of the paper (LoPT-1 on GPT-2 large, SST-2) beside {info.group.title}",
        columns=(
            Column(title="cell", align="left"),
            *numbers(
                "Δ params, paper",
                "published %",
                "params, ours",
                "Δ params, ours",
                "ours % [95 % CI] (N)",
                "difference, pp",
            ),
            Column(title="verdict", align="left"),
        ),
        rows=tuple(
            (
                row.cell,
                row.published_change,
                f"{row.published_percent:.1f}",
                count(row.parameters),
                row.change,
                interval(row.ours, row.missing),
                row.beside.points,
                verdict,
            )
            for row, verdict in zip(info.rows, said, strict=True)
        ),
        notes=(
            "Δ is against the full prompt of n=10: 12,800 parameters in the paper, our own count in ours.",
            obstacle or VERDICTS,
            protocol(info.group),
            describe([row.ours for row in info.rows if row.ours]),
            BOLD if best is not None else "",
        ),
        bold=frozenset() if best is None else frozenset({(best, 5)}),
    )


SPEC = TableSpec(
    name="table3", title="Length and rank (Table 3)", info=compute, render=render, place=60, published=True
)
