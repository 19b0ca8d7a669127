"""What each method cost: trials, steps, tokens, time."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.cells import Group, method_label
from analysis.records import Trial
from analysis.registry import Missing, TableSpec
from analysis.render import Column, Table, count


@dataclass(frozen=True, kw_only=True)
class Row:
    method: str
    cells: int
    search: int
    confirm: int
    steps: int
    tokens: int
    hours: float


@dataclass(frozen=True, kw_only=True)
class Info:
    group: Group
    rows: tuple[Row, ...]


def compute(group: Group) -> Info | Missing:
    trials = [trial for trial in group.trials if trial.status != "failed"]
    if not trials:
        return Missing("no trial has ended yet")
    methods = dict.fromkeys(cell.method for cell in group.cells)
    rows = [_row(method, [t for t in trials if t.method == method]) for method in methods]
    return Info(group=group, rows=tuple(row for row in rows if row.search + row.confirm))


def _row(method: str, trials: list[Trial]) -> Row:
    return Row(
        method=method,
        cells=len({(t.cell, t.length, t.rank) for t in trials}),
        search=sum(t.phase == "search" for t in trials),
        confirm=sum(t.phase == "confirm" for t in trials),
        steps=sum(t.steps or 0 for t in trials),
        tokens=sum(t.tokens or 0 for t in trials),
        hours=sum(t.wall_time_s or 0.0 for t in trials) / 3600,
    )


def render(info: Info) -> Table:
    a_cell = {row.search / row.cells for row in info.rows if row.cells}
    return Table(
        caption=f"What it cost: {info.group.title}",
        columns=(
            Column(title="method", align="left"),
            Column(title="sizes"),
            Column(title="search trials"),
            Column(title="a size"),
            Column(title="confirm trials"),
            Column(title="steps"),
            Column(title="tokens"),
            Column(title="trial-hours"),
        ),
        rows=tuple(
            (
                method_label(row.method),
                count(row.cells),
                count(row.search),
                f"{row.search / row.cells:.1f}" if row.cells else "–",
                count(row.confirm),
                count(row.steps),
                count(row.tokens),
                f"{row.hours:.2f}",
            )
            for row in info.rows
        ),
        notes=(
            "Every size was tuned with the same number of trials."
            if len(a_cell) == 1
            else "Mind that the sizes were not all tuned with the same number of trials.",
            "Trial-hours add up the trials' own wall time; trials that share a device count it together.",
        ),
    )


SPEC = TableSpec(name="cost", title="What it cost", info=compute, render=render)
