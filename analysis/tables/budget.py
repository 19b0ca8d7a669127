"""What to use when at most so many parameters may be trained, and the line that loads it."""

import json
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.frontier import best_within, budgets
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count, interval, percent
from analysis.stats import describe
from lopt.locations import location


@dataclass(frozen=True, kw_only=True)
class Row:
    budget: int
    cell: Cell
    key: str
    load_line: str
    there: bool  # whether the artifact that the line loads is


def compute(group: Group) -> Info[Row] | Missing:
    sizes = [cell.trainable_parameters or 0 for cell in group.confirmed]
    if not sizes:
        return Missing("no confirmed trial yet: nothing to recommend")
    rows: list[Row] = []
    for budget in budgets(min(sizes), max(sizes)):
        cell = best_within(group.confirmed, budget)
        trial = cell.best_trial if cell else None
        if cell is None or trial is None or (rows and rows[-1].cell is cell):
            continue  # a larger budget that changes nothing is not worth a row
        path = f"{trial.run}/artifacts/{trial.key}"
        rows.append(
            Row(
                budget=budget,
                cell=cell,
                key=trial.key,
                load_line=f"load_prompt({json.dumps(path, ensure_ascii=False)})",
                there=(location(trial.run) / "artifacts" / trial.key).is_dir(),
            )
        )
    return Info(group=group, rows=tuple(rows)) if rows else Missing("no confirmed trial has a selection accuracy")


def render(info: Info[Row]) -> Table:
    gone = ", ".join(row.key for row in info.rows if not row.there)
    return Table.of(
        info.rows,
        caption=f"What to use within a budget of parameters: {info.group.title}",
        columns=(
            Column(title="at most", text=lambda row: count(row.budget)),
            Column(title="use", align="left", text=lambda row: row.cell.label),
            Column(title="params", text=lambda row: count(row.cell.trainable_parameters)),
            Column(title="selection %", text=lambda row: percent(row.cell.selection_score)),
            Column(title="test % [95 % CI] (N)", text=lambda row: interval(row.cell.accuracy)),
            Column(title="load it with", align="left", code=True, text=lambda row: row.load_line),
        ),
        notes=(
            "Cell and seed are chosen on selection accuracy (held out from training), never on the test split; "
            "a budget that changes nothing has no row.",
            describe([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
            f"Not in the run's artifacts/, so that its line loads nothing: {gone}." if gone else "",
        ),
    )


SPEC = TableSpec(name="budget", title="What to use within a budget", info=compute, render=render, place=20)
