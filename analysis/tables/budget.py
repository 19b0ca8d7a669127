"""Which cell to use within a budget of trainable parameters, and the line that loads its prompt."""

import json
from dataclasses import dataclass

from analysis.cells import Cell, Group
from analysis.frontier import best_within, round_budgets
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, accuracy_column, count, interval, parameters_column, percent
from analysis.stats import intervals_note
from lopt.locations import to_location


@dataclass(frozen=True, kw_only=True)
class Row:
    budget: int
    cell: Cell
    trial_key: str
    load_line: str
    has_artifact: bool  # whether the artifact that the line loads exists


def compute(group: Group) -> Info[Row] | Missing:
    parameter_counts = [cell.trainable_parameters or 0 for cell in group.confirmed_cells]
    if not parameter_counts:
        return Missing("no trial is confirmed yet, so there is nothing to recommend")
    rows: list[Row] = []
    for budget in round_budgets(min(parameter_counts), max(parameter_counts)):
        cell = best_within(group.confirmed_cells, budget)
        trial = cell.best_trial if cell else None
        if cell is None or trial is None or (rows and rows[-1].cell is cell):
            continue  # a larger budget that leads to the same cell needs no row
        artifact_path = f"{trial.run}/artifacts/{trial.key}"
        rows.append(
            Row(
                budget=budget,
                cell=cell,
                trial_key=trial.key,
                load_line=f"load_prompt({json.dumps(artifact_path, ensure_ascii=False)})",
                has_artifact=(to_location(trial.run) / "artifacts" / trial.key).is_dir(),
            )
        )
    return Info(group=group, rows=tuple(rows)) if rows else Missing("no confirmed trial has a held-out accuracy")


def render(info: Info[Row]) -> Table:
    missing_keys = ", ".join(row.trial_key for row in info.rows if not row.has_artifact)
    return Table.from_rows(
        info.rows,
        caption=f"What to use within a budget of parameters: {info.group.title}",
        columns=(
            Column(title="budget of parameters", csv_name="at most", text=lambda row: count(row.budget)),
            Column(title="cell to use", csv_name="use", align="left", text=lambda row: row.cell.label),
            parameters_column(lambda row: count(row.cell.trainable_parameters)),
            Column(
                title="held-out accuracy, %",
                csv_name="selection %",
                text=lambda row: percent(row.cell.selection_score),
            ),
            accuracy_column(lambda row: interval(row.cell.accuracy)),
            Column(title="load it with", align="left", code=True, text=lambda row: row.load_line),
        ),
        notes=(
            "The cell and its seed are chosen by held-out accuracy, never by test accuracy. A larger budget that leads "
            "to the same cell has no row.",
            intervals_note([row.cell.accuracy for row in info.rows if row.cell.accuracy]),
            f"These trials have no folder in artifacts/, so their lines load nothing: {missing_keys}."
            if missing_keys
            else "",
        ),
    )


SPEC = TableSpec(name="budget", title="What to use within a budget", info=compute, render=render, place=20)
